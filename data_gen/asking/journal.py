"""An append-only file of JSON lines that survives being killed.

A line counts once its newline is there. A last line without one was torn by a kill or a full disk:
it is dropped, and whatever it recorded is done again.
"""

import errno
import fcntl
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Journal:
    """Open a journal for reading and appending.

    Args:
        path: The file; created where it does not exist.

    While another process has it open, one waits: the jobs of an array may all begin at once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"waiting for another process that writes {path}\n")
            fcntl.flock(self._file, fcntl.LOCK_EX)
        self._drop_torn_line()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def entries(self) -> Iterator[dict[str, Any]]:
        """Read all entries, oldest first.

        Raises:
            ValueError: A line is not a JSON object.
        """
        for number, line in enumerate(self._path.read_bytes().splitlines(), start=1):
            try:
                yield dict(json.loads(line))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{self._path}, line {number}: expected a JSON object") from error

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one entry through to the operating system.

        Raises:
            OSError: The disk is full.
        """
        line = json.dumps(entry).encode() + b"\n"
        if self._file.write(line) < len(line):  # what a disk does with the last bytes it has
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def _drop_torn_line(self) -> None:
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)

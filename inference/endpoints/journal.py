"""An append-only file of JSON lines that survives being killed.

A line counts once its newline is there. A last line without one was torn by a kill or a full disk:
it is dropped, and whatever it recorded is done again.
"""

import errno
import fcntl
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from inference.files import make_folder
from inference.outside import parse_object


class Journal:
    """Open a journal for reading and appending.

    Args:
        path: The file; created where it does not exist.

    While another process has it open, one waits: the jobs of an array may all begin at once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _opened(path)
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
        for number, line in enumerate(self.path.read_bytes().splitlines(), start=1):
            yield _entry(line, f"{self.path}, line {number}")

    @contextmanager
    def alone(self) -> Iterator[Iterable[dict[str, Any]]]:
        """Be the only one who writes, which is so anyway; nobody else has written anything."""
        yield ()

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one entry through to the operating system.

        Raises:
            OSError: The disk is full.
        """
        _append(self._file, entry, self.path)

    def _drop_torn_line(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)


class SharedJournal:
    """Open a journal that several processes write, of one machine or of a file system's.

    The file is locked for each entry alone. Whoever holds the lock first reads what others wrote.

    Args:
        path: The file; created where it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _opened(path)
        self._known = 0  # bytes

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def entries(self) -> Iterator[dict[str, Any]]:
        """Read all entries that are not known yet, oldest first.

        Raises:
            ValueError: A line is not a JSON object.
        """
        with self.alone() as entries:
            yield from entries

    @contextmanager
    def alone(self) -> Iterator[Iterable[dict[str, Any]]]:
        """Lock the file; gives the entries that others have written since the last time.

        Raises:
            ValueError: A line is not a JSON object.
        """
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield self._news()
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one entry through to the operating system, while alone.

        Raises:
            OSError: The disk is full.
        """
        self._known += _append(self._file, entry, self.path)

    def _news(self) -> list[dict[str, Any]]:
        with self.path.open("rb") as file:
            file.seek(self._known)
            content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # torn by a process that is no more, or it would hold the lock
            self._file.truncate(self._known + whole)
        where = f"{self.path}, after byte {self._known}"
        self._known += whole
        return [_entry(line, where) for line in content[:whole].splitlines()]


class NoJournal:
    """What is asked without a data set to keep the answers for; nothing is written."""

    path: Final = Path("no journal")

    def entries(self) -> Iterator[dict[str, Any]]:
        """There are none."""
        yield from ()

    @contextmanager
    def alone(self) -> Iterator[Iterable[dict[str, Any]]]:
        """Nobody else has written anything."""
        yield ()

    def append(self, entry: Mapping[str, Any]) -> None:
        """Forget an entry."""


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Read the entries of a journal that others may be writing, oldest first, without waiting.

    Raises:
        ValueError: A line is not a JSON object.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):  # the last may be on its way, or torn
                yield _entry(line, f"{path}, line {number}")


def _opened(path: Path) -> FileIO:
    """A file to read and append to, or the one that it links to; made where it is not there."""
    target = Path(os.path.realpath(path))
    make_folder(target.parent)
    return target.open("a+b", buffering=0)


def _entry(line: bytes, where: str) -> dict[str, Any]:
    return parse_object(line, where)


def _append(file: FileIO, entry: Mapping[str, Any], path: Path) -> int:
    line = json.dumps(entry).encode() + b"\n"
    if file.write(line) < len(line):  # what a disk does with the last bytes it has
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return len(line)

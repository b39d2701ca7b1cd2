"""Write files whole or not at all, and read the JSON lines that one stage leaves for the next."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on leaving, fsync it and rename it to ``path``.

    Whoever looks sees the old file or the whole new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def staged(root: Path, name: str) -> Iterator[Path]:
    """Give an empty folder to write in; on leaving, fsync its files and rename them into ``root``.

    The folder is the process's own, so that two jobs that make the same unit do not write into
    one file. On an exception nothing is moved.
    """
    folder = root / ".tmp" / f"{name}.{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                _move(path, root / path.relative_to(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for it; it is freed when the process ends, killed or not."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    _fsync(source)
    source.replace(target)
    _fsync(target.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file atomically, one newline after each line."""
    with written_atomically(path) as temporary, temporary.open("w") as file:
        file.writelines(f"{line}\n" for line in lines)


def read_lines(path: Path, parse: Callable[[str], T], *, stage: str) -> list[T]:
    """Read the records that a stage left, one JSON object a line.

    Args:
        path: The file.
        parse: Reads one line; raises ValueError where it cannot.
        stage: The stage that writes the file.

    Raises:
        FileNotFoundError: The stage has not run yet.
        ValueError: The file is empty, or a line is no record.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: run the {stage} stage first")
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            records.append(parse(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    if not records:
        raise ValueError(f"{path} is empty: run the {stage} stage again")
    return records

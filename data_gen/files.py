"""Write the files of a unit together, and read the JSON lines that a stage leaves for the next."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from inference.files import make_folder, move_durably, own_suffix
from inference.outside import read_records

T = TypeVar("T")


@contextmanager
def staged(root: Path, name: str) -> Iterator[Path]:
    """Give an empty folder to write in; on leaving, fsync its files and rename them into ``root``.

    The folder is the process's own, so that two jobs that make the same unit, on one machine or
    two, do not write into one file. On an exception nothing is moved.
    """
    folder = root / ".tmp" / f"{name}.{own_suffix()}"
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder.parent)
    folder.mkdir()
    try:
        yield folder
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                move_durably(path, root / path.relative_to(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_lines(path: Path, parse: Callable[[str], T], *, stage: str) -> list[T]:
    """Read the records that a stage left: one JSON object a line, or an array of them.

    Args:
        path: The file.
        parse: Reads one line; raises ValueError where it cannot.
        stage: The stage that writes the file.

    Raises:
        FileNotFoundError: The stage has not run yet.
        ValueError: The file is empty, or a line is no record.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: run the {stage} stage first")
    records = []
    for place, text in read_records(path):
        try:
            records.append(parse(text))
        except ValueError as error:
            raise ValueError(f"{path}, {place}: {error}") from error
    if not records:
        raise ValueError(f"{path} is empty: run the {stage} stage again")
    return records

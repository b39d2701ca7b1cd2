"""Captions from files: plain text, JSON lines, CSV, TSV and parquet.

Files are read as a stream, one line or one batch at a time. A row that cannot be read is found with
its fault, and the rest goes on; a file without one usable row is an error.
"""

import csv
import glob
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_gen.captions.sources import (
    WITHOUT_COLUMN,
    Advance,
    Column,
    Found,
    Source,
    check_type,
    choose_column,
    decoded,
    found_at,
    found_in_arrow,
)

MAX_LINE = 1 << 20
"""Bytes of a line, at most; a longer one is skipped without being held in memory."""

_TOO_LONG = f"a line of more than {MAX_LINE:,} bytes"
_LINES_PER_REPORT = 1000
_ROWS_PER_BATCH = 1024
_BROKEN = (OSError, EOFError, zlib.error, pa.ArrowException)

Reader = Callable[[Path, str | None, Advance], Iterator[Found]]


def open_files(pattern: Path, column: str | None) -> Source:
    """Prepare to read a file, or all files that a pattern such as ``captions/*.parquet`` matches.

    Args:
        pattern: The file or pattern.
        column: The column of the captions, see `choose_column`; None for files of plain text.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file's ending is not known.
    """
    paths = matching(pattern)
    readers = [(path, _reader(path)) for path in paths]

    def read(advance: Advance) -> Iterator[Found]:
        for path, reader in readers:
            yield from _usable(path, reader(path, column, advance))

    total = sum(path.stat().st_size for path in paths)
    return Source(name=str(pattern), total=total, unit="B", read=read)


def matching(pattern: Path) -> list[Path]:
    """List the files that a pattern matches, sorted; a file's own name matches that file.

    Raises:
        FileNotFoundError: There are none.
    """
    if pattern.exists():
        return [pattern]
    found = map(Path, glob.glob(str(pattern)))  # noqa: PTH207  # pathlib's is relative
    paths = sorted(path for path in found if not path.is_dir())
    if not paths:
        raise FileNotFoundError(f"no captions file at {pattern}")
    return paths


def _reader(path: Path) -> Reader:
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name the files in it, such as {path}/*.jsonl")
    *_, last_but_one, last = ["", "", *(suffix.lower() for suffix in path.suffixes)]
    ending = last_but_one + last if last == ".gz" else last
    if ending not in _READERS:
        known = ", ".join(_READERS)
        raise ValueError(f"{path}: captions come from files that end in {known}")
    return _READERS[ending]


def _usable(path: Path, found: Iterator[Found]) -> Iterator[Found]:
    """Pass on what a file holds.

    Raises:
        ValueError: That is nothing usable, or the file is damaged.
    """
    faults: Counter[str] = Counter()
    usable = False
    try:
        for one in found:
            if one.fault is None and one.text.strip():
                usable = True
            else:
                faults[one.fault or "empty"] += 1
            yield one
    except _BROKEN as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not usable:
        said = ", ".join(f"{number} x {fault}" for fault, number in faults.most_common(5))
        raise ValueError(f"no captions in {path}: {said or 'it has no rows'}")


def _read_text(path: Path, column: str | None, advance: Advance) -> Iterator[Found]:
    """One caption a line."""
    if column is not None:
        raise ValueError(f"{path} is plain text and has no column {column!r}: leave it out")
    for number, line in _lines(path, advance):
        where = f"{path}, line {number}"
        yield Found(where, "", _TOO_LONG) if line is None else decoded(where, line)


def _read_json_lines(path: Path, wanted: str | None, advance: Advance) -> Iterator[Found]:
    """One JSON object a line."""
    column: Column | None = None
    names: dict[str, None] = {}
    for number, line in _lines(path, advance):
        where = f"{path}, line {number}"
        found = Found(where, "", _TOO_LONG) if line is None else decoded(where, line.strip())
        if found.fault or not found.text:
            yield found
            continue
        row = _json_object(found.text)
        if row is None:
            yield Found(where, found.text, "not one JSON object")
            continue
        if column is None:
            names |= dict.fromkeys(row)
            if wanted is None or {wanted, wanted.split(".")[0]} & row.keys():
                column = choose_column(wanted, list(row), f"{path}, line {number}")
        if column is None or column.name not in row:
            yield Found(where, found.text, WITHOUT_COLUMN)
            continue
        yield from found_at(where, row[column.name], column.path)
    if names and column is None:
        choose_column(wanted, list(names), str(path))


def _json_object(text: str) -> dict[str, object] | None:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _read_csv(
    path: Path, wanted: str | None, advance: Advance, *, delimiter: str
) -> Iterator[Found]:
    """Rows below a header; a row with other than the header's number of fields is not trusted."""
    too_long: list[Found] = []

    def lines() -> Iterator[str]:
        for number, line in _lines(path, advance):
            if line is None:
                too_long.append(Found(f"{path}, line {number}", "", _TOO_LONG))
            else:
                yield line.decode("utf-8", "surrogateescape")

    column: Column | None = None
    header: list[str] = []
    for number, row in enumerate(_csv_rows(csv.reader(lines(), delimiter=delimiter, strict=True))):
        where = f"{path}, row {number}"
        if isinstance(row, csv.Error):
            yield Found(where, "", f"not a row of CSV: {row}")
        elif not row:
            continue  # an empty line
        elif column is None:
            header = row
            column = choose_column(wanted, header, f"{path}, whose first line is its header,")
        elif len(row) != len(header):
            yield Found(where, delimiter.join(row), "more or fewer fields than the header")
        else:
            text = row[header.index(column.name)]
            yield decoded(where, text.encode("utf-8", "surrogateescape"))
    yield from too_long


def _csv_rows(reader: Iterator[list[str]]) -> Iterator[list[str] | csv.Error]:
    """The rows of a reader; in place of one that it cannot read, its error."""
    while True:
        try:
            yield next(reader)
        except csv.Error as error:
            yield error
        except StopIteration:
            return


def _read_parquet(path: Path, wanted: str | None, advance: Advance) -> Iterator[Found]:
    """Batches of one column, the others unread."""
    with pq.ParquetFile(path) as file:
        column = choose_column(wanted, file.schema_arrow.names, str(path))
        check_type(file.schema_arrow.field(column.name).type, column, str(path))
        share = path.stat().st_size / max(1, file.metadata.num_rows)
        first = 1
        for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH, columns=[column.name]):
            yield from found_in_arrow(str(path), first, batch.column(0), column.path)
            first += batch.num_rows
            advance(round(share * batch.num_rows))


def _lines(path: Path, advance: Advance) -> Iterator[tuple[int, bytes | None]]:
    """The numbered lines of a file, compressed or not; None in place of one that is too long."""
    with path.open("rb") as raw, gzip.open(raw) if path.suffix.lower() == ".gz" else raw as file:
        at = 0
        for number in count(1):
            line = file.readline(MAX_LINE + 1)
            if number % _LINES_PER_REPORT == 0 or not line:
                advance(raw.tell() - at)
                at = raw.tell()
            if not line:
                return
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")  # a mark that spreadsheets write
            if len(line) <= MAX_LINE:
                yield number, line
                continue
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE)
            yield number, None


_LINE_READERS: dict[str, Reader] = {
    ".txt": _read_text,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".csv": partial(_read_csv, delimiter=","),
    ".tsv": partial(_read_csv, delimiter="\t"),
}
_READERS = (
    _LINE_READERS
    | {f"{ending}.gz": reader for ending, reader in _LINE_READERS.items()}
    | {".parquet": _read_parquet}
)

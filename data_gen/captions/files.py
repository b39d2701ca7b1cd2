"""Captions from files: plain text, JSON, CSV, TSV and parquet.

Files are read as a stream, one line or one batch at a time; a JSON array alone is read whole. A
line ends with a line feed, a carriage return, or the two together. A row that cannot be read is
found with its fault, and the rest goes on; a file without one usable row is an error.
"""

import csv
import glob
import gzip
import io
import re
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count, islice
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Self, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from data_gen.captions.sources import (
    NOT_UTF8,
    WITHOUT_COLUMN,
    Advance,
    Column,
    Found,
    Source,
    check_type,
    choose_column,
    found_at,
    found_in_arrow,
)
from inference.outside import MAX_BYTES, parse_json, parse_object, text_mark

MAX_LINE = 1 << 20
"""Characters of a line, at most; a longer one is skipped without being held in memory."""
MAX_ROW_LINES = 1000
"""Lines over which a quoted field of CSV may go."""

_TOO_LONG = f"a line of more than {MAX_LINE:,} characters"
_NO_CSV = "not a row of CSV"
_RAGGED = "more or fewer fields than the header"
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_LINES_PER_REPORT = 1000
_ROWS_PER_BATCH = 1024
_BROKEN = (OSError, EOFError, UnicodeDecodeError, zlib.error, pa.ArrowException)

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
        yield _found(f"{path}, line {number}", line)


def _found(where: str, text: str | None) -> Found:
    """A text of a file; None is a line that is too long."""
    if text is None:
        return Found(where, "", _TOO_LONG)
    if _SURROGATE.search(text):  # what the decoder makes of bytes that are no text
        return Found(where, text.encode("utf-8", "backslashreplace").decode(), NOT_UTF8)
    return Found(where, text)


def _read_json(path: Path, wanted: str | None, advance: Advance) -> Iterator[Found]:
    """One JSON object a line, or an array of them."""
    column: Column | None = None
    names: dict[str, None] = {}
    for where, row in _json_rows(path, advance):
        if isinstance(row, Found):
            yield row
            continue
        if column is None:
            names |= dict.fromkeys(row)
            if wanted is None or {wanted, wanted.split(".")[0]} & row.keys():
                column = choose_column(wanted, list(row), where)
        if column is None or column.name not in row:
            yield Found(where, str(row), WITHOUT_COLUMN)
            continue
        yield from found_at(where, row[column.name], column.path)
    if names and column is None:
        choose_column(wanted, list(names), str(path))


def _json_rows(path: Path, advance: Advance) -> Iterator[tuple[str, dict[str, object] | Found]]:
    """Each object with its place; in place of what is none, what was found."""
    if _is_array(path):
        for number, item in enumerate(_json_array(path), start=1):
            where = f"{path}, item {number}"
            no_object = Found(where, str(item), "not one JSON object")
            yield where, item if isinstance(item, dict) else no_object
        advance(path.stat().st_size)
        return
    for number, line in _lines(path, advance):
        where = f"{path}, line {number}"
        found = _found(where, line)
        if found.fault is None and found.text.strip():
            yield where, _json_object(found)
        else:
            yield where, found


def _json_object(found: Found) -> dict[str, object] | Found:
    try:
        return parse_object(found.text, found.where)
    except ValueError:
        return found._replace(fault="not one JSON object")


def _is_array(path: Path) -> bool:
    with _opened(path) as (_, text):
        return next((line for line in text if line.strip()), "").lstrip().startswith("[")


def _json_array(path: Path) -> list[object]:
    with _opened(path) as (_, file):
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise ValueError(
            f"{path} is a JSON array of more than {MAX_BYTES:,} characters: write one object a line"
        )
    found: list[object] = parse_json(text, str(path))
    return found


class _Row(NamedTuple):
    """A row of a table: its first line, how many lines it takes, and its fields, or a fault."""

    line: int
    lines: int
    fields: Sequence[str]
    fault: str | None = None


def _read_csv(path: Path, wanted: str | None, advance: Advance) -> Iterator[Found]:
    return _in_column(path, wanted, csv_rows(_lines(path, advance)))


def _read_tsv(path: Path, wanted: str | None, advance: Advance) -> Iterator[Found]:
    return _in_column(path, wanted, tsv_rows(_lines(path, advance)))


def _in_column(path: Path, wanted: str | None, rows: Iterable[_Row]) -> Iterator[Found]:
    """The captions below a header; a row with another number of fields is not trusted."""
    column: Column | None = None
    header: list[str] = []
    for row in rows:
        where = f"{path}, line {row.line}"
        if row.fault is not None:
            if column is None and row.fault != _TOO_LONG:
                raise ValueError(f"{where}, which is its header, is {row.fault}")
            yield Found(where, ",".join(row.fields), row.fault)
        elif not row.fields:
            yield Found(where, "")
        elif column is None:
            header = [*row.fields]
            column = choose_column(wanted, header, f"{path}, whose first line is its header,")
            if header.count(column.name) > 1:
                raise ValueError(f"{path} has several columns called {column.name!r}")
        elif len(row.fields) != len(header):
            yield Found(where, ",".join(row.fields), _RAGGED)
        else:
            yield _found(where, row.fields[header.index(column.name)])


def tsv_rows(lines: Iterable[tuple[int, str | None]]) -> Iterator[_Row]:
    """Rows of tab-separated values, one a line: they know no quoting."""
    for number, line in lines:
        if line is None:
            yield _Row(number, 1, (), _TOO_LONG)
        else:
            yield _Row(number, 1, line.split("\t") if line else ())


def csv_rows(lines: Iterable[tuple[int, str | None]]) -> Iterator[_Row]:
    """Rows of comma-separated values (RFC 4180), each line in just one of them.

    A quoted field may hold line ends. Where a quote is never closed, or closed in another row, its
    line is a broken row and the next line is read by itself, so that no line is swallowed.
    """
    numbered = _Lines(lines)
    width: int | None = None
    for number, line in numbered:
        if line is None:
            yield _Row(number, 1, (), _TOO_LONG)
            continue
        more: list[tuple[int, str | None]] = []
        try:
            fields = next(csv.reader(_record(line, numbered, more), strict=True))
        except csv.Error as error:
            numbered.put_back(more)
            yield _Row(number, 1, (line,), f"{_NO_CSV}: {error}")
            continue
        width = width or len(fields)
        if more and len(fields) != width:
            numbered.put_back(more)
            yield _Row(number, 1, (line,), f"{_NO_CSV}: a quote is not closed")
            continue
        yield _Row(number, 1 + len(more), fields)


def _record(line: str, numbered: "_Lines", more: list[tuple[int, str | None]]) -> Iterator[str]:
    """A line, and the lines after it as far as the parser asks for them; those are noted."""
    yield f"{line}\n"
    for number, text in islice(numbered, MAX_ROW_LINES - 1):
        more.append((number, text))
        if text is None:
            return
        yield f"{text}\n"


class _Lines:
    """Numbered lines, some of which can be put back."""

    def __init__(self, lines: Iterable[tuple[int, str | None]]) -> None:
        self._lines = iter(lines)
        self._waiting: deque[tuple[int, str | None]] = deque()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[int, str | None]:
        return self._waiting.popleft() if self._waiting else next(self._lines)

    def put_back(self, lines: Sequence[tuple[int, str | None]]) -> None:
        self._waiting.extendleft(reversed(lines))


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


def _lines(path: Path, advance: Advance) -> Iterator[tuple[int, str | None]]:
    """The numbered lines of a file, without their ends; None in place of one that is too long."""
    with _opened(path) as (raw, file):
        at = 0
        for number in count(1):
            line = file.readline(MAX_LINE + 1)
            if number % _LINES_PER_REPORT == 0 or not line:
                advance(raw.tell() - at)
                at = raw.tell()
            if not line:
                return
            text = line.rstrip("\r\n")
            if len(text) <= MAX_LINE:
                yield number, text
                continue
            while line and not line.endswith(("\n", "\r")):
                line = file.readline(MAX_LINE)
            yield number, None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, TextIO]]:
    """The file itself, and its text: UTF-8, or UTF-16 with its mark, compressed or not.

    Bytes that are no text become surrogates. Lines keep their ends, see `inference.outside`.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    with ExitStack() as stack:
        raw = stack.enter_context(path.open("rb"))
        packed = path.suffix.lower() == ".gz"
        file = stack.enter_context(gzip.open(raw)) if packed else raw
        mark, encoding = text_mark(file.peek(4))
        file.read(len(mark))
        errors = "surrogateescape" if encoding == "utf-8" else "surrogatepass"
        text = io.TextIOWrapper(file, encoding=encoding, errors=errors, newline="")
        yield raw, stack.enter_context(text)


_LINE_READERS: dict[str, Reader] = {
    ".txt": _read_text,
    ".json": _read_json,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}
_READERS = (
    _LINE_READERS
    | {f"{ending}.gz": reader for ending, reader in _LINE_READERS.items()}
    | {".parquet": _read_parquet}
)

"""What every source of captions has in common: texts found, each with the place where it stood.

A row may hold one caption, or a list of them as COCO's do: each is a caption of its own. What
cannot be read is found too, with its fault, so that it can be counted. ``caption_files`` and
``caption_datasets`` do the reading.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

USUAL_COLUMNS = ("caption", "captions", "text", "prompt")
"""Taken for the captions where no column is named, small letters or capitals."""

NOT_UTF8 = "not UTF-8 text"
WITHOUT_COLUMN = "without the column"
_NAMES_SHOWN = 20

Advance = Callable[[int], object]
"""Called with how much further the reading is, in the source's unit."""


class Found(NamedTuple):
    """A caption as it was found.

    Attributes:
        where: Its place, such as ``captions.csv, row 7``.
        text: The caption; where it cannot be read, what stood there.
        fault: Why it cannot be read; None where it can.
    """

    where: str
    text: str
    fault: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Captions to be read.

    Attributes:
        name: What errors call it.
        total: Its length in ``unit``; None where it is not known.
        unit: ``B`` for bytes or ``row``.
        read: Yields what it finds and reports how far it is.
    """

    name: str
    total: int | None
    unit: str
    read: Callable[[Advance], Iterator[Found]]


class Column(NamedTuple):
    """A column and, where it holds objects, the fields that lead to the captions."""

    name: str
    path: tuple[str, ...] = ()


def choose_column(wanted: str | None, names: Sequence[str], source: str) -> Column:
    """Find the column of the captions.

    Args:
        wanted: Its name, perhaps with fields of the objects in it: ``sentences.raw``. None takes
            the one of `names` that is called as captions usually are.
        names: The columns there are.
        source: What errors call the source.

    Raises:
        ValueError: There is no such column, or none or several are called as captions usually are.
    """
    there = ", ".join(repr(name[:60]) for name in names[:_NAMES_SHOWN])
    there += f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    if wanted is None:
        usual = [name for name in names if name.lower() in USUAL_COLUMNS]
        if len(usual) == 1:
            return Column(usual[0])
        raise ValueError(
            f"{source} has {'several columns' if usual else 'no column'} called "
            f"{' or '.join(USUAL_COLUMNS)}: name one with captions.column; its columns are {there}"
        )
    if wanted in names:
        return Column(wanted)
    head, *path = wanted.split(".")
    if head in names:
        return Column(head, tuple(path))
    raise ValueError(f"{source} has no column {wanted!r}; its columns are {there}")


def found_at(where: str, value: object, path: Sequence[str] = ()) -> Iterator[Found]:
    """Find the captions in one value of a column: a text, or a list of texts.

    Args:
        where: The value's place.
        value: As JSON or Arrow has it; bytes are taken for UTF-8.
        path: Fields that lead from it to the captions.
    """
    for item in value if isinstance(value, list) else [value]:
        if path:
            if isinstance(item, dict) and path[0] in item:
                yield from found_at(where, item[path[0]], path[1:])
            else:
                yield Found(where, repr(item), WITHOUT_COLUMN)
        elif item is None:
            yield Found(where, "")
        elif isinstance(item, bytes):
            yield decoded(where, item)
        elif isinstance(item, str):
            yield Found(where, item)
        else:
            yield Found(where, repr(item), "not text")


def decoded(where: str, text: bytes) -> Found:
    """Read UTF-8."""
    try:
        return Found(where, text.decode("utf-8"))
    except UnicodeDecodeError:
        return Found(where, text.decode("utf-8", "backslashreplace"), NOT_UTF8)


def found_in_arrow(
    source: str, first: int, column: pa.Array, path: Sequence[str]
) -> Iterator[Found]:
    """Find the captions in a piece of an Arrow column.

    Args:
        source: What the places are called after.
        first: Number of its first row.
        column: An array, chunked or not, of a type that `check_type` lets pass.
        path: Fields that lead to the captions.
    """
    for number, scalar in enumerate(column, start=first):
        where = f"{source}, row {number}"
        try:
            value = scalar.as_py()
        except UnicodeDecodeError:  # Arrow trusts a file that calls its bytes a string
            yield Found(where, "", NOT_UTF8)
        else:
            yield from found_at(where, value, path)


def check_type(kind: pa.DataType, column: Column, source: str) -> None:
    """Check that an Arrow column holds texts or lists of texts.

    Raises:
        ValueError: It does not; the message says what it holds.
    """
    kind = _item(kind)
    for field in column.path:
        if not pa.types.is_struct(kind) or kind.get_field_index(field) < 0:
            raise ValueError(f"{source}, column {column.name!r}: there is no field {field!r}")
        kind = _item(kind.field(field).type)
    if pa.types.is_struct(kind):
        fields = [field.name for field in kind]
        raise ValueError(
            f"{source}, column {column.name!r} holds objects with the fields {', '.join(fields)}: "
            f"name one of them, such as captions.column={column.name}.{fields[0]}"
        )
    if not _is_text(kind):
        raise ValueError(
            f"{source}, column {column.name!r} holds {kind}: expected text or lists of text"
        )


def _item(kind: pa.DataType) -> pa.DataType:
    """What a list holds, or a dictionary of repeated values; other types as they are."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if is_list or pa.types.is_fixed_size_list(kind) or pa.types.is_dictionary(kind):
        return kind.value_type
    return kind


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_null(kind):
        return True
    kind = _item(kind)
    is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return bool(is_string or is_bytes or pa.types.is_string_view(kind))

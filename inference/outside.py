"""Read text, JSON and YAML of others: sized, decoded and parsed, with errors that name the file.

The one door for them. Whatever is wrong with a file or a line, from a pipe in its place to JSON
that is nested 100,000 deep, is a `ValueError` in one sentence. What the fields mean is for the
reader of each format to check.
"""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, NoReturn

import yaml

MAX_BYTES: Final = 256 * 2**20
"""Files of text that are larger are not read: no configuration, list or table of ours is."""

MAX_YAML_BYTES: Final = 2**20
"""Recipes that are larger are not read."""

MAX_YAML_VALUES: Final = 100_000
"""What a recipe may hold once its aliases are written out."""

MAX_RECORDS_BYTES: Final = 16 * 2**30
"""Files of records, an object a line, that are larger are not read: they are held in memory."""

_LINE_END: Final = re.compile("\r\n|\n|\r")
_NOT_UTF8: Final = re.compile("[\udc80-\udcff]")
"""What `surrogateescape` makes of bytes that are no UTF-8; text that is holds none of it."""
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_text(path: Path, *, max_bytes: int = MAX_BYTES) -> str:
    """The text of a file in UTF-8, or in UTF-16 with its byte order mark; the mark is left out.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no regular file, too large, or no such text.
    """
    return decode(read_bytes(path, max_bytes=max_bytes), str(path))


def read_bytes(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a regular file; reading a pipe or a device could last for ever.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no regular file, or too large.
    """
    if not path.is_file():
        if path.exists():
            raise ValueError(f"{path} is not a regular file")
        raise FileNotFoundError(f"there is no file {path}")
    if (size := path.stat().st_size) > max_bytes:
        raise ValueError(f"{path} has {size:,} bytes; expected at most {max_bytes:,}")
    return path.read_bytes()


def decode(content: bytes, name: str, errors: str = "strict") -> str:
    """Bytes as text, as `read_text` takes them; `ValueError` names them by `name`."""
    mark, encoding = text_mark(content)
    try:
        return content[len(mark) :].decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not {encoding.upper()} text: byte {error.start + len(mark)} is "
            f"0x{error.object[error.start]:02x}"
        ) from error


def text_mark(start: bytes) -> tuple[bytes, str]:
    """The byte order mark that a text begins with, empty for none, and the text's encoding."""
    return next((m for m in _MARKS if start.startswith(m[0])), (b"", "utf-8"))


def split_lines(text: str) -> list[str]:
    """The lines of a text, which end with a line feed, a carriage return, or the two together.

    `str.splitlines` also ends them at form feeds and U+2028, which JSON and captions may hold.
    """
    lines = _LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


def read_records(path: Path, *, max_bytes: int = MAX_RECORDS_BYTES) -> Iterator[tuple[str, str]]:
    """The JSON texts of a file of JSON lines, or of one JSON array, whatever its name ends in.

    Empty lines are left out. Of a line that is not UTF-8, `parse_json` says so, so that a reader
    can pass over one line and read the next.

    Yields:
        The place of each, ``line 3`` or ``item 3``, and its text.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As `read_text`; or the file begins as an array and is none.
    """
    yield from split_records(read_bytes(path, max_bytes=max_bytes), str(path))


def split_records(content: bytes, name: str) -> Iterator[tuple[str, str]]:
    """The same of a file's bytes; errors name it by `name`."""
    text = decode(content, name, "surrogateescape")
    if text.lstrip(" \t\r\n").startswith("["):
        for number, item in enumerate(parse_json(text, name), start=1):
            yield f"item {number}", json.dumps(item)
        return
    for number, line in enumerate(split_lines(text), start=1):
        if line.strip():
            yield f"line {number}", line


def parse_json(content: str | bytes, name: str) -> Any:
    """A value of JSON, all of whose numbers are finite.

    Args:
        content: The JSON text.
        name: What it is, for the error: a file, or a file and its line.

    Raises:
        ValueError: It is not JSON, nested too deep, or holds a number that is not finite.
    """
    text = decode(content, name) if isinstance(content, bytes) else content
    if wrong := _NOT_UTF8.search(text):
        byte = ord(wrong[0]) - 0xDC00
        raise ValueError(f"{name} is not UTF-8 text: character {wrong.start()} is 0x{byte:02x}")
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"{name} is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"{name} is not JSON: {error}") from error


def parse_object(content: str | bytes, name: str) -> dict[str, Any]:
    """The object that a JSON text holds; errors as `parse_json`, and for any other value."""
    found = parse_json(content, name)
    if not isinstance(found, dict):
        raise ValueError(f"{name} holds a {_kind(found)}; expected an object")  # noqa: TRY004
    return found


def read_object(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The object that a JSON file holds; errors as `read_text` and `parse_object`."""
    return parse_object(read_text(path, max_bytes=max_bytes), str(path))


def parse_yaml(text: str, name: str) -> Any:
    """A value of YAML in which no key stands twice; aliases are counted as if written out.

    Raises:
        ValueError: It is not YAML, has a key twice, holds itself, or is too deep or too large.
    """
    try:
        loader = _YamlLoader(text)
        if (node := loader.get_single_node()) is None:
            return None
        _count_values(node, name, {})
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError(f"{name} is nested too deep") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not YAML: {' '.join(str(error).split())}") from error


class _YamlLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Takes dates for text, as jsonargparse does; the recursion of libyaml's has no limit."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in found if not tag.endswith(":timestamp")]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _count_values(node: yaml.Node, name: str, counts: dict[int, int | None]) -> int:
    """How many values a node holds, those behind aliases as often as they are named."""
    if id(node) in counts:
        if (known := counts[id(node)]) is None:
            raise ValueError(f"{name}, line {_line(node)}: a value refers to itself")
        return known
    counts[id(node)] = None
    found = 1
    if isinstance(node, yaml.MappingNode):
        _require_single_keys(node, name)
        found += sum(_count_values(value, name, counts) for _, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        found += sum(_count_values(value, name, counts) for value in node.value)
    if found > MAX_YAML_VALUES:
        raise ValueError(f"{name} holds more than {MAX_YAML_VALUES:,} values")
    counts[id(node)] = found
    return found


def _require_single_keys(mapping: yaml.MappingNode, name: str) -> None:
    lines: dict[str, int] = {}
    for key, _ in mapping.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"{name}, line {_line(key)}: a key is a {key.id}; expected text")  # noqa: TRY004
        if key.value in lines:
            raise ValueError(
                f"{name}, line {_line(key)}: the key {key.value!r} stands already in line "
                f"{lines[key.value]}"
            )
        lines[key.value] = _line(key)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        _refuse(text)
    return value


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number")


def _kind(value: object) -> str:
    kinds = {list: "list", str: "text", bool: "true or false", int: "number", float: "number"}
    return kinds.get(type(value), "null")

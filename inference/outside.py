"""Read text and JSON that others wrote: sized, decoded and parsed, with errors that name the file.

The one door for them. Whatever is wrong with a file or a line, from a pipe in its place to JSON
that is nested 100,000 deep, is a `ValueError` in one sentence. What the fields mean is for the
reader of each format to check.
"""

import codecs
import json
from pathlib import Path
from typing import Any, Final, NoReturn

MAX_BYTES: Final = 256 * 2**20
"""Files of text that are larger are not read: no configuration, list or table of ours is."""

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


def decode(content: bytes, name: str) -> str:
    """Bytes as text, as `read_text` takes them; `ValueError` names them by `name`."""
    mark, encoding = next((m for m in _MARKS if content.startswith(m[0])), (b"", "utf-8"))
    try:
        return content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not {encoding.upper()} text: byte {error.start + len(mark)} is "
            f"0x{error.object[error.start]:02x}"
        ) from error


def parse_json(content: str | bytes, name: str) -> Any:
    """A value of JSON, all of whose numbers are finite.

    Args:
        content: The JSON text.
        name: What it is, for the error: a file, or a file and its line.

    Raises:
        ValueError: It is not JSON, nested too deep, or holds a number that is not finite.
    """
    text = decode(content, name) if isinstance(content, bytes) else content
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

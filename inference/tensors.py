"""Read safetensors that others wrote, with errors that name the file.

The one door for them, as `outside` is for text and JSON. A file's header is read and checked before
a tensor is: its size, the number of its tensors, their dtypes and shapes. Which tensors there must
be is for the reader of each format to say, by `require_tensors`.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from inference.outside import parse_object

MAX_HEADER_BYTES: Final = 100_000_000
"""The format's own limit."""
MAX_TENSORS: Final = 100_000
"""Of a file; the largest models have some thousands."""
DTYPES: Final = frozenset(
    {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "BOOL"}
    | {f"{sign}{bits}" for sign in "IU" for bits in (8, 16, 32, 64)}
)
"""Those of which an element is a number: others are packed, or exponents of other tensors."""
_METADATA: Final = "__metadata__"
_LENGTH_BYTES: Final = 8


def read_tensors(path: Path, device: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file.

    Raises:
        ValueError: It is none, or holds what is not read.
        FileNotFoundError: There is no such file.
    """
    names, metadata = read_header(path)
    with _named(str(path)), safe_open(path, framework="pt", device=device) as file:
        return metadata, {name: file.get_tensor(name) for name in names}


def parse_tensors(content: bytes, name: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file that was read before.

    Args:
        content: Its bytes.
        name: What it is, for the error.

    Raises:
        ValueError: It is none, or holds what is not read.
    """
    _checked(content[_LENGTH_BYTES:][: _header_length(content, len(content), name)], name)
    with _named(name):
        return load(content)


def read_header(path: Path) -> tuple[list[str], dict[str, str]]:
    """Names of the tensors of a safetensors file, and its metadata; errors as `read_tensors`."""
    if not path.is_file():
        if path.exists():
            raise ValueError(f"{path} is not a regular file")
        raise FileNotFoundError(f"there is no file {path}")
    with path.open("rb") as file:
        length = _header_length(file.read(_LENGTH_BYTES), path.stat().st_size, str(path))
        return _checked(file.read(length), str(path))


def require_tensors(found: Iterable[str], expected: Iterable[str], name: str) -> None:
    """Raise `ValueError` where a tensor that a file must hold is missing.

    Args:
        found: Names that the file holds.
        expected: Names that it must hold.
        name: What it is, for the error.
    """
    if missing := sorted({*expected} - {*found}):
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ValueError(f"{name} lacks the tensor {missing[0]}{others}")


def _header_length(start: bytes, size: int, name: str) -> int:
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    if size < _LENGTH_BYTES or length > size - _LENGTH_BYTES:
        raise ValueError(
            f"{name} is not a safetensors file: it has {size:,} bytes, and its header alone "
            f"would have {length:,}"
        )
    if length > MAX_HEADER_BYTES:
        raise ValueError(
            f"{name} has a header of {length:,} bytes; expected at most {MAX_HEADER_BYTES:,}"
        )
    return length


def _checked(header: bytes, name: str) -> tuple[list[str], dict[str, str]]:
    entries = parse_object(header, f"the safetensors header of {name}")
    metadata = entries.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError(f"{name}: {_METADATA} of its header must map names to texts")
    if len(entries) > MAX_TENSORS:
        raise ValueError(f"{name} holds {len(entries):,} tensors; expected at most {MAX_TENSORS:,}")
    for tensor, entry in entries.items():
        _check_entry(entry, f"{name}: its tensor {tensor!r}")
    return list(entries), metadata


def _check_entry(entry: Any, tensor: str) -> None:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{tensor} is described by {entry!r:.50}; expected an object")  # noqa: TRY004
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{tensor} has dtype {dtype!r:.50}; expected one of {sorted(DTYPES)}")
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"{tensor} has shape {shape!r:.50}; expected whole numbers")


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{name} is not a safetensors file: {error}") from error

"""The layouts in which other people's edit data sets come, read one pair at a time.

Here are the interface and the layouts of named columns, a jsonl beside its pictures and whatever
``datasets`` loads; ``seeds_folder`` is InstructPix2Pix's own. A layout knows how many pairs it has
and gives each by position: first what is said of it, then, when it is wanted, the bytes of its two
pictures. Nothing here judges texts or pictures; what cannot even be found is `Refused`, with a
reason to count. ``imports`` makes a data set of it.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from data_gen.imports.config import TEXTS, Columns
from data_gen.records import Scores
from data_gen.shards.members import HEAD, MAX_MEMBER_BYTES, TAIL
from inference.outside import parse_object, read_records


class Refused(Exception):
    """A pair that will not be imported; the message is the reason, from a short list."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a layout says of one pair; a text that it does not say is empty.

    Attributes:
        prompt: What tells the pair's prompt apart where its texts do not.
        group: The data set's own word for what pairs of one prompt share; None where it has none.
        instruction, caption, edited_caption, edit_type, inverse_instruction: As in `EditTriplet`.
        seed, p, guidance, scores: As in `ImagePair`, None where they are not known.
        extra: What the data set says beyond that, kept word for word.
    """

    prompt: str
    group: str | None = None
    instruction: str
    caption: str = ""
    edited_caption: str = ""
    edit_type: str = ""
    inverse_instruction: str = ""
    seed: int | None = None
    p: float | None = None
    guidance: float | None = None
    scores: Scores | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class Ends(NamedTuple):
    """The first and the last bytes of a file, and how many it has."""

    head: bytes
    tail: bytes
    size: int


class Layout(Protocol):
    """A data set in some layout."""

    def __len__(self) -> int:
        """How many pairs it claims to have."""

    def where(self, position: int) -> str:
        """The place of a pair, for people: a row, a line, a folder and a seed."""

    def key(self, position: int) -> str:
        """What tells a pair from all others, unless it is listed twice."""

    def said(self, position: int) -> Said:
        """What it says of a pair; raises `Refused`."""

    def pictures(self, position: int) -> tuple[bytes, bytes]:
        """Source and edited picture of a pair, as files; raises `Refused`."""

    def ends(self, position: int) -> tuple["Ends", "Ends"]:
        """Source and edited picture's files as far as telling their sizes needs; see `pictures`."""

    def notes(self) -> list[str]:
        """What of the data set is not taken over, for people."""


def said_in_columns(row: Mapping[str, Any], columns: Mapping[str, str], prompt: str) -> Said:
    """Read a pair from a row of named values.

    Raises:
        Refused: A text is no text.
    """
    texts: dict[str, str] = {}
    for ours in TEXTS:
        value = row.get(columns[ours]) if ours in columns else None
        if value is not None and not isinstance(value, str):
            raise Refused(f"its {ours} is no text")
        texts[ours] = value or ""
    group = row.get(columns["group"]) if "group" in columns else None
    taken = {*columns.values()}
    extra = {name: value for name, value in row.items() if name not in taken}
    return Said(
        prompt=prompt,
        group=None if group is None else str(group),
        instruction=texts["instruction"],
        caption=texts["caption"],
        edited_caption=texts["edited_caption"],
        edit_type=texts["edit_type"],
        inverse_instruction=texts["inverse_instruction"],
        extra=extra,
    )


def read_below(root: Path, name: str) -> bytes:
    """Read a file that must lie below a folder, links followed.

    Raises:
        Refused: It lies elsewhere, is not there, cannot be read, or is larger than 64 MiB.
    """
    try:
        return _found_below(root, name).read_bytes()
    except (OSError, ValueError) as error:  # a name too long, with a null byte, not readable
        raise Refused("a file cannot be read") from error


def ends_below(root: Path, name: str) -> Ends:
    """The first and the last bytes of such a file; raises as `read_below`."""
    try:
        with _found_below(root, name).open("rb") as file:
            head = file.read(HEAD)
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - TAIL))
            return Ends(head, file.read(), size)
    except (OSError, ValueError) as error:
        raise Refused("a file cannot be read") from error


def _found_below(root: Path, name: str) -> Path:
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise Refused("a path leads out of the data set")
    if not path.is_file():
        raise Refused("a file is not there")
    if path.stat().st_size > MAX_MEMBER_BYTES:
        raise Refused("a file has more than 64 MiB")
    return path


class JsonLines:
    """A file of JSON objects, one a line or in an array, that name pictures in folders below it.

    Args:
        path: The file; the paths of pictures are relative to its folder.
        columns: Under which keys a line keeps what.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: No line has the keys asked for.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        self.root = path.parent
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        self._rows = [(place, _object(text)) for place, text in read_records(path)]
        found = {name for _, row in self._rows if row is not None for name in row}
        self._columns = columns.resolved(found, str(path))

    def __len__(self) -> int:
        return len(self._rows)

    def where(self, position: int) -> str:
        """The number of a line, or of an item of an array."""
        return self._rows[position][0]

    def key(self, position: int) -> str:
        """Two pictures and an instruction."""
        place, row = self._rows[position]
        names = ("source", "edited", "instruction")
        return repr([row.get(self._columns[ours]) for ours in names] if row else place)

    def said(self, position: int) -> Said:
        """Read a line."""
        _, row = self._rows[position]
        if row is None:
            raise Refused("a line is no JSON object")
        return said_in_columns(row, self._columns, str(row.get(self._columns["source"])))

    def pictures(self, position: int) -> tuple[bytes, bytes]:
        """Read the two files that a line names."""
        source, edited = (read_below(self.root, name) for name in self._names(position))
        return source, edited

    def ends(self, position: int) -> tuple[Ends, Ends]:
        """Read the ends of the two files."""
        source, edited = (ends_below(self.root, name) for name in self._names(position))
        return source, edited

    def _names(self, position: int) -> list[str]:
        _, row = self._rows[position]
        names = [(row or {}).get(self._columns[ours]) for ours in ("source", "edited")]
        if not all(isinstance(name, str) for name in names):
            raise Refused("a picture's path is no text")
        return [str(name) for name in names]

    def notes(self) -> list[str]:
        """Every key is taken over."""
        return []


def _object(text: str) -> dict[str, Any] | None:
    try:
        return parse_object(text, "a line")
    except ValueError:
        return None


class Table:
    """Whatever ``datasets`` loads: a name on the hub, a folder, a parquet file.

    Args:
        source: Name, folder or file.
        split: Which part of it.
        columns: Under which names it keeps what.

    Raises:
        FileNotFoundError: It is neither on the hub nor here.
        ValueError: It has no such split or columns, or is damaged.
    """

    def __init__(self, source: str, split: str, columns: Columns) -> None:
        import datasets  # late: it takes a second, and only this layout needs it

        path = Path(source)
        named = {"path": "parquet", "data_files": source} if path.suffix == ".parquet" else {}
        try:
            loaded = datasets.load_dataset(**({"path": source} | named), split=split)
        except (datasets.exceptions.DatasetsError, pa.ArrowException) as error:
            raise ValueError(f"{source} cannot be loaded: {error}") from error
        self._root = path if path.is_dir() else path.parent
        self._columns = columns.resolved(set(loaded.column_names), source)
        images = {
            name for name, kind in loaded.features.items() if isinstance(kind, datasets.Image)
        }
        for name in images:
            loaded = loaded.cast_column(name, datasets.Image(decode=False))
        pictures = {self._columns["source"], self._columns["edited"]}
        self._left_out = sorted(images - pictures)
        self._pictures = loaded.select_columns(sorted(pictures))
        texts = [name for name in loaded.column_names if name not in images | pictures]
        self._texts = loaded.select_columns(texts)

    def __len__(self) -> int:
        return len(self._pictures)

    def where(self, position: int) -> str:
        """The number of a row."""
        return f"row {position}"

    def key(self, position: int) -> str:
        """The same: equal rows would have to be decoded to be known."""
        return self.where(position)

    def said(self, position: int) -> Said:
        """Read a row without its pictures."""
        row = self._texts[position]
        return said_in_columns(row, self._columns, f"row {position}")

    def pictures(self, position: int) -> tuple[bytes, bytes]:
        """Read a row's pictures; only these are read."""
        row = self._pictures[position]
        return self._bytes(row, "source"), self._bytes(row, "edited")

    def ends(self, position: int) -> tuple[Ends, Ends]:
        """A row's pictures; they lie in memory that is mapped, so reading them whole is cheap."""
        source, edited = (Ends(one, one[-TAIL:], len(one)) for one in self.pictures(position))
        return source, edited

    def notes(self) -> list[str]:
        """Image columns beside the two."""
        return [f"the images of {name!r} are left out" for name in self._left_out]

    def _bytes(self, row: Mapping[str, Any], ours: str) -> bytes:
        value = row[self._columns[ours]]
        if isinstance(value, Mapping):  # as datasets keeps an image
            if value.get("bytes") is None and isinstance(value.get("path"), str):
                return read_below(self._root, value["path"])
            value = value.get("bytes")
        if not isinstance(value, bytes):
            raise Refused("a picture is missing")
        return value

"""Data sets as training reads them: shards, and other people's layouts without a conversion.

A reader knows its pairs by row. It can *look* at a pair, which costs little and finds what is
missing, mismatched or empty without decoding a picture, and *read* it. What cannot be used is a
`BadPair` with a reason from a short list, so that reasons can be counted.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from data_gen.imports.config import Columns, ForeignLayout, LayoutName
from data_gen.imports.layouts import Ends, Refused, Said
from data_gen.imports.opening import completed, opened
from data_gen.imports.pairs import ASPECTS_DIFFER, checked, triplet_of
from data_gen.imports.pictures import BadPicture, as_pixels
from data_gen.records import ImagePair, Scores
from data_gen.shards import IndexRow, ShardIndex
from data_gen.shards.cache import Cache
from data_gen.shards.members import (
    HEAD,
    JPEG_START,
    TAIL,
    ShardError,
    decode_image,
    described,
    ignored_profile,
    image_size,
    may_have_profile,
    seems_whole,
)
from data_gen.shards.places import read_places
from inference.progress import ProgressBar

_NUMBERS: Final = ("p", "guidance", *(item.name for item in fields(Scores)))


class BadPair(ValueError):
    """A pair that cannot be trained on.

    Attributes:
        reason: Why, from a short list.
        detail: What was found; may be empty.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


class Size(NamedTuple):
    """Of a picture, in pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a look at a pair tells; a text is None where it would have cost too much.

    Attributes:
        source, edited: Sizes of the pictures; None where an index of old does not say.
        instruction, inverse_instruction: The texts.
        notes: What of its pictures is ignored, see `profile_fault`.
    """

    source: Size | None
    edited: Size | None
    instruction: str | None = None
    inverse_instruction: str | None = None
    notes: tuple[str, ...] = ()


class Listing(Protocol):
    """The pairs of a data set by row, as far as a look goes."""

    @property
    def name(self) -> str:
        """The data set's path or address."""

    @property
    def groups(self) -> Sequence[str]:
        """Each pair's group."""

    @property
    def shards(self) -> Sequence[str]:
        """Where each pair lies: what is read together is cheap to read together."""

    @property
    def looks_within(self) -> bool:
        """Whether `look` sees the pairs themselves and not the index alone."""

    def __len__(self) -> int:
        """Number of pairs."""

    def where(self, row: int) -> str:
        """A pair's place, for people."""

    def key(self, row: int) -> str:
        """What no other pair of the set has."""

    def look(self, row: int) -> Look:
        """Look at a pair; raises `BadPair`."""

    def numbers(self) -> Mapping[str, NDArray[np.float64]]:
        """Scores and the like by name, each (N,); NaN is what is not known."""


class Reader(Listing, Protocol):
    """The same, with the pairs themselves."""

    def read(self, row: int) -> ImagePair:
        """Read a pair; raises `BadPair`."""

    def fetch(self, row: int) -> Callable[[], ImagePair]:
        """Read a pair's bytes; what comes back decodes them. Both raise `BadPair`."""


def open_pairs(
    path: str,
    *,
    layout: LayoutName = "shards",
    columns: Columns | None = None,
    split: str = "train",
    cache: Cache | None = None,
) -> Reader:
    """Open a data set.

    Args:
        path: Folder or URL of shards; else a jsonl, a folder, a parquet file, a name on a hub.
        layout: How it comes.
        columns: Names of its columns or keys; None takes those that the layout usually has.
        split: Which part of what `datasets` loads.
        cache: For shards behind a URL.

    Raises:
        FileNotFoundError: It, or a shard of it, is not there.
        ValueError: It is damaged, or has other columns.
    """
    if layout != "shards":
        return ForeignPairs(path, layout, columns, split)
    if columns is not None:
        raise ValueError(f"{path} is read as shards, which have no columns: set layout as well")
    return ShardPairs(path, cache)


def require_like(source: Size, edited: Size) -> None:
    """Raise `BadPair` where two pictures cannot be cut alike."""
    one, other = source.width * edited.height, edited.width * source.height
    if abs(one - other) > ASPECTS_DIFFER * max(one, other):
        raise BadPair("its pictures differ in aspect ratio", f"{source} and {edited}")


class _Glance(NamedTuple):
    """A picture's size, and what of its file is ignored."""

    size: Size
    note: str | None


def _look(glances: Sequence[_Glance], instruction: str, inverse_instruction: str) -> Look:
    source, edited = glances
    return Look(
        source=source.size,
        edited=edited.size,
        instruction=instruction,
        inverse_instruction=inverse_instruction,
        notes=tuple(one.note for one in glances if one.note is not None),
    )


# ---------------------------------------------------------------- shards


class ShardPairs:
    """Shards of this framework, here or behind a URL; see `ShardIndex`."""

    def __init__(self, root: str, cache: Cache | None = None) -> None:
        self.name = root
        self.index = ShardIndex(root, cache)
        self.index.require_complete()
        self.groups, self.shards = self.index.groups, self.index.shards
        self._keys = self.index.column("key").tolist()
        self.looks_within = self.index.store.is_local

    def __len__(self) -> int:
        return len(self.index)

    def where(self, row: int) -> str:
        """Shard and key."""
        return f"{self.shards[row]}, {self._keys[row]}"

    def key(self, row: int) -> str:
        """The key of its members."""
        return str(self._keys[row])

    def look(self, row: int) -> Look:
        """Read its JSON, and of its pictures the ends; behind a URL, the index alone."""
        found = self.index[row]
        if not self.looks_within:
            return Look(source=_size(found, "input"), edited=_size(found, "edited"))
        try:
            said = self._described(found)
            glances = [self._glance(found, name) for name in ("input", "edited")]
        except ShardError as error:
            raise BadPair("it is damaged", str(error)) from error
        return _look(
            glances, str(said["instruction"] or ""), str(said["inverse_instruction"] or "")
        )

    def read(self, row: int) -> ImagePair:
        """Read it through the index."""
        return self.fetch(row)()

    def fetch(self, row: int) -> Callable[[], ImagePair]:
        """See `Reader`."""
        with self._bad_pairs(row):
            decode = self.index.fetch(row)

        def decoded() -> ImagePair:
            with self._bad_pairs(row):
                return decode()

        return decoded

    @contextmanager
    def _bad_pairs(self, row: int) -> Iterator[None]:
        """Let what is wrong with a shard be said of its pair."""
        try:
            yield
        except ShardError as error:
            path = self.index.store.where(self.shards[row])
            raise BadPair("it is damaged", str(error).removeprefix(f"{path}, ")) from error

    def numbers(self) -> Mapping[str, NDArray[np.float64]]:
        """The index's columns of numbers."""
        return {name: self.index.column(name).astype(np.float64) for name in _NUMBERS}

    def _described(self, row: IndexRow) -> dict[str, Any]:
        place = {"json": (row.json_offset, row.json_size)}
        members = read_places(self.index.store, row.shard, row.key, place)
        return described(members["json"], row.key)

    def _glance(self, row: IndexRow, name: str) -> _Glance:
        """A picture's size, by its first bytes; the whole where its end does not look like one."""
        offset, length = getattr(row, f"{name}_offset"), getattr(row, f"{name}_size")
        store, stop = self.index.store, offset + length
        head = store.read(row.shard, offset, min(stop, offset + HEAD))
        tail = head if length <= HEAD else store.read(row.shard, stop - TAIL, stop)
        is_jpeg = head.startswith(JPEG_START)
        found = _size(row, name) or (_turned(image_size(head)) if is_jpeg else None)
        seen = bool(found) and is_jpeg and seems_whole(head, tail, length)
        if found and seen and not may_have_profile(head):
            return _Glance(found, None)
        place = {f"{name}.jpg": (offset, length)}
        content = read_places(store, row.shard, row.key, place)[f"{name}.jpg"]
        if not (found and seen):
            found = Size(*decode_image(content, f"{row.key}.{name}.jpg").shape[:2])
        return _Glance(found, ignored_profile(content))


def _size(row: IndexRow, name: str) -> Size | None:
    height, width = getattr(row, f"{name}_height"), getattr(row, f"{name}_width")
    return Size(height, width) if height and width else None


def _turned(size: tuple[int, int] | None) -> Size | None:
    """Width and height to `Size`."""
    return Size(size[1], size[0]) if size else None


# ---------------------------------------------------------------- other layouts


class ForeignPairs:
    """A data set in a layout that `imports` knows, read where it lies."""

    looks_within = True

    def __init__(
        self, source: str, layout: ForeignLayout, columns: Columns | None, split: str
    ) -> None:
        source, columns = completed(layout, source, columns)
        self.name, self._layout = source, opened(layout, source, columns, split)
        self._faults: dict[int, str] = {}
        self._numbers = np.full((len(_NUMBERS), len(self._layout)), np.nan)
        self.groups = [
            self._group(row)
            for row in ProgressBar(range(len(self)), desc=f"reading {source}", unit="pair")
        ]
        self.shards = [f"{row // 1000:09d}" for row in range(len(self))]

    def __len__(self) -> int:
        return len(self._layout)

    def where(self, row: int) -> str:
        """A line, a row, a folder and a seed."""
        return self._layout.where(row)

    def key(self, row: int) -> str:
        """See `Layout`."""
        return self._layout.key(row)

    def look(self, row: int) -> Look:
        """Read its texts again, and of its pictures the ends."""
        try:
            said = self._said(row)
            ends = self._layout.ends(row)
            glances = [self._glance(row, number, end) for number, end in enumerate(ends)]
        except (Refused, BadPicture) as error:
            raise BadPair(str(error)) from error
        return _look(glances, said.instruction, said.inverse_instruction)

    def read(self, row: int) -> ImagePair:
        """Read texts and pictures."""
        return self.fetch(row)()

    def fetch(self, row: int) -> Callable[[], ImagePair]:
        """See `Reader`."""
        try:
            said, pictures = self._said(row), self._layout.pictures(row)
        except (Refused, BadPicture) as error:
            raise BadPair(str(error)) from error
        return lambda: self._decoded(row, said, pictures)

    def _decoded(self, row: int, said: Said, pictures: tuple[bytes, bytes]) -> ImagePair:
        try:
            source, edited = map(as_pixels, pictures)
        except BadPicture as error:
            raise BadPair(str(error)) from error
        require_like(Size(*source.shape[:2]), Size(*edited.shape[:2]))
        return ImagePair(
            triplet=triplet_of(said),
            key=self.where(row),
            source=source,
            edited=edited,
            seed_index=said.seed or 0,
            branch=0,
            p=said.p,
            guidance=said.guidance,
            scores=said.scores,
        )

    def numbers(self) -> Mapping[str, NDArray[np.float64]]:
        """What a layout says of scores; of most, nothing."""
        known = ~np.isnan(self._numbers).all(axis=1)
        return {
            name: found
            for name, found, is_known in zip(_NUMBERS, self._numbers, known, strict=True)
            if is_known
        }

    def _group(self, row: int) -> str:
        """A pair's group; what cannot be used is noted, and is a group of its own."""
        try:
            said = checked(self._layout.said(row))
        except Refused as error:
            self._faults[row] = str(error)
            return f"row {row}"
        found = {"p": said.p, "guidance": said.guidance}
        found |= asdict(said.scores) if said.scores else {}
        self._numbers[:, row] = [
            np.nan if found.get(name) is None else found[name] for name in _NUMBERS
        ]
        return triplet_of(said).id

    def _said(self, row: int) -> Said:
        if row in self._faults:
            raise Refused(self._faults[row])
        return checked(self._layout.said(row))

    def _glance(self, row: int, number: int, ends: Ends) -> _Glance:
        found = _turned(image_size(ends.head))
        seen = bool(found) and seems_whole(*ends)
        if found and seen and not may_have_profile(ends.head):
            return _Glance(found, None)
        content = self._layout.pictures(row)[number]
        if not (found and seen):
            found = Size(*as_pixels(content).shape[:2])
        return _Glance(found, ignored_profile(content))

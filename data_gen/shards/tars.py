"""Shards: image pairs in plain tars that stock readers understand, and an index into them.

A shard is a tar in webdataset layout, three members a pair: ``<key>.input.jpg``,
``<key>.edited.jpg`` and ``<key>.json``. A parquet index says where each member's bytes lie, so
that training reads any pair at random. Reading trusts nothing: names are checked against an
allow-list, sizes before anything is read, pixels before anything is decoded, and nothing is ever
extracted or unpickled.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_gen.records import EditTriplet, ImagePair, Scores, Verdict
from data_gen.shards.cache import Cache
from data_gen.shards.index import INDEX_SCHEMA, SIZES, IndexRow, read_index
from data_gen.shards.members import (
    HEAD,
    MEMBERS,
    SCORES,
    ShardError,
    checked_name,
    decode_image,
    described,
    description,
    encode_jpeg,
    image_size,
    require_end,
)
from data_gen.shards.places import read_places, require_sizes
from data_gen.shards.stores import Folder, Remote, Store, open_store

if TYPE_CHECKING:
    import webdataset

# ---------------------------------------------------------------- writing


@contextmanager
def shard_writer(path: Path, provenance: Mapping[str, str]) -> Iterator["ShardWriter"]:
    """Open a shard for writing. The same pairs in the same order give the same bytes."""
    import webdataset  # who only reads shards does without

    with (
        path.open("wb") as file,
        webdataset.TarWriter(
            file, user="emend", group="emend", mode=0o644, mtime=0.0, encoder=False
        ) as tar,
    ):
        yield ShardWriter(tar, provenance)


class ShardWriter:
    """Adds pairs to an open tar.

    Attributes:
        pairs: How many it has added.
    """

    def __init__(self, tar: "webdataset.TarWriter", provenance: Mapping[str, str]) -> None:
        self._tar = tar
        self._provenance = provenance
        self.pairs = 0

    def write(self, *pairs: ImagePair) -> None:
        """Append scored pairs."""
        for pair in pairs:
            if pair.scores is None:
                raise ValueError(
                    f"pair {pair.key} has no scores: only scored pairs go into a shard"
                )
            said = description(pair, self._provenance)
            self._add(said, encode_jpeg(pair.source), encode_jpeg(pair.edited))

    def write_rejected(self, verdict: Verdict) -> None:
        """Append a scored pair that was not kept; its JSON also says the reason."""
        said = description(verdict.pair, self._provenance) | {"reason": verdict.reason}
        self._add(said, encode_jpeg(verdict.pair.source), encode_jpeg(verdict.pair.edited))

    def write_imported(
        self, pair: ImagePair, source: bytes, edited: bytes, provenance: Mapping[str, str]
    ) -> None:
        """Append a pair that others made: its images are JPEGs already, it may lack scores."""
        self._add(description(pair, {**self._provenance, **provenance}), source, edited)

    def copy(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append a pair as it stands in another shard: extension -> bytes."""
        self._tar.write({"__key__": key, **members})
        self.pairs += 1

    def _add(self, said: Mapping[str, Any], source: bytes, edited: bytes) -> None:
        content = json.dumps(said, indent=1, allow_nan=False).encode()
        self.copy(said["key"], {"input.jpg": source, "edited.jpg": edited, "json": content})


def scan_shard(path: Path, name: str, faults: list[ShardError] | None = None) -> list[IndexRow]:
    """Read a whole tar's headers and descriptions and index its pairs.

    Args:
        path: The tar.
        name: What the index shall call it, relative to the index.
        faults: Gets what is wrong with a pair, which is then left out; None raises it.

    Raises:
        ShardError: The tar is truncated, or holds anything but complete pairs.
    """
    require_end(path)
    members: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, extension = checked_name(member, path)
                if members.setdefault(key, {}).setdefault(extension, member) is not member:
                    raise ShardError(f"{path} holds {member.name} twice")
    except tarfile.TarError as error:
        raise ShardError(f"{path} is no tar: {error}") from error
    rows = []
    with path.open("rb") as file:
        for key, found in members.items():
            try:
                rows.append(_index_row(path, name, key, found, file))
            except ShardError as error:
                if faults is None:
                    raise
                faults.append(error)
    return rows


def _index_row(
    path: Path, name: str, key: str, found: Mapping[str, tarfile.TarInfo], file: io.BufferedReader
) -> IndexRow:
    if set(found) != set(MEMBERS):
        raise ShardError(f"{path}: {key} has {sorted(found)}, expected {sorted(MEMBERS)}")
    edited, source, said = (found[extension] for extension in MEMBERS)
    file.seek(said.offset_data)
    pair = described(file.read(said.size), f"{path}, {key}")
    sizes = [*_size(file, source), *_size(file, edited)]
    return IndexRow(
        key=key,
        group=pair["group"],
        shard=name,
        edit_type=pair["edit_type"],
        seed_index=pair["seed_index"],
        branch=pair["branch"],
        p=pair["p"],
        guidance=pair["guidance"],
        **{score: pair["scores"].get(score) for score in SCORES},
        input_offset=source.offset_data,
        input_size=source.size,
        edited_offset=edited.offset_data,
        edited_size=edited.size,
        json_offset=said.offset_data,
        json_size=said.size,
        **dict(zip(SIZES, sizes, strict=True)),
    )


def _size(file: io.BufferedReader, member: tarfile.TarInfo) -> tuple[int | None, int | None]:
    file.seek(member.offset_data)
    return image_size(file.read(min(member.size, HEAD))) or (None, None)


# ---------------------------------------------------------------- reading


class ShardIndex:
    """All pairs of a data set, by position.

    Args:
        root: The folder with ``index.parquet``; shards lie below it. Or its URL.
        cache: Where shards behind a URL are kept; None reads them by byte ranges.

    Raises:
        FileNotFoundError: There is no index.
        ShardError: It is no index.
        ValueError: The URL is none that is read here.
    """

    def __init__(self, root: str | Path, cache: Cache | None = None) -> None:
        self.store = open_store(root, cache)
        self._table, digests = read_index(self.store)
        if isinstance(self.store, Remote):
            self.store.expect(digests)
        self._columns = {name: self._table[name].combine_chunks() for name in INDEX_SCHEMA.names}

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, position: int) -> IndexRow:
        place = range(len(self))[position]
        return IndexRow(**{name: found[place].as_py() for name, found in self._columns.items()})

    @property
    def groups(self) -> list[str]:
        """Each pair's group, in the order of positions."""
        return [str(group) for group in self._table.column("group").to_pylist()]

    @property
    def shards(self) -> list[str]:
        """Each pair's shard, in the order of positions."""
        return [str(shard) for shard in self._table.column("shard").to_pylist()]

    def column(self, name: str) -> "NDArray[Any]":
        """One column of the index, (N,); of numbers, NaN is what is not known."""
        return np.asarray(self._columns[name].to_numpy(zero_copy_only=False))

    def require_complete(self) -> None:
        """Look at the size of every shard, so that a missing byte is found before work begins.

        Raises:
            FileNotFoundError: A shard is not there.
            ShardError: A shard is shorter than its pairs, or several are not as they should be.
        """
        ends = pc.add(self._table["json_offset"], self._table["json_size"])
        table = self._table.append_column("end", ends)
        lengths = table.group_by("shard").aggregate([("end", "max")]).to_pylist()
        require_sizes(self.store, {row["shard"]: row["end_max"] for row in lengths})

    def read(self, position: int) -> ImagePair:
        """Read one pair; see `read_pair`."""
        return self.fetch(position)()

    def fetch(self, position: int) -> Callable[[], ImagePair]:
        """Read one pair's bytes; what comes back decodes them. Both raise as `read_pair` does."""
        return _fetched(self.store, self[position])


def read_pair(root: Path, row: IndexRow) -> ImagePair:
    """Read one pair at the place the index gives.

    Args:
        root: Folder of the index.
        row: The pair's row.

    Returns:
        The pair, images as (H, W, 3) uint8.

    Raises:
        FileNotFoundError: The shard is not there.
        ShardError: The shard is truncated, is not the one that was indexed, or holds no such
            images.
    """
    return _fetched(Folder(root), row)()


def _fetched(store: Store, row: IndexRow) -> Callable[[], ImagePair]:
    path = store.where(row.shard)
    members = members_of(store, row)
    pair = described(members["json"], f"{path}, {row.key}")
    texts = {item.name: pair[item.name] or "" for item in fields(EditTriplet) if item.name != "id"}
    scored = any(score is not None for score in pair["scores"].values())
    return lambda: ImagePair(
        triplet=EditTriplet(id=row.group, **texts),
        key=row.key,
        source=decode_image(members["input.jpg"], f"{path}, {row.key}.input.jpg"),
        edited=decode_image(members["edited.jpg"], f"{path}, {row.key}.edited.jpg"),
        seed_index=row.seed_index,
        branch=row.branch,
        p=row.p,
        guidance=row.guidance,
        scores=Scores(**pair["scores"]) if scored else None,
    )


def read_members(root: Path, row: IndexRow) -> dict[str, bytes]:
    """Read a pair's files as they stand in the shard, extension -> bytes; see `read_pair`."""
    return members_of(Folder(root), row)


def members_of(store: Store, row: IndexRow) -> dict[str, bytes]:
    """The same, wherever the shard lies."""
    places = {
        "input.jpg": (row.input_offset, row.input_size),
        "edited.jpg": (row.edited_offset, row.edited_size),
        "json": (row.json_offset, row.json_size),
    }
    return read_places(store, row.shard, row.key, places)

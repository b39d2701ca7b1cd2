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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import webdataset
from numpy.typing import NDArray

from data_gen.records import EditTriplet, ImagePair, Scores
from data_gen.shards.members import (
    HEAD,
    LATER_SCORES,
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
from data_gen.shards.stores import (
    Cache,
    Folder,
    Remote,
    Store,
    open_store,
    read_places,
    require_size,
)

INDEX_FILE = "index.parquet"


@dataclass(frozen=True, kw_only=True)
class IndexRow:
    """One pair in the index; None is what is not known of an imported pair.

    Attributes:
        key: The pair's key.
        group: Id of its triplet; sampling and splits go by group.
        shard: Path of the tar, relative to the index, with forward slashes.
        edit_type: Kind of edit.
        seed_index, branch, p, guidance: As in `ImagePair`.
        image_image, text_source, text_edited, directional, surprise, aesthetic, dino, judge,
            unsafe: As in `Scores`.
        input_offset, input_size: Where the source image's bytes lie in the tar.
        edited_offset, edited_size: The edited image's.
        json_offset, json_size: The description's.
        input_width, input_height, edited_width, edited_height: Sizes in pixels; None in an index
            that was written before they were noted, or of a picture that does not tell.
    """

    key: str
    group: str
    shard: str
    edit_type: str | None
    seed_index: int
    branch: int
    p: float | None
    guidance: float | None
    image_image: float | None
    text_source: float | None
    text_edited: float | None
    directional: float | None
    surprise: float | None
    aesthetic: float | None
    dino: float | None
    judge: float | None
    unsafe: float | None
    input_offset: int
    input_size: int
    edited_offset: int
    edited_size: int
    json_offset: int
    json_size: int
    input_width: int | None = None
    input_height: int | None = None
    edited_width: int | None = None
    edited_height: int | None = None


_ARROW_TYPES: dict[object, Any] = {
    str: pa.string(),
    str | None: pa.string(),
    int: pa.int64(),
    int | None: pa.int64(),
    float | None: pa.float64(),
}
INDEX_SCHEMA = pa.schema([(item.name, _ARROW_TYPES[item.type]) for item in fields(IndexRow)])
SIZES = ("input_width", "input_height", "edited_width", "edited_height")
_LATER = {*LATER_SCORES, *SIZES}
_DIGESTS = b"sha256"


# ---------------------------------------------------------------- writing


@contextmanager
def shard_writer(path: Path, provenance: Mapping[str, str]) -> Iterator["ShardWriter"]:
    """Open a shard for writing. The same pairs in the same order give the same bytes."""
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


def scan_shard(path: Path, name: str) -> list[IndexRow]:
    """Read a whole tar's headers and descriptions and index its pairs.

    Args:
        path: The tar.
        name: What the index shall call it, relative to the index.

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
    with path.open("rb") as file:
        return [_index_row(path, name, key, found, file) for key, found in members.items()]


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


def write_index(
    path: Path, rows: Sequence[IndexRow], digests: Mapping[str, str] | None = None
) -> None:
    """Write rows as parquet, with the SHA-256 of the shards by name where they are known."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=INDEX_SCHEMA)
    pq.write_table(with_digests(table, digests or {}), path)


def with_digests(table: "pa.Table", digests: Mapping[str, str]) -> "pa.Table":
    """Note the SHA-256 of shards, by name, in an index."""
    return table.replace_schema_metadata({_DIGESTS: json.dumps(digests)})


# ---------------------------------------------------------------- reading


class ShardIndex:
    """All pairs of a data set, by position, or those whose scores keep to some bounds.

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
        faults: list[Exception] = []
        for row in lengths:
            try:
                require_size(self.store, row["shard"], row["end_max"])
            except (OSError, ShardError) as error:
                faults.append(error)
        if len(faults) == 1:
            raise faults[0]
        if faults:
            said = "".join(f"\n  {fault}" for fault in faults)
            raise ShardError(f"{len(faults)} of {len(lengths)} shards cannot be read:{said}")

    def read(self, position: int) -> ImagePair:
        """Read one pair; see `read_pair`."""
        return _pair(self.store, self[position])


def read_index(store: Store) -> tuple["pa.Table", dict[str, str]]:
    """The table of a data set's index, and the SHA-256 of its shards as far as they are known.

    Raises:
        FileNotFoundError: There is no index.
        ShardError: It is damaged or has other columns.
    """
    path = store.where(INDEX_FILE)
    try:
        content = store.whole(INDEX_FILE)
    except FileNotFoundError:
        raise FileNotFoundError(_NO_INDEX.format(path)) from None
    table = _parsed(pa.BufferReader(content), path, INDEX_SCHEMA)
    metadata = table.schema.metadata or {}
    return table, json.loads(metadata.get(_DIGESTS, b"{}"))


def read_table(path: Path, schema: "pa.Schema") -> "pa.Table":
    """Read a parquet file that must have this schema; what older files lack is null.

    Those are the scores and sizes that were not known yet when they were written.

    Raises:
        FileNotFoundError: There is no such file.
        ShardError: It is damaged or has other columns.
    """
    if not path.is_file():
        raise FileNotFoundError(_NO_INDEX.format(path))
    return _parsed(path, str(path), schema)


_NO_INDEX = "no index at {}: the data set is not finished, or not there"


def _parsed(source: Any, path: str, schema: "pa.Schema") -> "pa.Table":
    try:
        table = pq.read_table(source)
    except pa.ArrowException as error:
        raise ShardError(f"{path} is no parquet file, or is truncated: {error}") from error
    for position, column in enumerate(schema):
        if column.name in _LATER and column.name not in table.schema.names:
            table = table.add_column(position, column, pa.nulls(len(table), column.type))
    if not table.schema.equals(schema):
        raise ShardError(f"{path} has the columns {table.schema.names}, expected {schema.names}")
    return table


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
    return _pair(Folder(root), row)


def _pair(store: Store, row: IndexRow) -> ImagePair:
    path = store.where(row.shard)
    members = members_of(store, row)
    pair = described(members["json"], f"{path}, {row.key}")
    texts = {item.name: pair[item.name] or "" for item in fields(EditTriplet) if item.name != "id"}
    scored = any(score is not None for score in pair["scores"].values())
    return ImagePair(
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

"""Shards: image pairs in plain tars that stock readers understand, and an index into them.

A shard is a tar in webdataset layout, three members a pair: ``<key>.input.jpg``,
``<key>.edited.jpg`` and ``<key>.json``. A parquet index says where each member's bytes lie, so
that training reads any pair at random. Reading trusts nothing: names are checked against an
allow-list, sizes before anything is read, pixels before anything is decoded, and nothing is ever
extracted or unpickled.
"""

import io
import json
import math
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import webdataset

from data_gen.records import EditTriplet, ImagePair, Scores
from data_gen.shards.bounds import ScoreBounds
from data_gen.shards.members import (
    BLOCK,
    LATER_SCORES,
    MAX_MEMBER_BYTES,
    MEMBERS,
    SCORES,
    ShardError,
    checked_name,
    decode_image,
    described,
    encode_jpeg,
    require_end,
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


_ARROW_TYPES: dict[object, Any] = {
    str: pa.string(),
    str | None: pa.string(),
    int: pa.int64(),
    float | None: pa.float64(),
}
INDEX_SCHEMA = pa.schema([(item.name, _ARROW_TYPES[item.type]) for item in fields(IndexRow)])


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
            description = _description(pair, self._provenance)
            self._add(description, encode_jpeg(pair.source), encode_jpeg(pair.edited))

    def write_imported(
        self, pair: ImagePair, source: bytes, edited: bytes, provenance: Mapping[str, str]
    ) -> None:
        """Append a pair that others made: its images are JPEGs already, it may lack scores."""
        self._add(_description(pair, {**self._provenance, **provenance}), source, edited)

    def copy(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append a pair as it stands in another shard: extension -> bytes."""
        self._tar.write({"__key__": key, **members})
        self.pairs += 1

    def _add(self, description: Mapping[str, Any], source: bytes, edited: bytes) -> None:
        content = json.dumps(description, indent=1, allow_nan=False).encode()
        self.copy(description["key"], {"input.jpg": source, "edited.jpg": edited, "json": content})


def _description(pair: ImagePair, provenance: Mapping[str, str]) -> dict[str, Any]:
    """A pair's JSON: every field in every pair, null where it is not known or not a number."""
    texts = {name: text or None for name, text in asdict(pair.triplet).items()}
    found = asdict(pair.scores) if pair.scores else dict.fromkeys(SCORES)
    return {
        "key": pair.key,
        "group": texts.pop("id"),
        **texts,
        "seed_index": pair.seed_index,
        "branch": pair.branch,
        "p": pair.p,
        "guidance": pair.guidance,
        "scores": {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in found.items()
        },
        "provenance": dict(provenance),
    }


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
    edited, source, description = (found[extension] for extension in MEMBERS)
    file.seek(description.offset_data)
    pair = described(file.read(description.size), f"{path}, {key}")
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
        json_offset=description.offset_data,
        json_size=description.size,
    )


def write_index(path: Path, rows: Sequence[IndexRow]) -> None:
    """Write rows as parquet."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=INDEX_SCHEMA)
    pq.write_table(table, path)


# ---------------------------------------------------------------- reading


class ShardIndex:
    """All pairs of a data set, by position, or those whose scores keep to some bounds.

    Args:
        root: The folder with ``index.parquet``; shards lie below it.
        scores: The bounds.

    Raises:
        FileNotFoundError: There is no index.
        ShardError: It is no index.
    """

    def __init__(self, root: str | Path, scores: ScoreBounds | None = None) -> None:
        self.root = Path(root)
        table = read_table(self.root / INDEX_FILE, INDEX_SCHEMA)
        self._table = table if scores is None else scores.of(table)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, position: int) -> IndexRow:
        row = self._table.slice(range(len(self))[position], 1).to_pylist()[0]
        return IndexRow(**row)

    @property
    def groups(self) -> list[str]:
        """Each pair's group, in the order of positions."""
        return [str(group) for group in self._table.column("group").to_pylist()]

    @property
    def shards(self) -> list[str]:
        """Each pair's shard, in the order of positions."""
        return [str(shard) for shard in self._table.column("shard").to_pylist()]

    def scores(self, name: str) -> list[float | None]:
        """Each pair's score of that name, in the order of positions; None where unknown."""
        scores: list[float | None] = self._table.column(name).to_pylist()
        return scores

    def require_complete(self) -> None:
        """Look at the size of every shard, so that a missing byte is found before work begins.

        Raises:
            FileNotFoundError: A shard is not there.
            ShardError: A shard is shorter than its pairs.
        """
        ends = pc.add(self._table["json_offset"], self._table["json_size"])
        lengths = (
            self._table.append_column("end", ends).group_by("shard").aggregate([("end", "max")])
        )
        for row in lengths.to_pylist():
            path = _shard_path(self.root, row["shard"])
            if path.stat().st_size < row["end_max"]:
                raise ShardError(
                    f"{path} is truncated: {path.stat().st_size} bytes of at least {row['end_max']}"
                )

    def read(self, position: int) -> ImagePair:
        """Read one pair; see `read_pair`."""
        return read_pair(self.root, self[position])


def read_table(path: Path, schema: "pa.Schema") -> "pa.Table":
    """Read a parquet file that must have this schema; scores that it does not know are null.

    Raises:
        FileNotFoundError: There is no such file.
        ShardError: It is damaged or has other columns.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no index at {path}: the data set is not finished, or not there")
    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise ShardError(f"{path} is no parquet file, or is truncated: {error}") from error
    for position, column in enumerate(schema):
        if column.name in LATER_SCORES and column.name not in table.schema.names:
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
    path = _shard_path(root, row.shard)
    members = read_members(root, row)
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
    path = _shard_path(root, row.shard)
    places = {
        "input.jpg": (row.input_offset, row.input_size),
        "edited.jpg": (row.edited_offset, row.edited_size),
        "json": (row.json_offset, row.json_size),
    }
    with path.open("rb") as file:
        return {
            extension: _member(file, path, f"{row.key}.{extension}", offset, size)
            for extension, (offset, size) in places.items()
        }


def _shard_path(root: Path, shard: str) -> Path:
    name = PurePosixPath(shard)
    if name.is_absolute() or ".." in name.parts or name.suffix != ".tar":
        raise ShardError(f"the index names {shard!r}, which is no tar below it")
    if not (root / name).is_file():
        raise FileNotFoundError(f"the index names {root / name}, which is not there")
    return root / name


def _member(file: io.BufferedReader, path: Path, name: str, offset: int, size: int) -> bytes:
    """Read a member's bytes, checking them against the tar header that precedes them."""
    if not 0 <= size <= MAX_MEMBER_BYTES or offset < BLOCK:
        raise ShardError(f"the index gives {name} {size} bytes at {offset} of {path}")
    file.seek(offset - BLOCK)
    block, content = file.read(BLOCK), file.read(size)
    if len(content) < size:
        raise ShardError(f"{path} is truncated: {name} ends before its {size} bytes")
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise ShardError(f"{path} is not what was indexed: no header before {name}") from error
    if not header.isreg() or (header.name, header.size) != (name, size):
        raise ShardError(f"{path} is not what was indexed: {header.name!r} where {name} should be")
    return content

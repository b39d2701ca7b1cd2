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
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import webdataset
from PIL import Image, UnidentifiedImageError

from data_gen.records import EditTriplet, ImageArray, ImagePair, Scores

MEMBERS = ("edited.jpg", "input.jpg", "json")
MAX_MEMBER_BYTES = 64 * 2**20
MAX_PIXELS = 2**26
INDEX_FILE = "index.parquet"
_BLOCK = 512


class ShardError(ValueError):
    """A shard or an index is damaged, or holds what it should not."""


@dataclass(frozen=True, kw_only=True)
class IndexRow:
    """One pair in the index.

    Attributes:
        key: The pair's key.
        group: Id of its triplet; sampling and splits go by group.
        shard: Path of the tar, relative to the index, with forward slashes.
        edit_type: Kind of edit.
        seed_index, branch, p, guidance: As in `ImagePair`.
        image_image, text_source, text_edited, directional, surprise: As in `Scores`.
        input_offset, input_size: Where the source image's bytes lie in the tar.
        edited_offset, edited_size: The edited image's.
        json_offset, json_size: The description's.
    """

    key: str
    group: str
    shard: str
    edit_type: str
    seed_index: int
    branch: int
    p: float
    guidance: float
    image_image: float
    text_source: float
    text_edited: float
    directional: float
    surprise: float | None
    input_offset: int
    input_size: int
    edited_offset: int
    edited_size: int
    json_offset: int
    json_size: int


_ARROW_TYPES: dict[object, Any] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
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
            description = json.dumps(_description(pair, self._provenance), indent=1)
            self._tar.write(
                {
                    "__key__": pair.key,
                    "input.jpg": encode_jpeg(pair.source),
                    "edited.jpg": encode_jpeg(pair.edited),
                    "json": description.encode(),
                }
            )
            self.pairs += 1


def encode_jpeg(image: ImageArray) -> bytes:
    """Encode (H, W, 3) uint8 as JPEG, quality 95, no chroma subsampling (4:4:4)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _description(pair: ImagePair, provenance: Mapping[str, str]) -> dict[str, Any]:
    if pair.scores is None:
        raise ValueError(f"pair {pair.key} has no scores: only scored pairs go into a shard")
    texts = asdict(pair.triplet)
    return {
        "key": pair.key,
        "group": texts.pop("id"),
        **texts,
        "seed_index": pair.seed_index,
        "branch": pair.branch,
        "p": pair.p,
        "guidance": pair.guidance,
        "scores": asdict(pair.scores),
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
    _require_complete(path)
    members: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, extension = _checked_name(member, path)
                if members.setdefault(key, {}).setdefault(extension, member) is not member:
                    raise ShardError(f"{path} holds {member.name} twice")
    except tarfile.TarError as error:
        raise ShardError(f"{path} is no tar: {error}") from error
    with path.open("rb") as file:
        return [_index_row(path, name, key, found, file) for key, found in members.items()]


def _checked_name(member: tarfile.TarInfo, path: Path) -> tuple[str, str]:
    key, _, extension = member.name.partition(".")
    if not member.isreg() or extension not in MEMBERS or "/" in key or not key:
        raise ShardError(
            f"{path} holds {member.name!r}: expected regular files <key>.{{{','.join(MEMBERS)}}}"
        )
    if member.size > MAX_MEMBER_BYTES:
        raise ShardError(f"{path}: {member.name} has {member.size} bytes, at most 64 MiB expected")
    return key, extension


def _require_complete(path: Path) -> None:
    """Require a tar's end, two blocks of zeros: tar readers are content without it."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 2 * _BLOCK))
        if file.read() != bytes(2 * _BLOCK):
            raise ShardError(f"{path} is truncated: its {size} bytes do not end as a tar does")


def _index_row(
    path: Path, name: str, key: str, found: Mapping[str, tarfile.TarInfo], file: io.BufferedReader
) -> IndexRow:
    if set(found) != set(MEMBERS):
        raise ShardError(f"{path}: {key} has {sorted(found)}, expected {sorted(MEMBERS)}")
    edited, source, description = (found[extension] for extension in MEMBERS)
    file.seek(description.offset_data)
    pair = _described(file.read(description.size), f"{path}, {key}")
    return IndexRow(
        key=key,
        group=pair["group"],
        shard=name,
        edit_type=pair["edit_type"],
        seed_index=pair["seed_index"],
        branch=pair["branch"],
        p=pair["p"],
        guidance=pair["guidance"],
        **asdict(Scores(**pair["scores"])),
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
    """All pairs of a data set, by position.

    Args:
        root: The folder with ``index.parquet``; shards lie below it.

    Raises:
        FileNotFoundError: There is no index.
        ShardError: It is no index.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._table = read_table(self.root / INDEX_FILE, INDEX_SCHEMA)

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
    """Read a parquet file that must have exactly this schema.

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
    with path.open("rb") as file:
        source = _member(file, path, f"{row.key}.input.jpg", row.input_offset, row.input_size)
        edited = _member(file, path, f"{row.key}.edited.jpg", row.edited_offset, row.edited_size)
        text = _member(file, path, f"{row.key}.json", row.json_offset, row.json_size)
    pair = _described(text, f"{path}, {row.key}")
    texts = {item.name: pair[item.name] for item in fields(EditTriplet) if item.name != "id"}
    return ImagePair(
        triplet=EditTriplet(id=row.group, **texts),
        key=row.key,
        source=decode_image(source, f"{path}, {row.key}.input.jpg"),
        edited=decode_image(edited, f"{path}, {row.key}.edited.jpg"),
        seed_index=row.seed_index,
        branch=row.branch,
        p=row.p,
        guidance=row.guidance,
        scores=Scores(**pair["scores"]),
    )


def _shard_path(root: Path, shard: str) -> Path:
    name = PurePosixPath(shard)
    if name.is_absolute() or ".." in name.parts or name.suffix != ".tar":
        raise ShardError(f"the index names {shard!r}, which is no tar below it")
    if not (root / name).is_file():
        raise FileNotFoundError(f"the index names {root / name}, which is not there")
    return root / name


def _member(file: io.BufferedReader, path: Path, name: str, offset: int, size: int) -> bytes:
    """Read a member's bytes, checking them against the tar header that precedes them."""
    if not 0 <= size <= MAX_MEMBER_BYTES or offset < _BLOCK:
        raise ShardError(f"the index gives {name} {size} bytes at {offset} of {path}")
    file.seek(offset - _BLOCK)
    block, content = file.read(_BLOCK), file.read(size)
    if len(content) < size:
        raise ShardError(f"{path} is truncated: {name} ends before its {size} bytes")
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise ShardError(f"{path} is not what was indexed: no header before {name}") from error
    if not header.isreg() or (header.name, header.size) != (name, size):
        raise ShardError(f"{path} is not what was indexed: {header.name!r} where {name} should be")
    return content


def decode_image(content: bytes, name: str) -> ImageArray:
    """Decode a JPEG to (H, W, 3) uint8, looking at its size first.

    Raises:
        ShardError: It is no JPEG, is damaged, or is larger than 2^26 pixels.
    """
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ShardError(f"{name} has {image.width} x {image.height} pixels, too many")
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ShardError(f"{name} is no JPEG, or is damaged: {error}") from error


def _described(content: bytes, name: str) -> dict[str, Any]:
    """Parse a pair's JSON and require what a reader needs of it."""
    needed = {item.name for item in fields(EditTriplet)} - {"id"}
    needed |= {"group", "seed_index", "branch", "p", "guidance", "scores"}
    try:
        found = dict(json.loads(content))
        Scores(**found["scores"])
    except (ValueError, TypeError, KeyError) as error:
        raise ShardError(f"{name}: its JSON describes no pair") from error
    if missing := needed - set(found):
        raise ShardError(f"{name}: its JSON lacks {sorted(missing)}")
    return found

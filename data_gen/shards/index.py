"""The index of a data set: one row a pair, which says where its bytes lie and how it scored."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_gen.shards.members import LATER_SCORES, ShardError
from data_gen.shards.stores import Store
from inference.outside import parse_object

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
_NEEDED = frozenset(item.name for item in fields(IndexRow) if item.type in (str, int))
_LATER = {*LATER_SCORES, *SIZES}
_DIGESTS = b"sha256"
_NO_INDEX = "no index at {}: the data set is not finished, or not there"


def write_index(
    path: Path, rows: Sequence[IndexRow], digests: Mapping[str, str] | None = None
) -> None:
    """Write rows as parquet, with the SHA-256 of the shards by name where they are known."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=INDEX_SCHEMA)
    pq.write_table(with_digests(table, digests or {}), path)


def with_digests(table: "pa.Table", digests: Mapping[str, str]) -> "pa.Table":
    """Note the SHA-256 of shards, by name, in an index."""
    return table.replace_schema_metadata(
        {**(table.schema.metadata or {}), _DIGESTS: json.dumps(digests)}
    )


def digests_of(table: "pa.Table") -> dict[str, str]:
    """The SHA-256 of the shards, by name, as far as an index knows them."""
    noted = (table.schema.metadata or {}).get(_DIGESTS, b"{}")
    try:
        found = parse_object(noted, "it")
    except ValueError as error:
        raise ShardError(f"the index notes no SHA-256 of its shards: {error}") from error
    if wrong := next((name for name in found if not isinstance(found[name], str)), None):
        raise ShardError(f"the index notes {found[wrong]!r} as the SHA-256 of {wrong!r}")
    return found


def read_index(
    store: Store, schema: "pa.Schema" = INDEX_SCHEMA, needed: Collection[str] = _NEEDED
) -> tuple["pa.Table", dict[str, str]]:
    """The table of a data set's index, and the SHA-256 of its shards as far as they are known.

    Args:
        store: Where it lies.
        schema: Its columns.
        needed: Those that must have a value in every row.

    Raises:
        FileNotFoundError: There is no index.
        ShardError: It is damaged or has other columns.
    """
    path = store.where(INDEX_FILE)
    try:
        content = store.whole(INDEX_FILE)
    except FileNotFoundError:
        raise FileNotFoundError(_NO_INDEX.format(path)) from None
    table = _parsed(pa.BufferReader(content), path, schema, needed)
    return table, digests_of(table)


def read_table(path: Path, schema: "pa.Schema") -> "pa.Table":
    """Read a parquet file that must have this schema; what older files lack is null.

    Those are the scores and sizes that were not known yet when they were written.

    Raises:
        FileNotFoundError: There is no such file.
        ShardError: It is damaged or has other columns.
    """
    if not path.is_file():
        raise FileNotFoundError(_NO_INDEX.format(path))
    return _parsed(path, str(path), schema, _NEEDED)


def _parsed(source: Any, path: str, schema: "pa.Schema", needed: Collection[str]) -> "pa.Table":
    try:
        table = pq.read_table(source)
    except pa.ArrowException as error:
        raise ShardError(f"{path} is no parquet file, or is truncated: {error}") from error
    for position, column in enumerate(schema):
        if column.name in _LATER and column.name not in table.schema.names:
            table = table.add_column(position, column, pa.nulls(len(table), column.type))
    if not table.schema.equals(schema):
        raise ShardError(f"{path} has the columns {table.schema.names}, expected {schema.names}")
    for name in needed:
        if table[name].null_count:
            row = pc.index(table[name].is_null(), True).as_py()
            raise ShardError(f"{path}, row {row}: {name} is null, expected a value")
    return table

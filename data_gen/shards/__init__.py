"""Shards: image pairs in plain tars that stock readers understand, and an index into them."""

from data_gen.shards.members import ShardError
from data_gen.shards.tars import (
    INDEX_FILE,
    INDEX_SCHEMA,
    IndexRow,
    ShardIndex,
    ShardWriter,
    read_index,
    read_members,
    read_pair,
    read_table,
    scan_shard,
    shard_writer,
    with_digests,
    write_index,
)

__all__ = [
    "INDEX_FILE",
    "INDEX_SCHEMA",
    "IndexRow",
    "ShardError",
    "ShardIndex",
    "ShardWriter",
    "read_index",
    "read_members",
    "read_pair",
    "read_table",
    "scan_shard",
    "shard_writer",
    "with_digests",
    "write_index",
]

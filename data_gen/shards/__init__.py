"""Shards: image pairs in plain tars that stock readers understand, and an index into them."""

from data_gen.shards.index import (
    INDEX_FILE,
    INDEX_SCHEMA,
    IndexRow,
    digests_of,
    read_index,
    read_table,
    with_digests,
    write_index,
)
from data_gen.shards.members import ShardError, described_texts
from data_gen.shards.tars import (
    ShardIndex,
    ShardWriter,
    read_members,
    read_pair,
    scan_shard,
    shard_writer,
)

__all__ = [
    "INDEX_FILE",
    "INDEX_SCHEMA",
    "IndexRow",
    "ShardError",
    "ShardIndex",
    "ShardWriter",
    "described_texts",
    "digests_of",
    "read_index",
    "read_members",
    "read_pair",
    "read_table",
    "scan_shard",
    "shard_writer",
    "with_digests",
    "write_index",
]

"""The members of a shard at the places that its index gives, wherever the shard lies."""

import tarfile
from collections.abc import Mapping
from typing import Final

from data_gen.shards.members import BLOCK, MAX_MEMBER_BYTES, ShardError
from data_gen.shards.stores import Store

_SLACK: Final = 2**16
"""Bytes between a pair's members from which on they are read one by one."""


def require_sizes(store: Store, least: Mapping[str, int]) -> None:
    """Require that all shards are there and have so many bytes each.

    Raises:
        FileNotFoundError: One is not there.
        ShardError: One is shorter, or several are not as they should be, each of which is listed.
    """
    faults: list[Exception] = []
    for shard, end in least.items():
        try:
            size = store.size(shard)
        except (OSError, ShardError) as error:
            faults.append(error)
            continue
        if size < end:
            path = store.where(shard)
            faults.append(ShardError(f"{path} is truncated: {size} bytes of at least {end}"))
    if len(faults) == 1:
        raise faults[0]
    if faults:
        said = "".join(f"\n  {fault}" for fault in faults)
        raise ShardError(f"{len(faults)} of {len(least)} shards cannot be read:{said}")


def read_places(
    store: Store, shard: str, key: str, places: Mapping[str, tuple[int, int]]
) -> dict[str, bytes]:
    """Read members of a shard, in one go where they lie side by side.

    Args:
        store: Where the shard lies.
        shard: Its name.
        key: Of the members.
        places: Extension -> offset and size of a member's bytes.

    Returns:
        Extension -> bytes, each held against the tar header that precedes it.
    """
    for extension, (offset, size) in places.items():
        if not 0 <= size <= MAX_MEMBER_BYTES or offset < BLOCK:
            raise ShardError(f"the index gives {key}.{extension} {size} bytes at {offset}")
    start = min(offset for offset, _ in places.values()) - BLOCK
    stop = max(offset + size for offset, size in places.values())
    if stop - start > sum(size for _, size in places.values()) + _SLACK:
        apart = [read_places(store, shard, key, {name: at}) for name, at in places.items()]
        return {name: content for found in apart for name, content in found.items()}
    block, path = store.read(shard, start, stop), store.where(shard)
    return {
        extension: _member(block, path, f"{key}.{extension}", offset - start, size)
        for extension, (offset, size) in places.items()
    }


def _member(block: bytes, path: str, name: str, offset: int, size: int) -> bytes:
    """A member's bytes out of a block, held against the tar header that precedes them."""
    content = block[offset : offset + size]
    if len(content) < size:
        raise ShardError(f"{path} is truncated: {name} ends before its {size} bytes")
    if _heads(block[offset - BLOCK : offset], name, size):
        return content
    try:
        header = tarfile.TarInfo.frombuf(block[offset - BLOCK : offset], "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise ShardError(f"{path} is not what was indexed: no header before {name}") from error
    if not header.isreg() or (header.name, header.size) != (name, size):
        raise ShardError(f"{path} is not what was indexed: {header.name!r} where {name} should be")
    return content


def _heads(header: bytes, name: str, size: int) -> bool:
    """Whether a tar header plainly says this name and size: all that `tarfile` parses is slower."""
    return (
        header[:100] == name.encode().ljust(100, b"\0")
        and header[124:135] == b"%011o" % size
        and header[156:157] == tarfile.REGTYPE
        and not header[345:500].strip(b"\0")
    )

"""Where the files of a data set lie: in a folder here, or in one elsewhere, behind fsspec.

Whatever reads a shard asks for bytes of a file by name and does not care. A remote shard is read by
byte ranges, or copied whole into a cache of limited size and held against the hash that its index
gives. Nothing here runs a shell, unpickles, or knows a password: fsspec takes those from the
environment.
"""

import fcntl
import hashlib
import os
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import fsspec

from data_gen.files import locked
from data_gen.shards.members import BLOCK, MAX_MEMBER_BYTES, ShardError
from inference.files import file_digest, move_durably

SCHEMES: Final = ("https", "http", "s3", "gs", "gcs", "az", "abfs", "hf")
ATTEMPTS: Final = 4
"""Times that a remote is asked before it counts as out of reach, 1, 2 and 4 seconds apart."""
_SLACK: Final = 2**16
"""Bytes between a pair's members from which on they are read one by one."""
_SUFFIXES: Final = frozenset({".tar", ".parquet", ".json"})


class Store(Protocol):
    """The files of a data set, by their names below it."""

    is_local: bool
    """Whether reading a few bytes of every pair is cheap."""

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Bytes of a file; fewer where it ends before `stop`. Raises FileNotFoundError."""

    def size(self, name: str) -> int:
        """Bytes of a file. Raises FileNotFoundError."""

    def whole(self, name: str) -> bytes:
        """A small file, as the index. Raises FileNotFoundError."""

    def where(self, name: str) -> str:
        """A file's path or address, for people."""


def open_store(root: str | Path, cache: "Cache | None" = None) -> Store:
    """A folder's path, or a URL, as a store.

    Raises:
        ValueError: The URL has a scheme that is not read here, a password, or a query.
    """
    return Remote(str(root), cache) if "://" in str(root) else Folder(Path(root))


def checked_name(name: str) -> str:
    """The name of a file below a data set's folder.

    Raises:
        ShardError: It leads elsewhere, or is none of tar, parquet and json.
    """
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or place.suffix not in _SUFFIXES:
        raise ShardError(f"the index names {name!r}, which is no tar below it")
    return name


class Folder:
    """A folder of this machine."""

    is_local = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self._paths: dict[str, str] = {}

    def read(self, name: str, start: int, stop: int) -> bytes:
        """See `Store`."""
        try:
            file = os.open(self._path(name), os.O_RDONLY)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"the index names {self.where(name)}, which is not there"
            ) from None
        try:
            return os.pread(file, stop - start, start)
        finally:
            os.close(file)

    def size(self, name: str) -> int:
        """See `Store`."""
        path = Path(self._path(name))
        if not path.is_file():
            raise FileNotFoundError(f"the index names {path}, which is not there")
        return path.stat().st_size

    def whole(self, name: str) -> bytes:
        """See `Store`."""
        return Path(self._path(name)).read_bytes()

    def where(self, name: str) -> str:
        """See `Store`; asked for with every pair, so it makes no `Path`."""
        return f"{self.root}/{name}"

    def _path(self, name: str) -> str:
        if name not in self._paths:
            self._paths[name] = str(self.root / checked_name(name))
        return self._paths[name]


class Remote:
    """A folder behind a URL.

    Args:
        url: Such as ``s3://bucket/edits`` or ``https://host/edits``.
        cache: Where whole shards are kept; None reads byte ranges.

    Raises:
        ValueError: See `open_store`.
    """

    is_local = False

    def __init__(self, url: str, cache: "Cache | None" = None) -> None:
        self.url, self.cache = _checked_url(url), cache
        self._digests: dict[str, str] = {}
        self._opened: tuple[int, Any] | None = None

    def expect(self, digests: dict[str, str]) -> None:
        """Take the SHA-256 of files, by name, against which the cache holds what it fetches."""
        self._digests = digests

    def read(self, name: str, start: int, stop: int) -> bytes:
        """See `Store`."""
        if self.cache is None:
            return self._range(name, start, stop)
        while True:
            path = self.cache.path(self.where(name), self._digests.get(name), self._fetch(name))
            with suppress(FileNotFoundError), path.open("rb") as file:  # just now thrown out
                return os.pread(file.fileno(), stop - start, start)

    def size(self, name: str) -> int:
        """See `Store`."""
        return int(self._asked(name, lambda system, path: system.info(path)["size"]))

    def whole(self, name: str) -> bytes:
        """See `Store`."""
        return bytes(self._asked(name, lambda system, path: system.cat_file(path)))

    def where(self, name: str) -> str:
        """See `Store`."""
        return f"{self.url}/{name}"

    def _range(self, name: str, start: int, stop: int) -> bytes:
        found = bytes(
            self._asked(name, lambda system, path: system.cat_file(path, start=start, end=stop))
        )
        if len(found) > stop - start:
            raise ValueError(
                f"{self.where(name)}: {stop - start} bytes were asked for and {len(found)} came, "
                "so the server knows no byte ranges: set data.cache to a folder"
            )
        return found

    def _fetch(self, name: str) -> "Fetch":
        def fetch(target: Path) -> None:
            self._asked(name, lambda system, path: system.get_file(path, str(target)))

        return Fetch(size=lambda: self.size(name), fetch=fetch)

    def _asked(self, name: str, question: Callable[[Any, str], Any]) -> Any:
        """Ask the remote, and again where it fails to answer."""
        where = self.where(checked_name(name))
        for attempt in range(ATTEMPTS):
            try:
                system, root = self._system()
                return question(system, f"{root}/{name}")
            except FileNotFoundError:
                raise FileNotFoundError(f"{where} is not there") from None
            except Exception as error:  # every protocol has its own
                if attempt + 1 == ATTEMPTS:
                    raise OSError(f"{where} cannot be read: {error or type(error)}") from error
                time.sleep(2**attempt)
        raise AssertionError

    def _system(self) -> tuple[Any, str]:
        """Filesystem and path; made anew in every process, since they do not survive a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = os.getpid(), fsspec.core.url_to_fs(self.url)
            except ImportError as error:
                raise ValueError(f"{self.url} cannot be read here: {error}") from error
        system, root = self._opened[1]
        return system, root

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or "::" in url:
        raise ValueError(f"{url!r} is no folder or URL that is read here: {', '.join(SCHEMES)}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            f"a URL of {parts.scheme}://{parts.hostname} has a password, a query or a fragment; "
            "expected a plain one, and secrets in the environment"
        )
    return url.rstrip("/")


# ---------------------------------------------------------------- members


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


# ---------------------------------------------------------------- the cache


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """How a file that is not in the cache is had: its size in bytes, and its bytes into a path."""

    size: Callable[[], int]
    fetch: Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Copies of remote files in a folder, the least recently used thrown out.

    Any number of processes share it: a file is fetched once, appears whole or not at all, and its
    room is set aside before it comes.

    Attributes:
        folder: Where; it may hold files of many data sets.
        limit: Bytes that all of them may take.
    """

    folder: Path
    limit: int

    def path(self, name: str, digest: str | None, remote: Fetch) -> Path:
        """A copy of a file.

        Args:
            name: Its address.
            digest: SHA-256 that it must have; None does not look.
            remote: How it is had.

        Raises:
            ShardError: What came has another hash.
            ValueError: It is larger than the whole cache.
        """
        target = self.folder / f"{hashlib.sha256(f'{name} {digest}'.encode()).hexdigest()[:32]}.tar"
        if not self._touched(target):
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(target.with_suffix(".lock")):
                if not self._touched(target):
                    self._fetch(target, name, digest, remote)
        return target

    def _touched(self, target: Path) -> bool:
        try:
            os.utime(target)
        except FileNotFoundError:
            return False
        return True

    def _fetch(self, target: Path, name: str, digest: str | None, remote: Fetch) -> None:
        size, partial = remote.size(), target.with_suffix(".part")
        if size > self.limit:
            raise ValueError(
                f"{name} has {size:,} bytes and the cache {self.limit:,}: raise data.cache_gib"
            )
        try:
            self._reserve(partial, size)
            remote.fetch(partial)
            found = file_digest(partial) if digest else None
            if found != digest or partial.stat().st_size != size:
                raise ShardError(
                    f"{name} is not what was indexed: its SHA-256 is {found}, expected {digest}"
                )
            move_durably(partial, target)
        finally:
            partial.unlink(missing_ok=True)

    def _reserve(self, partial: Path, size: int) -> None:
        """Throw out what was not used for longest until there is room, and take it."""
        with locked(self.folder / ".room"):
            kept = {path: path.stat() for path in _sized(self.folder)}
            room = self.limit - sum(found.st_size for found in kept.values())
            for path, found in sorted(kept.items(), key=lambda item: item[1].st_mtime_ns):
                if room >= size:
                    break
                if path.suffix == ".tar" or _abandoned(path):
                    path.unlink(missing_ok=True)
                    room += found.st_size
            with partial.open("wb") as file:
                file.truncate(size)


def _sized(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.suffix in {".tar", ".part"} and path.is_file():
            yield path


def _abandoned(partial: Path) -> bool:
    """Whether nobody fetches a file any more: its lock is free."""
    with _tried(partial.with_suffix(".lock")) as free:
        return free


@contextmanager
def _tried(lock: Path) -> Iterator[bool]:
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True

"""Copies of remote files, in a folder of limited size that many processes share."""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_gen.shards.members import ShardError
from inference.files import (
    file_digest,
    make_folder,
    move_durably,
    require_writable_folder,
)
from inference.locks import locked


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
            self._require_writable()
            with locked(target.with_suffix(".lock")):
                if not self._touched(target):
                    self._fetch(target, name, digest, remote)
        return target

    def _require_writable(self) -> None:
        try:
            require_writable_folder(self.folder)
            make_folder(self.folder)
        except OSError as error:
            raise OSError(f"data.cache, for copies of remote shards: {error}") from error

    def _touched(self, target: Path) -> bool:
        try:
            os.utime(target)
        except (FileNotFoundError, NotADirectoryError):
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

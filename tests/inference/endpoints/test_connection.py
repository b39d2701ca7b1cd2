"""Proxies of the environment are named where they cannot be used, and loopback needs none."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_gen.instructions.stage import write_triplets
from data_gen.records import Caption
from inference.endpoints.connection import async_api, is_loopback, place, sync_api
from inference.endpoints.failures import ServerError
from tests.provider import Provider

HOSTED = "http://host.example/v1"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def nobody() -> str:
    """An address of loopback at which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ALL_PROXY", "socks5://me:secret@127.0.0.1:1080", "names a SOCKS proxy.*socksio"),
        ("https_proxy", "socks5h://127.0.0.1:1080", "names a SOCKS proxy.*socksio"),
        ("HTTP_PROXY", "socks4://secret@127.0.0.1", "holds no address of a proxy"),
        ("http_proxy", "gopher://secret", "holds no address of a proxy"),
        ("HTTPS_PROXY", "http://[::secret", "holds no address of a proxy"),
        ("ALL_PROXY", "http://secret:99999", "holds no address of a proxy"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    for make in (lambda: async_api(HOSTED, "k", timeout_s=1), lambda: sync_api(HOSTED, "k")):
        with pytest.raises(
            ValueError, match=f"the environment variable {variable} {said}"
        ) as error:
            make()
        assert "secret" not in str(error.value)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "http://127.0.0.1:1"])
def test_loopback_is_reached_without_a_proxy(
    tmp_path: Path,
    provider: Provider,
    knobs_for: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    proxy: str,
) -> None:
    for name in ("http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy)
    [written] = write_triplets(
        [Caption.of("a red circle")], knobs_for(), journal=tmp_path / "j", triplets=tmp_path / "t"
    )
    assert written.instruction == "make it blue"


def test_a_proxy_that_is_down_is_named(
    tmp_path: Path,
    knobs_for: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    nobody: str,
) -> None:
    monkeypatch.setenv("http_proxy", f"http://me:secret@{nobody}")
    knobs = knobs_for(base_url=HOSTED, max_retries=0)
    with pytest.raises(
        ServerError, match=r"\(through the proxy that http_proxy names\) is down"
    ) as e:
        write_triplets(
            [Caption.of("a red circle")], knobs, journal=tmp_path / "j", triplets=tmp_path / "t"
        )
    assert "secret" not in str(e.value)


def test_the_proxy_on_the_way_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place(HOSTED) == HOSTED
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example")
    assert place(HOSTED) == HOSTED
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example")
    assert place(HOSTED) == f"{HOSTED} (through the proxy that ALL_PROXY names)"
    assert place("http://127.0.0.1:1/v1") == "http://127.0.0.1:1/v1"
    monkeypatch.setenv("no_proxy", "host.example")
    assert place(HOSTED) == HOSTED


def test_what_is_loopback() -> None:
    for host in ("localhost:1", "127.0.0.1", "127.8.8.8:1", "[::1]:80", "[::]", "a.localhost"):
        assert is_loopback(f"http://{host}/v1")
    for host in ("10.0.0.1", "localhost.example", "[::2]"):
        assert not is_loopback(f"http://{host}/v1")

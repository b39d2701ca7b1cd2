"""A model hub on loopback: the few routes by which huggingface_hub fetches a repository."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Its repositories.

    Attributes:
        url: Where it listens.
        repositories: `OWNER/NAME` -> a folder with its files.
        gated: Names whose terms nobody has accepted.
        asked: Method and path of every request, in order.
    """

    url: str = ""
    repositories: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    @property
    def fetched(self) -> set[str]:
        """The files whose bytes were sent."""
        marks = (line.partition(f"/resolve/{COMMIT}/") for line in self.asked)
        return {name for before, _, name in marks if name and before.startswith("GET ")}


@contextmanager
def hub() -> Iterator[Hub]:
    """Run an empty hub."""
    found = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(found))
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def replace_hub(found: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub ask this hub in place of its own, with a cache of its own."""
    template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", found.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def log_message(self, *_: Any) -> None:
            """Be quiet."""

        def _answer(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            parts = path.strip("/").split("/")
            is_api = parts[:2] == ["api", "models"]
            name = "/".join(parts[2:4] if is_api else parts[:2])
            headers = {"X-Repo-Commit": COMMIT}
            if name in hub.gated:
                return self._send(403, b"{}", {"X-Error-Code": "GatedRepo"}, with_body)
            if name not in hub.repositories:
                return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)
            if is_api:
                return self._send(200, self._listing(name, parts[4]), headers, with_body)
            file = hub.repositories[name] / "/".join(parts[4:])
            if not file.is_file():
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body)
            content = file.read_bytes()
            headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            return self._send(200, content, headers, with_body)

        def _listing(self, name: str, route: str) -> bytes:
            folder = hub.repositories[name]
            if route == "revision":
                return json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode()
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            return json.dumps(
                [
                    {
                        "type": "file",
                        "path": path.relative_to(folder).as_posix(),
                        "size": path.stat().st_size,
                        "oid": hashlib.sha1(path.read_bytes()).hexdigest(),  # noqa: S324  (as git)
                    }
                    for path in files
                ]
            ).encode()

        def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    return Handler

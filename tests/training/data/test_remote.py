"""Shards behind a URL train as those on the disk do, through workers and a cache."""

import http.server
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.__main__ import main

RECIPE = Path("training/recipes/shapes.yaml")


@pytest.fixture
def served(shards: Path) -> Iterator[tuple[str, list[str]]]:
    """Where the shards are served, without byte ranges, and what is asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            if self.command == "GET":
                asked.append(self.path)

    handler = partial(Handler, directory=str(shards))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
def test_a_run_on_remote_shards_is_that_on_local_ones(
    served: tuple[str, list[str]],
    shards: Path,
    tiny: Callable[..., list[str]],
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    url, asked = served
    here = tiny(RECIPE, tiny_folder, shards, tmp_path / "here")
    there = tiny(RECIPE, tiny_folder, shards, tmp_path / "there")
    plain = ["--data.cache_latents=false", "--trainer.max_steps=4", "--held_out_edits.samples=0"]
    main([*here, *plain])
    cache = tmp_path / "cache"
    far = [f"--data.shards={url}", f"--data.cache={cache}", "--data.num_workers=2"]
    main([*there, *plain, *far])
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("here", "there"))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    tars = sorted(path for path in asked if path.endswith(".tar"))
    assert tars == [f"/{path.name}" for path in sorted(shards.glob("*.tar"))]  # each once
    assert len(list(cache.glob("*.tar"))) == len(tars)

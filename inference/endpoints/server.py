"""Serve a local language model to ourselves: ``transformers serve`` on loopback.

Every language model is asked through an OpenAI-compatible server, a small local one included.
``serving`` starts that server in a child process and ends it; the module itself is the child's
entry (``python -m inference.endpoints.server FOLDER``), so that the package's torchvision guard
runs before transformers. A hosted or vLLM server needs nothing from here.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import openai
import torch

from inference.endpoints.failures import ServerError

START_TIMEOUT_S = 300.0
SMALL_BYTES = 100 * 10**6
"""Models below this size run on one thread: on a busy machine the threads of so small a model spend
minutes waiting for each other."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a language model is served.

    Attributes:
        base_url: Root of the OpenAI-compatible API, such as ``http://127.0.0.1:8000/v1``.
        model: The model's name on that server.
    """

    base_url: str
    model: str


@contextmanager
def serving(folder: str | Path) -> Iterator[Endpoint]:
    """Serve the model in ``folder`` on loopback for as long as the context is open.

    The server chooses a free port itself. It ends with the context, and also where this process
    is killed: it watches a pipe whose other end only this process holds.

    Args:
        folder: A transformers folder: ``config.json``, safetensors, a tokenizer with a chat
            template.

    Yields:
        The endpoint, once the server has answered in the name of this model.

    Raises:
        FileNotFoundError: There is no model in the folder.
        ServerError: The server did not come up, or another model answered.
    """
    folder = Path(folder).resolve()
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"no language model in {folder}: it has no config.json")
    with tempfile.TemporaryDirectory(prefix="emend-server-") as scratch:
        log = Path(scratch, "log")
        with log.open("wb") as errors:
            child = _start(folder, Path(scratch), errors)
        try:
            endpoint = Endpoint(base_url=_base_url(child, log), model=str(folder))
            _check_identity(endpoint)
            yield endpoint
        finally:
            child.kill()
            child.communicate()


def _start(folder: Path, scratch: Path, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    # `/v1/models` of transformers 5.23 fails where the hub's cache folder does not exist.
    (scratch / "hub").mkdir()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch)}
    if sum(path.stat().st_size for path in folder.glob("*.safetensors")) < SMALL_BYTES:
        environment["OMP_NUM_THREADS"] = "1"
    return subprocess.Popen(
        [sys.executable, "-m", "inference.endpoints.server", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=environment,
    )


def _base_url(child: subprocess.Popen[bytes], log: Path) -> str:
    """Wait for the child to say which port it listens on."""
    assert child.stdout is not None
    deadline = threading.Timer(START_TIMEOUT_S, child.kill)
    deadline.start()
    line = child.stdout.readline()
    deadline.cancel()
    if not line:
        last = log.read_text(errors="replace").strip().rsplit("\n", 1)[-1]
        raise ServerError(
            f"the language-model server ended, or did not come up within {START_TIMEOUT_S:.0f} s; "
            f"its last words: {last or 'none'}"
        )
    return f"http://127.0.0.1:{json.loads(line)['port']}/v1"


def _check_identity(endpoint: Endpoint) -> None:
    """Ask for one token, so that model, tokenizer and chat template have all been used once."""
    http_client = openai.DefaultHttpxClient(trust_env=False)
    try:
        with openai.OpenAI(
            base_url=endpoint.base_url, api_key="none", http_client=http_client
        ) as client:
            answer = client.chat.completions.create(
                model=endpoint.model,
                messages=[{"role": "user", "content": "{}"}],
                max_completion_tokens=1,
            )
    except openai.OpenAIError as error:
        raise ServerError(f"the server of {endpoint.model} cannot answer: {error}") from error
    if answer.model.rsplit("@", 1)[0] != endpoint.model:
        raise ServerError(f"asked {endpoint.base_url} for {endpoint.model}, got {answer.model}")


def _serve(folder: str) -> None:
    """Be the child: serve, report the port on standard output, end when standard input does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print must not be taken for the report
    from transformers.cli.serve import Serve

    serve = Serve(
        force_model=folder,
        dtype="auto" if torch.cuda.is_available() else "float32",
        host="127.0.0.1",
        port=0,
        log_level="error",
        non_blocking=True,
    )
    while not serve.server.started:
        if not serve._thread.is_alive():
            raise SystemExit("the HTTP server stopped while starting")
        time.sleep(0.01)
    port = serve.server.servers[0].sockets[0].getsockname()[1]
    print(json.dumps({"port": port}), file=report, flush=True)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)  # the server's own thread would keep a politer exit waiting for ever


if __name__ == "__main__":
    _serve(sys.argv[1])

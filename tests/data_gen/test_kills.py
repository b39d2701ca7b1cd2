"""``kill -9`` at any moment of the command, and again, and again: the set comes out the same.

The whole command runs, from captions to the index, against an endpoint that counts its questions
and with real models. Where a kill hits is not left to chance alone: it comes at a random moment
after the journal has grown, after a unit has been begun, or after its first file has its name.
"""

import http.server
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from data_gen.instructions.structured import PROBE
from data_gen.recipe import Recipe
from data_gen.shards import ShardIndex

ROOT = Path(__file__).parents[2]
Stage = Literal["text", "rendering", "writing"]
Contents = Callable[[Path], dict[str, bytes]]

LAUNCHER = """
import json, os, sys
from data_gen.__main__ import main  # once: a start from nothing takes longer than a whole run
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os._exit(main(json.loads(line)))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Endpoint:
    """An OpenAI-compatible server on loopback that recolours what it is told of.

    Attributes:
        url: Where it listens.
        asked: How often it was asked about each caption.
    """

    url: str
    asked: Counter[str] = field(default_factory=Counter)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            caption = json.loads(question["messages"][-1]["content"])["caption"]
            found.asked[caption] += 1
            time.sleep(0.03)
            answer = {
                "instruction": "make it blue",
                "edited_caption": caption.replace("red", "blue"),
                "inverse_instruction": "make it red",
            }
            message = {"role": "assistant", "content": json.dumps(answer)}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            body = {"id": "1", "object": "chat.completion", "created": 0, "choices": [choice]}
            content = json.dumps(body | {"model": question["model"]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign] # clients get killed
        found = Endpoint(f"http://127.0.0.1:{server.server_port}/v1")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()


@dataclass
class Launcher:
    """Runs the command in forks of a process that has imported everything."""

    process: "subprocess.Popen[str]"
    line: list[str]
    captions: int

    def start(self, root: Path, *more: str) -> int:
        """Start the command; its process id."""
        command = ["run", "--output", str(root), *self.line, *more]
        assert self.process.stdin is not None
        print(json.dumps(command), file=self.process.stdin, flush=True)
        return self._number()

    def wait(self) -> int:
        """Exit code of the command; of one that was killed, minus nine."""
        return self._number()

    def _number(self) -> int:
        assert self.process.stdout is not None
        while not (line := self.process.stdout.readline().strip()).removeprefix("-").isdecimal():
            assert self.process.poll() is None, "the launcher has ended"
        return int(line)


@pytest.fixture(params=[12])
def launcher(
    request: pytest.FixtureRequest, recipe: Recipe, endpoint: Endpoint, tmp_path: Path
) -> Iterator[Launcher]:
    """A launcher of runs of 12 captions, in units of two."""
    file = tmp_path / "captions.txt"
    file.write_text("".join(f"a red circle number {n}\n" for n in range(request.param)))
    pairs = recipe.pairs
    options: dict[str, Any] = {
        "captions.file": file,
        "instructions.base_url": endpoint.url,
        "instructions.model": "recolours",
        "instructions.edit_types": {"recolour": 1.0},
        "pairs.model": pairs.model,
        "pairs.clip": pairs.clip,
        "pairs.render": {"steps": 4, "seeds": 2, "branches": 2, "batch_rows": 16},
        "pairs.filter.thresholds": vars(pairs.filter.thresholds),
        "pairs.unit_size": 2,
    }
    line = [
        f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"
        for name, value in options.items()
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    yield Launcher(process, line, request.param)
    process.communicate()


def journal_lines(root: Path) -> int:
    path = root / "instructions.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def names(root: Path, *folders: str) -> set[str]:
    return {f"{folder}/{path.name}" for folder in folders for path in (root / folder).glob("*")}


def moment(root: Path, stage: Stage, rng: random.Random) -> Callable[[], bool]:
    """Whether the moment to kill at is there; what is there already does not count."""
    if stage == "text":
        lines = journal_lines(root) + rng.randrange(1, 4)
        return lambda: journal_lines(root) >= lines
    folders = (".tmp",) if stage == "rendering" else ("shards", "candidates", "rejected")
    before = names(root, *folders)
    return lambda: not names(root, *folders) <= before


def run_and_kill(
    launcher: Launcher, root: Path, stage: Stage, delay: float, rng: random.Random
) -> int:
    """Run the command until a random moment of a stage, and a delay; its exit code."""
    here = moment(root, stage, rng)
    ended = threading.Event()
    codes: list[int] = []
    pid = launcher.start(root)

    def wait() -> None:
        codes.append(launcher.wait())
        ended.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    while not ended.is_set() and not here():
        time.sleep(0.0002)
    time.sleep(delay)
    if not ended.is_set():
        os.kill(pid, signal.SIGKILL)
    waiting.join()
    return codes[0]


def stamps(root: Path) -> dict[str, tuple[int, int]]:
    """Every file of the set, with what a later write would change."""
    found = {}
    for name in names(root, "shards", "candidates", "rejected", "receipts", ".tmp"):
        status = (root / name).stat()
        found[name] = (status.st_ino, status.st_mtime_ns)
    return found


def interrupted(root: Path, before: dict[str, tuple[int, int]]) -> Stage | None:
    """What a kill has interrupted, told by what the run has left beside that of those before."""
    if not (root / "triplets.jsonl").exists():
        return "text"
    done = finished(root)
    left = {name for name, stamp in stamps(root).items() if before.get(name) != stamp} - set(done)
    if any(name.startswith(("shards", "candidates", "rejected")) for name in left):
        return "writing"
    return "rendering" if left else None


def finished(root: Path) -> dict[str, tuple[int, int]]:
    """The stamps of the receipts and of the files that they name."""
    named = set()
    for path in (root / "receipts").glob("*.json"):
        named |= {f"receipts/{path.name}", *json.loads(path.read_text())["files"]}
    return {name: stamp for name, stamp in stamps(root).items() if name in named}


def seconds_a_unit(root: Path) -> float:
    found = [json.loads(path.read_text()) for path in (root / "receipts").glob("*.json")]
    return float(sum(receipt["seconds"]["total"] for receipt in found) / len(found))


def assert_same(root: Path, whole: Path, captions: int, contents: Contents) -> None:
    one, other = contents(root), contents(whole)
    journal = "instructions.jsonl"  # of no consequence, and free to hold the order of answers
    assert one | {journal: b""} == other | {journal: b""}
    index = ShardIndex(root)
    keys = [index[position].key for position in range(len(index))]
    assert len(set(keys)) == len(keys) > captions / 2
    lines = (root / "triplets.jsonl").read_text().splitlines()
    triplets = [json.loads(line)["id"] for line in lines]
    receipts = [json.loads(path.read_text()) for path in (root / "receipts").glob("*.json")]
    prompts = [prompt for receipt in receipts for prompt in receipt["prompts"]]
    assert sorted(prompts) == triplets
    assert len(triplets) == captions


def kill_and_compare(
    launcher: Launcher,
    endpoint: Endpoint,
    tmp_path: Path,
    contents: Contents,
    stages: Sequence[Stage],
    rng: random.Random,
) -> Counter[Stage | None]:
    """Kill a run once a stage named, finish it, and compare; what the kills interrupted."""
    whole, root = tmp_path / "whole", tmp_path / "killed"
    launcher.start(whole)
    assert launcher.wait() == 0
    endpoint.asked.clear()
    delays = {"text": 0.05, "rendering": seconds_a_unit(whole), "writing": 0.0}
    hit: Counter[Stage | None] = Counter()
    for stage in stages:
        before, found = finished(root), stamps(root)
        delay = rng.uniform(0, delays[stage])
        assert run_and_kill(launcher, root, stage, delay, rng) == -signal.SIGKILL
        assert before.items() <= finished(root).items(), "a unit was made after its receipt"
        hit[interrupted(root, found)] += 1
    before = finished(root)
    launcher.start(root)
    assert launcher.wait() == 0
    assert before.items() <= finished(root).items()
    # Each kill may have cost the answer that was on its way; what the journal has is not asked.
    assert endpoint.asked.pop(PROBE, 0) <= 1 + hit["text"]
    assert endpoint.asked.total() <= launcher.captions + hit["text"]
    assert_same(root, whole, launcher.captions, contents)
    return hit


def test_killed_in_each_stage_it_comes_out_the_same(
    launcher: Launcher,
    endpoint: Endpoint,
    tmp_path: Path,
    contents: Contents,
) -> None:
    stages: tuple[Stage, ...] = ("text", "rendering", "writing")
    hit = kill_and_compare(launcher, endpoint, tmp_path, contents, stages, random.Random(0))
    assert hit["text"] == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("launcher", [40], indirect=True)
def test_killed_twenty_times_it_comes_out_the_same(
    launcher: Launcher,
    endpoint: Endpoint,
    tmp_path: Path,
    contents: Contents,
) -> None:
    rng = random.Random(1)
    late: list[Stage] = ["rendering", "writing"] * 7
    rng.shuffle(late)
    stages: list[Stage] = ["text"] * 6 + late
    hit = kill_and_compare(launcher, endpoint, tmp_path, contents, stages, rng)
    assert hit.total() == 20
    assert hit["text"] == 6
    assert hit["rendering"] >= 3
    assert hit["writing"] >= 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_command_by_partitions_gives_the_same_set(
    launcher: Launcher,
    tmp_path: Path,
    contents: Contents,
) -> None:
    for count in (1, 2, 5):
        for index in range(count):
            launcher.start(tmp_path / f"by{count}", f"--partition={index}/{count}")
            assert launcher.wait() == 0
    for count in (2, 5):
        assert_same(tmp_path / f"by{count}", tmp_path / "by1", launcher.captions, contents)

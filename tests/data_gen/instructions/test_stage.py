"""The instruction stage against a server of our own: nothing is paid twice, nothing lost."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data_gen.instructions.prompts import answer
from data_gen.instructions.stage import InstructionKnobs, plan_questions, write_triplets
from data_gen.instructions.triplets import read_triplets
from data_gen.records import Caption, EditTriplet
from inference.endpoints.failures import ServerError

CAPTIONS = [Caption.of(f"a red circle number {number}") for number in range(8)]


@dataclass
class FakeModel:
    """An OpenAI-compatible server's inside.

    Attributes:
        asked: User messages, as they came.
        status: HTTP status to answer with.
        limit: Answers before every further request gets status 503.
    """

    asked: list[dict[str, Any]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    limit: int = 10**9
    say: Callable[[str], str] = lambda caption: answer(
        instruction="make it blue",
        edited_caption=caption.replace("red", "blue"),
        inverse_instruction="make it red",
    )

    def respond(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.status != 200:
            return self.status, {"error": {"message": f"status {self.status}"}}
        if len(self.asked) >= self.limit:
            return 503, {"error": {"message": "overloaded"}}
        self.requests.append(request)
        self.asked.append(json.loads(request["messages"][-1]["content"]))
        message = {"role": "assistant", "content": self.say(self.asked[-1]["caption"])}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return 200, {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "choices": [choice],
        }


@contextmanager
def listening(model: FakeModel) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = model.respond(request)
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def knobs(model: FakeModel) -> Iterator[InstructionKnobs]:
    with listening(model) as base_url:
        yield InstructionKnobs(
            model="fake", base_url=base_url, max_retries=0, rounds=1, form="plain"
        )


def write(folder: Path, knobs: InstructionKnobs) -> list[EditTriplet]:
    return write_triplets(
        CAPTIONS, knobs, journal=folder / "journal.jsonl", triplets=folder / "triplets.jsonl"
    )


def test_captions_become_triplets(
    tmp_path: Path, model: FakeModel, knobs: InstructionKnobs
) -> None:
    written = write(tmp_path, knobs)
    assert {triplet.caption for triplet in written} == {caption.text for caption in CAPTIONS}
    assert read_triplets(tmp_path / "triplets.jsonl") == written
    assert [triplet.id for triplet in written] == sorted(triplet.id for triplet in written)
    seeds = {request["seed"] for request in model.requests}
    assert len(seeds) == len(CAPTIONS)


def test_concurrency_changes_nothing(
    tmp_path: Path, model: FakeModel, knobs: InstructionKnobs
) -> None:
    one = write(tmp_path / "one", knobs)
    assert write(tmp_path / "four", replace(knobs, concurrency=4)) == one


def test_nothing_is_asked_twice(tmp_path: Path, model: FakeModel, knobs: InstructionKnobs) -> None:
    model.limit = 3
    with pytest.raises(ServerError, match=r"5 of 8 questions got no answer.*overloaded"):
        write(tmp_path, knobs)
    journal = tmp_path / "journal.jsonl"
    journal.write_text(journal.read_text()[:-10])  # the third answer is torn
    model.limit = 10**9
    written = write(tmp_path, knobs)
    assert len(model.asked) == 3 + 1 + 5
    assert len(written) == len(CAPTIONS)
    assert write(tmp_path, knobs) == written
    assert len(model.asked) == 9


def test_rejects_are_kept_with_their_reason(
    tmp_path: Path, model: FakeModel, knobs: InstructionKnobs
) -> None:
    model.say = lambda caption: (
        "I cannot" if caption.endswith(("1", "2")) else FakeModel.say(caption)
    )
    assert len(write(tmp_path, knobs)) == 6
    entries = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    rejected = [entry for entry in entries if entry["rejected"]]
    assert {entry["rejected"] for entry in rejected} == {"not one JSON object"}
    assert {entry["answer"] for entry in rejected} == {"I cannot"}
    write(tmp_path, knobs)
    assert len(model.asked) == len(CAPTIONS)


def test_no_usable_answer_at_all_is_an_error(
    tmp_path: Path, model: FakeModel, knobs: InstructionKnobs
) -> None:
    model.say = lambda caption: "I cannot"
    with pytest.raises(ValueError, match=r"none of 8 answers was usable.*not one JSON object"):
        write(tmp_path, knobs)


def test_a_server_that_is_down_is_named(tmp_path: Path) -> None:
    with listening(FakeModel()) as base_url:
        pass
    knobs = InstructionKnobs(model="fake", base_url=base_url, max_retries=0)
    with pytest.raises(ServerError, match=f"server at {base_url} is down"):
        write(tmp_path, knobs)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_server_that_refuses_is_named(
    tmp_path: Path, model: FakeModel, knobs: InstructionKnobs, status: int
) -> None:
    model.status = status
    with pytest.raises(ServerError, match=f"refuses.*{status}"):
        write(tmp_path, knobs)


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(
    tmp_path: Path, knobs: InstructionKnobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    write(tmp_path, knobs)
    assert all(b"sk-secret" not in path.read_bytes() for path in tmp_path.iterdir())


def test_a_changed_writer_is_asked_anew(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"one")
    knobs = InstructionKnobs(model=str(tmp_path))
    before = plan_questions(CAPTIONS, knobs)
    assert plan_questions(CAPTIONS, replace(knobs, concurrency=9)) == before
    assert not set(plan_questions(CAPTIONS, replace(knobs, temperature=0.1))) & set(before)
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert not set(plan_questions(CAPTIONS, knobs)) & set(before)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"edit_types": {"move": 0.0}}, "move is 0.0; expected a number above 0"),
        ({"edits_per_caption": 10}, "at most the number of edit_types, 9"),
        ({"concurrency": 0}, "concurrency is 0; expected a whole number from 1"),
    ],
)
def test_wrong_knobs_are_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        InstructionKnobs(**wrong)

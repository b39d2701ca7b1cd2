"""What a model said is found in every shape that servers give it, and errors are told from it."""

import json
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from data_gen.instructions.stage import write_triplets
from data_gen.records import Caption, EditTriplet
from inference.endpoints.budget import Ledger, Prices
from inference.endpoints.failures import ServerError
from inference.endpoints.replies import (
    FILTERED,
    REFUSED,
    read_reply,
    reported_error,
    without_drafts,
)
from tests.provider import Provider, completion, good

CAPTIONS = [Caption.of(f"a red circle number {number}") for number in range(8)]
PRICES = Prices(input=0.25, output=2.0)
USAGE = {"prompt_tokens": 10, "completion_tokens": 5}


def write(folder: Path, knobs: Any, captions: list[Caption] = CAPTIONS) -> list[EditTriplet]:
    return write_triplets(
        captions, knobs, journal=folder / "journal.jsonl", triplets=folder / "triplets.jsonl"
    )


def spent(folder: Path) -> Decimal:
    ledger = Ledger(PRICES, None)
    for line in (folder / "journal.jsonl").open():
        ledger.apply(json.loads(line))
    return ledger.spent


def of(**message: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": USAGE}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "yes"}, "yes"),
        ({"content": None, "reasoning_content": "hm"}, ""),
        ({"content": "yes", "reasoning_content": "hm", "reasoning": "hm"}, "yes"),
        ({"content": [{"type": "text", "text": "y"}, {"type": "text", "text": "es"}]}, "yes"),
        ({"content": [{"type": "output_text", "text": "yes"}]}, "yes"),
        ({"content": ["y", "es"]}, "yes"),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "reasoning", "text": "hm"},
                    {"type": "text", "text": "yes"},
                    {"type": "text", "text": None},
                    7,
                ]
            },
            "yes",
        ),
        ({"content": []}, ""),
    ],
)
def test_a_message_is_its_text_without_what_was_thought(message: dict[str, Any], text: str) -> None:
    reply = read_reply(of(**message))
    assert reply is not None
    assert (reply.text, reply.flaw) == (text, None)


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "refusal": "I cannot"},
        {"content": [{"type": "refusal", "refusal": "I cannot"}]},
    ],
)
def test_a_refusal_is_told(message: dict[str, Any]) -> None:
    reply = read_reply(of(**message))
    assert reply is not None
    assert reply.flaw == REFUSED


@pytest.mark.parametrize("body", [[], None, 3, {}, {"choices": []}, of(content=7), of(content={})])
def test_no_chat_completion_is_none(body: Any) -> None:
    assert read_reply(body) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<think>a</think>b", "b"),
        ("<think>a", ""),
        ("a</think>b", "b"),
        ("<think>a<think>b</think>c</think>d", "d"),
        ("a<think>b</think>c<think>d</think>e", "ace"),
        ("<thinking>\na\n</thinking>\n<x>b</x>", "\n<x>b</x>"),
        ("I think <b>", "I think <b>"),
    ],
)
def test_drafts_are_left_out(text: str, said: str) -> None:
    assert without_drafts(text) == said


def test_leaving_drafts_out_takes_linear_time() -> None:
    start = time.process_time()
    for part in ("<think>", "</think>", "<think></think>", "<think"):
        without_drafts(part * 100_000)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("form", ["plain", "tagged"])
@pytest.mark.parametrize("parts", [True, False])
def test_thinking_models_write_triplets(
    tmp_path: Path, provider: Provider, knobs_for: Callable[..., Any], form: str, parts: bool
) -> None:
    draft = "I could say <instruction>make it green</instruction> or {}."

    def answer(asked: dict[str, Any]) -> str:
        fields = json.loads(good(asked["caption"]))
        tagged = "".join(f"<{name}>{text}</{name}>" for name, text in fields.items())
        return json.dumps(fields) if form == "plain" else tagged

    def chat(body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        text = answer(json.loads(body["messages"][-1]["content"]))
        reply = completion("m", "", USAGE)
        message = reply["choices"][0]["message"]
        message["content"] = f"<think>{draft}</think>\n{text}"
        if parts:
            message["content"] = [
                {"type": "thinking", "thinking": draft},
                {"type": "text", "text": text},
            ]
        return 200, {}, json.dumps(reply).encode()

    provider.chat = chat  # type: ignore[method-assign]
    written = write(tmp_path, knobs_for(form=form))
    assert {triplet.instruction for triplet in written} == {"make it blue"}
    assert len(written) == len(CAPTIONS)


@pytest.mark.parametrize(
    ("body", "words", "status"),
    [
        ({"error": {"message": "overloaded", "code": 503}}, "overloaded", 503),
        ({"error": {"message": "slow", "code": "429"}}, "slow", 429),
        ({"error": "model not found"}, "model not found", None),
        ({"error": {"type": "invalid_request_error", "message": "no"}}, "no", 400),
        ({"error": {"odd": 1}}, '{"odd": 1}', None),
        ({"object": "error", "message": "no", "code": 400}, "no", 400),
        ({"detail": [{"msg": "no"}]}, '[{"msg": "no"}]', None),
        ({"choices": [{"error": {"message": "lost", "code": 502}}]}, "lost", 502),
    ],
)
def test_an_error_within_success_is_found(body: Any, words: str, status: int | None) -> None:
    error = reported_error(body)
    assert error is not None
    assert (error.words, error.status, error.billed) == (words, status, False)


@pytest.mark.parametrize(
    "body", [None, [], {}, of(content="x"), {**of(content="x"), "error": None}]
)
def test_an_answer_is_no_error(body: Any) -> None:
    assert reported_error(body) is None


@pytest.mark.parametrize("batch", [False, True])
def test_an_error_within_success_is_told_and_costs_nothing(
    tmp_path: Path,
    provider: Provider,
    knobs_for: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    batch: bool,
) -> None:
    monkeypatch.setenv("A_KEY", "sk-a/b")
    body = '{"error": {"message": "no model for sk-a\\/b, nor for \\u0073k-a\\/b"}}'
    provider.behave = lambda asked, nth: body
    knobs = knobs_for(
        key_env="A_KEY", prices=PRICES, budget=0.01, max_retries=1, batch=batch, batch_poll_s=0.01
    )
    with pytest.raises(ServerError, match=r"no model for \[key\], nor for \[key\]"):
        write(tmp_path, knobs)
    assert spent(tmp_path) == 0
    assert b"sk-" not in (tmp_path / "journal.jsonl").read_bytes()


def test_an_error_within_success_means_what_its_status_does(
    tmp_path: Path, provider: Provider, knobs_for: Callable[..., Any]
) -> None:
    provider.behave = lambda asked, nth: '{"error": {"message": "who?", "code": 401}}'
    with pytest.raises(ServerError, match="refuses: HTTP 200 with error 401, who?"):
        write(tmp_path, knobs_for())
    assert len(provider.requests) == 1
    provider.behave = lambda asked, nth: '{"error": {"code": "content_filter", "message": "no"}}'
    with pytest.raises(ValueError, match=FILTERED):
        write(tmp_path, knobs_for())


@pytest.mark.parametrize("form", ["plain", "json_schema", "tagged"])
def test_a_key_in_an_answer_is_written_nowhere_in_whatever_escapes(
    tmp_path: Path,
    provider: Provider,
    knobs_for: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    form: str,
) -> None:
    key = "sk-a/b"
    monkeypatch.setenv("A_KEY", key)

    def answer(asked: dict[str, Any]) -> str:
        if form == "tagged":
            names = ("instruction", "edited_caption", "inverse_instruction")
            return "".join(f"<{name}>say {key}</{name}>" for name in names)
        fields = json.loads(good(asked["caption"])) | {"instruction": f"say {key}"}
        return json.dumps(fields).replace("/", "\\/").replace("sk-", "\\u0073k-")

    provider.say = answer
    written = write(tmp_path, knobs_for(key_env="A_KEY", form=form))
    assert {triplet.instruction for triplet in written} == {"say [key]"}
    for path in tmp_path.iterdir():
        for line in path.read_text().splitlines():
            assert key not in str(json.loads(line))
    assert key not in "".join(capfd.readouterr())

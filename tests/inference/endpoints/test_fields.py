"""Servers that refuse fields they do not know are asked without, and the journal remembers."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_gen.instructions.stage import write_triplets
from data_gen.records import Caption, EditTriplet
from inference.endpoints.failures import ServerError
from inference.endpoints.fields import RequestFields
from tests.provider import Provider

CAPTIONS = [Caption.of(f"a red circle number {number}") for number in range(12)]
NONE: frozenset[str] = frozenset()


def write(folder: Path, knobs: Any, captions: list[Caption] = CAPTIONS) -> list[EditTriplet]:
    return write_triplets(
        captions, knobs, journal=folder / "journal.jsonl", triplets=folder / "triplets.jsonl"
    )


@pytest.mark.parametrize("form", ["auto", "plain", "json_schema"])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_fields_that_are_refused_by_name_are_left_out(
    tmp_path: Path,
    provider: Provider,
    knobs_for: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    form: str,
    concurrency: int,
) -> None:
    provider.unknown = ("frequency_penalty", "seed", "max_completion_tokens", "response_format")
    provider.say = None if form != "auto" else tagged  # type: ignore[assignment]
    if form != "auto":
        provider.say = plain
    knobs = knobs_for(form=form, concurrency=concurrency, extra={"frequency_penalty": 0.5})
    assert len(write(tmp_path, knobs, CAPTIONS[:8])) == 8
    answered = [body for body in provider.requests if not set(provider.unknown) & set(body)]
    assert {body["max_tokens"] for body in answered} == {256}
    said = capsys.readouterr().err
    assert re.search(r"does not take \b.*frequency_penalty", said)
    assert re.search(r"does not take \b.*max_completion_tokens", said)
    # The next run knows.
    before = len(provider.requests)
    assert len(write(tmp_path, knobs)) == len(CAPTIONS)
    assert len(provider.requests) - before == 4


def tagged(asked: dict[str, Any]) -> str:
    return (
        "<instruction>make it blue</instruction><edited_caption>a blue circle</edited_caption>"
        "<inverse_instruction>make it red</inverse_instruction>"
    )


def plain(asked: dict[str, Any]) -> str:
    return json.dumps(
        {"instruction": "do", "edited_caption": "a blue circle", "inverse_instruction": "undo"}
    )


def test_where_the_first_refusal_names_no_field_ours_are_left_out(
    tmp_path: Path, provider: Provider, knobs_for: Callable[..., Any]
) -> None:
    provider.unknown, provider.names_unknown = ("seed", "max_completion_tokens"), False
    assert len(write(tmp_path, knobs_for())) == len(CAPTIONS)
    assert len(provider.requests) == len(CAPTIONS) + 1


def test_a_field_that_is_not_to_blame_is_sent_again(
    tmp_path: Path, provider: Provider, knobs_for: Callable[..., Any]
) -> None:
    bad = CAPTIONS[0].text
    provider.behave = lambda asked, nth: "400" if asked["caption"] == bad else "good"
    assert len(write(tmp_path, knobs_for())) == len(CAPTIONS) - 1
    assert all("seed" in body for body in provider.requests[2:])
    assert "without" not in (tmp_path / "journal.jsonl").read_text()


def test_a_batch_whose_fields_are_refused_is_asked_again_without(
    tmp_path: Path, provider: Provider, knobs_for: Callable[..., Any]
) -> None:
    provider.unknown = ("seed",)
    knobs = knobs_for(batch=True, batch_poll_s=0.01)
    with pytest.raises(ServerError, match="12 of 12 questions got no answer.*run again"):
        write(tmp_path, knobs)
    assert len(write(tmp_path, knobs)) == len(CAPTIONS)


def test_answers_stay_bounded() -> None:
    fields = RequestFields()
    body = {"messages": [], "max_completion_tokens": 9, "max_tokens": 7, "seed": 1}
    how: dict[str, Any] = {"required": NONE, "guess": False}
    said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    assert fields.drop(body, said, None, **how) == {"max_tokens"}
    sent = fields.adapted(body)
    assert sent == {"messages": [], "max_completion_tokens": 9, "seed": 1}
    fields = RequestFields(["max_completion_tokens"])
    sent = fields.adapted({"max_completion_tokens": 9})
    assert sent == {"max_tokens": 9}
    assert fields.drop(sent, "no max_tokens", None, **how) == NONE


def test_the_field_that_a_refusal_is_about_counts_before_its_words() -> None:
    body = {"messages": [], "temperature": 1, "seed": 1, "response_format": {}}
    fields = RequestFields()
    required = frozenset({"response_format"})
    assert fields.drop(body, "seed", "messages", required=NONE, guess=True) == NONE
    assert fields.drop(body, "x", "response_format.type", required=required, guess=False) == NONE
    found = fields.drop(body, "seed", "temperature", required=NONE, guess=False)
    assert found == {"temperature"}
    assert fields.drop(body, "seeds, reseed", None, required=NONE, guess=False) == NONE

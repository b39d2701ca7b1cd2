"""Moderation turns down captions before they are asked for, and answers before they are used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_gen.instructions.stage import write_triplets
from data_gen.records import Caption, EditTriplet
from inference.endpoints.failures import ServerError

CAPTIONS = [Caption.of(f"a red circle number {number}") for number in range(10)]


def write(folder: Path, knobs: Any) -> list[EditTriplet]:
    return write_triplets(
        CAPTIONS, knobs, journal=folder / "journal.jsonl", triplets=folder / "triplets.jsonl"
    )


def test_flagged_captions_and_answers_are_rejected_once(
    tmp_path: Path,
    provider: Any,
    knobs_for: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    provider.flags = "number 3$|blue circle number 5"
    knobs = knobs_for(moderation="omni", rounds=2)
    written = write(tmp_path, knobs)
    assert {triplet.caption[-1] for triplet in written} == set("01246789")
    asked = [json.loads(request["messages"][-1]["content"]) for request in provider.requests]
    assert "a red circle number 3" not in {one["caption"] for one in asked}
    said = capsys.readouterr().out
    assert "'caption flagged by moderation: violence': 1" in said
    assert "'answer flagged by moderation: violence': 1" in said
    assert "10 captions: {'rejected': 2, 'written': 8}" in said
    before = len(provider.moderated)
    assert before == 10 + 9
    assert write(tmp_path, knobs) == written
    assert len(provider.moderated) == before


def test_an_endpoint_without_moderation_is_named_and_nothing_is_asked(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    provider._moderate = lambda body: {"results": []}
    with pytest.raises(ServerError, match="moderation by omni gave 0 verdicts for 10 texts"):
        write(tmp_path, knobs_for(moderation="omni"))
    assert provider.requests == []


def test_what_was_answered_before_is_looked_at_too(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    provider.flags = "blue circle number 5"
    assert len(write(tmp_path, knobs_for())) == 10
    assert len(write(tmp_path, knobs_for(moderation="omni"))) == 9
    assert len(provider.requests) == 10

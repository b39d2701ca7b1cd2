"""Quotas reach the mix where the model refuses, and replay from the journal alone."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_gen.instructions.prompts import edit_types_for
from data_gen.instructions.quotas import plan_round, round_of, steered
from data_gen.instructions.stage import plan_questions, write_triplets
from data_gen.records import Caption
from inference.content_id import content_id
from inference.endpoints.failures import ServerError

MIX = {"recolour": 3.0, "remove": 1.0, "move": 1.0}
CAPTIONS = [Caption.of(f"a red circle number {number}") for number in range(1500)]


def suits(caption: str, edit_type: str) -> bool:
    """Of three captions one can have something removed; nine of ten moves come out well."""
    number = int(content_id(caption, edit_type if edit_type == "move" else ""), 16)
    return {"recolour": True, "remove": number % 3 == 0, "move": number % 10 > 0}[edit_type]


def simulated(rounds: int, edits_per_caption: int = 1) -> dict[str, dict[str, bool | None]]:
    """What is asked of whom, and whether it suited."""
    past: dict[str, dict[str, bool | None]] = {}
    for number in range(1, rounds + 1):
        come = [caption for caption in CAPTIONS if round_of(caption.id, rounds) <= number]
        asked = plan_round(come, past, MIX, edits_per_caption=edits_per_caption)
        for caption, edit_type in asked:
            assert edit_type not in past.get(caption.id, {})
            past.setdefault(caption.id, {})[edit_type] = suits(caption.text, edit_type)
    return past


def mix_of(past: dict[str, dict[str, bool | None]]) -> dict[str, float]:
    usable = Counter(name for asked in past.values() for name, ok in asked.items() if ok)
    return {name: usable[name] / usable.total() for name in MIX}


def test_one_round_asks_what_the_mix_alone_draws() -> None:
    past = simulated(1)
    assert {caption.id: list(past[caption.id]) for caption in CAPTIONS} == {
        caption.id: edit_types_for(caption.id, MIX, 1) for caption in CAPTIONS
    }
    assert abs(mix_of(past)["remove"] - 1 / 5) > 0.1


@pytest.mark.parametrize("rounds", [4, 8, 16])
def test_rounds_bring_the_mix_and_nearly_every_caption_an_edit(rounds: int) -> None:
    past = simulated(rounds)
    for name, share in mix_of(past).items():
        assert share == pytest.approx(MIX[name] / 5, abs=0.03)
    # What the last round asks for in vain stays without an edit.
    assert sum(any(asked.values()) for asked in past.values()) > (1 - 0.3 / rounds) * len(CAPTIONS)


def test_a_type_that_is_always_refused_takes_no_caption_with_it() -> None:
    captions = CAPTIONS[:300]
    past: dict[str, dict[str, bool | None]] = {}
    for number in range(1, 9):
        mix = {"remove": 1.0, "recolour": 1.0}
        come = [caption for caption in captions if round_of(caption.id, 8) <= number]
        for caption, kind in plan_round(come, past, mix, edits_per_caption=1):
            past.setdefault(caption.id, {})[kind] = kind == "recolour"
    assert sum(any(asked.values()) for asked in past.values()) > 0.75 * len(captions)


def test_several_edits_a_caption_are_of_different_types_and_made_up_for() -> None:
    past = simulated(8, edits_per_caption=2)
    counts = Counter(sum(ok is True for ok in asked.values()) for asked in past.values())
    assert counts[3] == 0
    assert counts[2] > 0.75 * len(CAPTIONS)


def test_what_failed_is_waited_for_and_not_asked_in_another_way() -> None:
    caption = CAPTIONS[0]
    past = {caption.id: {"move": None}}
    assert plan_round([caption], past, MIX, edits_per_caption=1) == []
    past = {caption.id: {"move": False}}
    ((_, again),) = plan_round([caption], past, MIX, edits_per_caption=1)
    assert again in ("recolour", "remove")


def test_weights_lean_towards_what_is_behind() -> None:
    past = {str(number): {"remove": number % 4 == 0, "move": True} for number in range(40)}
    weights = steered({"remove": 1.0, "move": 1.0}, past, {f"new {n}": 1 for n in range(20)})
    assert weights["remove"] / weights["move"] > 10
    assert weights["move"] > 0


def test_a_larger_data_set_asks_most_of_the_smaller_ones_questions() -> None:
    some, more = ({c.id: c for c in CAPTIONS[:count]} for count in (1000, 1500))
    asked = {}
    for name, captions in (("some", some), ("more", more)):
        past: dict[str, dict[str, bool | None]] = {}
        for number in range(1, 9):
            come = [caption for caption in captions.values() if round_of(caption.id, 8) <= number]
            for caption, kind in plan_round(come, past, MIX, edits_per_caption=1):
                past.setdefault(caption.id, {})[kind] = suits(caption.text, kind)
        asked[name] = {(name, kind) for name, kinds in past.items() for kind in kinds}
    assert len(asked["some"] & asked["more"]) > 0.85 * len(asked["some"])


def say(asked: dict[str, Any]) -> str:
    if not suits(asked["caption"], asked["edit_type"]):
        return "{}"
    return json.dumps(
        {
            "instruction": f"{asked['edit_type']} it",
            "edited_caption": f"{asked['caption']}, {asked['edit_type']}",
            "inverse_instruction": "back",
        }
    )


def test_the_plan_is_a_function_of_the_journal(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    provider.say = say
    knobs = knobs_for(edit_types=MIX, rounds=4, concurrency=8)
    captions = CAPTIONS[:30]

    def write(name: str, **changes: Any) -> set[str]:
        folder = tmp_path / name
        found = write_triplets(
            captions,
            replace(knobs, **changes),
            journal=folder / "journal.jsonl",
            triplets=folder / "triplets.jsonl",
        )
        return {triplet.id for triplet in found}

    whole = write("whole")
    before = len(provider.seeds)
    assert write("whole") == whole
    assert len(provider.seeds) == before
    # Cut at any line, it ends in the same questions.
    lines = (tmp_path / "whole/journal.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (len(lines) // 2, len(lines) - 3):
        folder = tmp_path / f"cut-{kept}"
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:9])
        assert write(folder.name) == whole


def test_answers_that_come_late_change_no_plan(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    provider.say = say
    provider.behave = lambda asked, nth: (
        "500" if asked["caption"].endswith("7") and not nth else "good"
    )
    knobs = knobs_for(edit_types=MIX, rounds=4, max_retries=0)
    files = {"journal": tmp_path / "journal.jsonl", "triplets": tmp_path / "triplets.jsonl"}
    with pytest.raises(ServerError, match="got no answer"):
        write_triplets(CAPTIONS[:40], knobs, **files)
    failed = sum(caption.text.endswith("7") for caption in CAPTIONS[:40])
    before = len(provider.requests)
    write_triplets(CAPTIONS[:40], knobs, **files)
    assert len(provider.requests) - before == failed


def test_questions_have_the_ids_they_always_had(knobs_for: Callable[..., Any]) -> None:
    (asked,) = plan_questions([Caption.of("a red circle")], knobs_for())
    # Of a data set made before there were rounds, forms and examples.
    assert asked == "7d7b078c02ca58a1"


def test_rounds_share_the_captions_and_get_smaller() -> None:
    sizes = Counter(round_of(caption.id, 4) for caption in CAPTIONS)
    for number, share in {1: 0.4, 2: 0.3, 3: 0.2, 4: 0.1}.items():
        assert sizes[number] / len(CAPTIONS) == pytest.approx(share, abs=0.03)
    assert {round_of(caption.id, 1) for caption in CAPTIONS} == {1}

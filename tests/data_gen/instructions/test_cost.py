"""The estimate is near what a run then takes, and its upper end is never passed."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from data_gen.instructions.cost import estimate_asking
from data_gen.instructions.stage import write_triplets
from data_gen.records import Caption
from inference.endpoints.budget import Prices

CAPTIONS = [Caption.of(f"a red circle on a wide green field, number {n}") for n in range(12)]


def test_an_estimate_is_near_the_truth(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    provider.say = lambda asked: json.dumps(
        {
            "instruction": "turn the circle blue",
            "edited_caption": asked["caption"].replace("red", "blue"),
            "inverse_instruction": "turn the circle red again",
        }
    )
    knobs = knobs_for(prices=Prices(input=0.25, output=2.0))
    cost = estimate_asking([*CAPTIONS, Caption.of("<b>markup</b>")], knobs)
    write_triplets(CAPTIONS, knobs, journal=tmp_path / "j", triplets=tmp_path / "t")
    assert cost.questions == 12
    assert float(cost.dollars) == pytest.approx(float(provider.billed), rel=0.1)
    assert provider.billed < cost.dollars_at_most


def test_nothing_costs_nothing(knobs_for: Callable[..., Any]) -> None:
    assert estimate_asking(CAPTIONS, knobs_for()).dollars == 0
    cost = estimate_asking([], knobs_for(prices=Prices(input=1.0, output=1.0)))
    assert (cost.questions, cost.dollars_at_most) == (0, Decimal())


def test_a_large_set_is_estimated_from_a_sample(knobs_for: Callable[..., Any]) -> None:
    knobs = knobs_for(prices=Prices(input=1.0, output=1.0, batch_share=0.5))
    captions = [Caption.of(f"a red circle, number {n:06d}") for n in range(5000)]
    whole = estimate_asking(captions, knobs)
    some = estimate_asking(captions[:1000], knobs)
    assert float(whole.dollars) == pytest.approx(5 * float(some.dollars), rel=0.01)
    half = estimate_asking(captions, knobs_for(prices=knobs.prices, batch=True))
    assert float(half.dollars) == pytest.approx(float(whole.dollars) / 2)

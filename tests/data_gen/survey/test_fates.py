"""What became of a candidate, and which key of the recipe decided so."""

import pytest

from data_gen.rendering.grown import ENOUGH, NOT_FINITE
from data_gen.survey.fates import fate, recipe_key


@pytest.mark.parametrize(
    ("reason", "became", "key"),
    [
        (None, "kept", None),
        ("not the best p of its seed", "outranked", "pairs.filter.best_p_per_seed"),
        ("not among the best 2", "outranked", "pairs.filter.keep"),
        (ENOUGH, "outranked", "pairs.early.p_in_turn"),
        ("directional < 0.2", "turned down", "pairs.filter.thresholds.directional"),
        ("source: text_source < 0.2", "turned down", "pairs.filter.thresholds.text_source"),
        ("source: surprise > 0.01", "turned down", "pairs.filter.at_most.surprise"),
        ("dino < 0.6", "turned down", "pairs.filter.at_least.dino"),
        ("draft: image_image < 0.6", "turned down", "pairs.early.draft_at"),
        ("unsafe", "turned down", "pairs.scorers.safety"),
        (NOT_FINITE, "turned down", "pairs.precision"),
        ("a caption exceeds CLIP's 77 tokens", "turned down", None),
    ],
)
def test_reasons(reason: str | None, became: str, key: str | None) -> None:
    assert fate(reason) == became
    assert (None if reason is None else recipe_key(reason)) == key

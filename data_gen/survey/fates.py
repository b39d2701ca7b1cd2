"""What became of a candidate: kept, passed and outranked, or turned down, and by which recipe key.

A candidate's reason is a sentence in the table of candidates (see `runs.units`). What failed
something is told apart here from what merely was not needed: a share of failures that counts both
says nothing about the pairs.
"""

import re
from collections.abc import Mapping
from typing import Final, Literal

from data_gen.judging.filter import NO_JUDGEMENT, UNSAFE
from data_gen.rendering.grown import ENOUGH, NOT_FINITE

Fate = Literal["kept", "outranked", "turned down"]

_OUTRANKED: Final[Mapping[str, str]] = {
    "not the best p of its seed": "pairs.filter.best_p_per_seed",
    "not among the best ": "pairs.filter.keep",
    ENOUGH: "pairs.early.p_in_turn",
}
"""How the reasons of candidates begin that failed nothing -> the recipe's key."""
_FAILED: Final[Mapping[str, str]] = {
    UNSAFE: "pairs.scorers.safety",
    NO_JUDGEMENT: "pairs.filter.at_least.judge",
    NOT_FINITE: "pairs.precision",
}
_BOUND: Final = re.compile(r"(?P<stage>source: |draft: )?(?P<score>\w+) (?P<side>[<>]) \S+")
_SIMILARITIES: Final = ("image_image", "text_source", "text_edited", "directional")


def fate(reason: str | None) -> Fate:
    """What became of a candidate, by the reason that it left; None where it was kept."""
    if reason is None:
        return "kept"
    return "outranked" if reason.startswith(tuple(_OUTRANKED)) else "turned down"


def recipe_key(reason: str) -> str | None:
    """The key of the recipe that decided so; None where there is none, or it is not known."""
    for beginning, key in {**_OUTRANKED, **_FAILED}.items():
        if reason.startswith(beginning):
            return key
    bound = _BOUND.fullmatch(reason)
    if bound is None:
        return None
    if bound["stage"] == "draft: ":
        return "pairs.early.draft_at"
    score = bound["score"]
    if bound["side"] == ">":
        return f"pairs.filter.at_most.{score}"
    part = "thresholds" if score in _SIMILARITIES else "at_least"
    return f"pairs.filter.{part}.{score}"

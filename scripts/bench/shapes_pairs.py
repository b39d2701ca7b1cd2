"""Pair generation in the shapes world: what survives the filter, and how much of it is right."""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import yaml
from shapes_captions import asked, kinds_of, unseen_captions
from tables import header, row, share

from data_gen.judging.config import FilterKnobs, Thresholds
from data_gen.judging.filter import judge, select
from data_gen.records import ImagePair
from data_gen.rendering.config import RenderKnobs, Share
from data_gen.rendering.painting import Painter
from inference.backbone import load_backbone
from inference.clip import load_clip
from inference.progress import ProgressBar
from inference.shapes import MODELS
from inference.shapes.edits import EDIT_TYPES, EditType
from inference.shapes.judging import judge_pair

RECIPE: Final = Path("data_gen/recipes/shapes.yaml")
SHARES: Final[tuple[Share, ...]] = ("self", "cross")


class Candidate(NamedTuple):
    """A rendered pair: whether it is right, reaches CLIP's thresholds, and by whom it is kept."""

    pair: ImagePair
    right: bool
    passes: bool
    kept_by: frozenset[str]


def pairs(
    count: int = 1000,
    model: Path = MODELS / "stable-diffusion",
    shares: tuple[Share, ...] = SHARES,
    only: tuple[EditType, ...] = EDIT_TYPES,
) -> None:
    """Pair generation: what survives the filter, and how much of it is right, by reading.

    Args:
        count: Captions for the shipped writer, unseen, which say as much as the recipe's.
        model: Diffusers folder of the text-to-image model.
        shares: What source and target share.
        only: Edit types to render, of all that were asked for.
    """
    answered, _ = asked(unseen_captions(count, detail=recipe()["captions"]["scenes"]["detail"]))
    triplets = [triplet for triplet in answered if triplet.edit_type in only]
    backbone, scorer = load_backbone(model, dtype=torch.bfloat16), load_clip(MODELS / "clip")
    thresholds = Thresholds.of_checkpoint(scorer.thresholds)
    chosen_by = {
        "direction": FilterKnobs(keep=1),
        "closeness": FilterKnobs(keep=1, prefer="closeness"),
        "recipe": FilterKnobs(**recipe()["pairs"]["filter"]),
    }
    for sharing in shares:
        knobs = replace(render_knobs(), share=sharing)
        found: list[Candidate] = []
        painter = Painter(
            backbone=backbone, scorer=scorer, render=knobs, filter=chosen_by["recipe"]
        )
        for _, verdicts in ProgressBar(
            painter(triplets), total=len(triplets), desc=sharing, mininterval=10
        ):
            pairs = [verdict.pair for verdict in verdicts]
            kept = {
                name: {v.pair.key for v in select(pairs, thresholds, how) if v.reason is None}
                for name, how in chosen_by.items()
            }
            for pair in pairs:
                wrong = judge_pair(pair.source, pair.triplet.instruction, pair.edited)
                by = frozenset(name for name, keys in kept.items() if pair.key in keys)
                passes = pair.scores is not None and judge(pair.scores, thresholds) is None
                found.append(Candidate(pair, not wrong, passes, by))
        print(f"\nshare: {sharing}, {len(triplets)} triplets\n")
        columns = ("candidates", "passed", *(f"kept by {name}" for name in chosen_by))
        header("edit type", "triplets", *columns, "survive")
        for name in (*EDIT_TYPES, "all"):
            mine = [c for c in found if c.pair.triplet.edit_type in kinds_of(name)]
            row(name, *survival(mine, tuple(chosen_by)))
        for low in np.arange(0, 1, 0.2):
            mine = [c for c in found if low <= c.pair.p < low + 0.2]
            if mine:
                row(f"p from {low:.1f}", *survival(mine, tuple(chosen_by)))


def recipe() -> dict[str, Any]:
    """The recipe `shapes.yaml`."""
    found: dict[str, Any] = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    return found


def render_knobs() -> RenderKnobs:
    """How it renders."""
    knobs = recipe()["pairs"]["render"]
    ranges = {name: tuple(knobs.pop(name)) for name in ("p_range", "guidance_range")}
    of_kinds = {kind: tuple(found) for kind, found in knobs.pop("p_ranges").items()}
    return RenderKnobs(**knobs, **ranges, p_ranges=of_kinds)


def survival(candidates: Sequence[Candidate], chosen_by: Sequence[str]) -> Iterator[object]:
    """Triplets; how many of the candidates, of those that pass and of those kept are right.

    Last, the share of the triplets of which the last way of choosing keeps a pair.
    """
    triplets = {one.pair.triplet.id for one in candidates}
    yield len(triplets)
    kept = [[one for one in candidates if name in one.kept_by] for name in chosen_by]
    for some in (candidates, [one for one in candidates if one.passes], *kept):
        yield f"{share([one.right for one in some])} of {len(some)}"
    yield f"{len(kept[-1]) / max(1, len(triplets)):.0%}"

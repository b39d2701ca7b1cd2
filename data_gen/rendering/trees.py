"""What a pair is drawn from: the knobs of rendering, and the trees that they give a triplet.

A *tree* is one seed of a triplet: one noise, one guidance scale and some values of p. What is
random about it is a function of the triplet and the seed, never of worker or order. `pairs` renders
trees.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BeforeValidator

from data_gen.records import EditTriplet
from data_gen.rendering.prefix_tree import shared_steps
from inference.noise import keyed_seed
from inference.number_types import (
    FractionBelowOne,
    FractionRange,
    Limits,
    NonNegativeRange,
    PixelCount,
    PositiveSmallCount,
    checks_numbers,
)
from inference.samplers import SamplerName

Share = Literal["self", "cross", "both"]


BatchRows = Annotated[int, BeforeValidator(Limits(int, 4, 65_536).read)]
"""UNet rows a call: at least those of one guided source and its target."""


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class RenderKnobs:
    """How pairs are rendered.

    Attributes:
        share: Attention that source and target share: InstructPix2Pix's self-attention, or
            Prompt-to-Prompt's cross-attention, which keeps more of the source, or both.
        steps: Steps of the sampler.
        seeds: Trees a triplet; each has its own noise and guidance scale.
        seeds_of: Trees for single edit types: what seldom succeeds needs more to choose from.
        branches: Values of p a tree. Few steps leave few different outcomes: where the range holds
            no more of them than this, each is taken once.
        p_range: Range of p; its equal parts, one a branch, are drawn from uniformly.
        p_ranges: Ranges for single edit types: what moves a figure needs a smaller p.
        together: Fraction of the steps that source and target take as one picture, under the
            source's caption, before the edited one sets in; a p below it shares nothing after.
            What has settled by then is the same in both: layout first, colours with it, then
            shapes, then texture (prompt mixing, Patashnik et al. 2023).
        together_of: The same for single edit types: a change of shape can wait for the layout.
        guidance_range: Range that the guidance scale of a tree is drawn from, uniformly. Where it
            is 1 to 1, nothing is guided, which halves the UNet rows; distilled models want that.
        sampler: Name of the sampler.
        size: Side of the square images in pixels; None for what the model was made for.
        batch_rows: UNet rows a call, at most. Two for each image in the making, one if unguided.
    """

    share: Share = "self"
    steps: PositiveSmallCount = 25
    seeds: PositiveSmallCount = 4
    seeds_of: Mapping[str, PositiveSmallCount] = field(default_factory=dict)
    branches: PositiveSmallCount = 4
    p_range: FractionRange = (0.1, 0.9)
    p_ranges: Mapping[str, FractionRange] = field(default_factory=dict)
    together: FractionBelowOne = 0.0
    together_of: Mapping[str, FractionBelowOne] = field(default_factory=dict)
    guidance_range: NonNegativeRange = (7.5, 15.0)
    sampler: SamplerName = "euler_ancestral"
    size: PixelCount | None = None
    batch_rows: BatchRows = 64

    def seeds_for(self, triplet: EditTriplet) -> int:
        """How many trees a triplet gets."""
        return self.seeds_of.get(triplet.edit_type, self.seeds)


@dataclass(frozen=True, kw_only=True)
class Tree:
    """All candidates of one seed of a triplet.

    Attributes:
        triplet: The texts.
        seed_index: Which of the triplet's seeds; the noise is a function of the two.
        guidance: Classifier-free guidance scale.
        ps: One p a branch.
        together: Fraction of the steps that source and target take as one.
    """

    triplet: EditTriplet
    seed_index: int
    guidance: float
    ps: tuple[float, ...]
    together: float = 0.0


def draw_tree(triplet: EditTriplet, seed_index: int, knobs: RenderKnobs) -> Tree:
    """Draw a tree: guidance = f(triplet, seed), p = f(triplet, seed, branch)."""
    key = (triplet.id, seed_index)
    low, high = knobs.p_ranges.get(triplet.edit_type, knobs.p_range)
    return Tree(
        triplet=triplet,
        seed_index=seed_index,
        guidance=_uniform(*knobs.guidance_range, *key, "guidance"),
        ps=_all_ps(low, high, knobs) or _drawn_ps(low, high, knobs, key),
        together=knobs.together_of.get(triplet.edit_type, knobs.together),
    )


def _drawn_ps(
    low: float, high: float, knobs: RenderKnobs, key: tuple[str, int]
) -> tuple[float, ...]:
    """Branch b of k draws its p from the b-th of k equal parts of the range.

    Over the branches that is InstructPix2Pix's uniform draw, but two branches seldom share the same
    number of steps, which would give the same image twice.
    """
    part = (high - low) / knobs.branches
    return tuple(
        _uniform(low + part * branch, low + part * (branch + 1), *key, "p", branch)
        for branch in range(knobs.branches)
    )


def _all_ps(low: float, high: float, knobs: RenderKnobs) -> tuple[float, ...]:
    """The largest p of each outcome in the range, or none where branches are too few for all."""
    fewest, most = shared_steps(low, knobs.steps), shared_steps(high, knobs.steps)
    if most - fewest >= knobs.branches:
        return ()
    return tuple(min(n / max(1, knobs.steps - 1), high) for n in range(fewest, most + 1))


def _uniform(low: float, high: float, *key: str | int) -> float:
    return random.Random(keyed_seed(*key)).uniform(low, high)

"""What a pair is drawn from: the knobs of rendering, and the trees that they give a triplet.

A *tree* is one seed of a triplet: one noise, one guidance scale and some values of p. What is
random about it is a function of the triplet and the seed, never of worker or order. `pairs` renders
trees.
"""

import random
from dataclasses import dataclass

from data_gen.records import EditTriplet
from data_gen.rendering.config import RenderKnobs
from data_gen.rendering.prefix_tree import shared_steps
from inference.noise import keyed_seed


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

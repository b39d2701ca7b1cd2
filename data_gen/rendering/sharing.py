"""What p does: how much of a pair changes that the edit does not concern.

InstructPix2Pix's p is the fraction of the steps with shared attention: the larger it is, the more
of the source stays. Here the same tree is rendered at several values of p, so that the comparison
is paired: same captions, same noise, same guidance.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_gen.records import EditTriplet, ImagePair
from data_gen.rendering.config import RenderKnobs
from data_gen.rendering.pairs import render_trees
from data_gen.rendering.trees import Tree, draw_tree
from inference.backbone import Backbone
from inference.progress import ProgressBar

Region = Callable[[ImagePair], NDArray[np.bool_] | None]
"""The part of a pair that its edit does not concern, (H, W); None where that is not known."""

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class SharingStudy:
    """Change outside the edited region against p, over N trees.

    Attributes:
        ps: The values of p, rising; P of them.
        changes: (N, P) mean absolute change on [-1, 1] of each tree at each p.
        left_out: Trees whose region was not known, or whose pictures were not all finite.
    """

    ps: tuple[float, ...]
    changes: NDArray[np.float64]
    left_out: int

    def mean(self) -> NDArray[np.float64]:
        """Mean change at each p, (P,)."""
        return np.asarray(self.changes.mean(axis=0))

    def interval(self, resamples: int = 2000) -> NDArray[np.float64]:
        """Bootstrap 95 % interval of each mean, (2, P)."""
        return np.asarray(np.quantile(self._resampled(resamples), (0.025, 0.975), axis=0))

    def ratio(self, resamples: int = 2000) -> tuple[float, Interval]:
        """Change at the largest p over that at the smallest, with its paired 95 % interval."""
        means = self._resampled(resamples)
        low, high = np.quantile(means[:, -1] / means[:, 0], (0.025, 0.975))
        mean = self.mean()
        return float(mean[-1] / mean[0]), (float(low), float(high))

    def steps_down(self, resamples: int = 2000) -> list[tuple[float, Interval]]:
        """Paired difference from each p to the next, with its 95 % interval; negative is less."""
        means = self._resampled(resamples)
        differences = np.diff(means, axis=1)
        bounds = np.quantile(differences, (0.025, 0.975), axis=0)
        return [
            (float(value), (float(low), float(high)))
            for value, low, high in zip(np.diff(self.mean()), *bounds, strict=True)
        ]

    def _resampled(self, resamples: int) -> NDArray[np.float64]:
        """Means of bootstrap samples of the trees, (resamples, P)."""
        count = len(self.changes)
        rows = np.random.default_rng(0).integers(count, size=(resamples, count))
        return np.asarray(self.changes[rows].mean(axis=1))


def study_sharing(
    backbone: Backbone,
    triplets: Sequence[EditTriplet],
    ps: Sequence[float],
    knobs: RenderKnobs,
    region: Region,
) -> SharingStudy:
    """Render one tree a triplet at every p and measure what changes outside the edited region.

    Args:
        backbone: A text-to-image model.
        triplets: What to render.
        ps: Values of p, rising.
        knobs: How to render.
        region: Where to measure.

    Raises:
        ValueError: The region of not one pair is known.
    """
    at_once = max(1, knobs.batch_rows // 4)
    rows: list[list[float]] = []
    for start in ProgressBar(range(0, len(triplets), at_once), desc=f"sharing: {knobs.share}"):
        trees = [
            Tree(triplet=triplet, seed_index=0, guidance=drawn.guidance, ps=tuple(ps))
            for triplet in triplets[start : start + at_once]
            for drawn in [draw_tree(triplet, 0, knobs)]
        ]
        for grown in render_trees(backbone, trees, knobs):
            where = None if grown.given_up else region(grown.pairs[0])
            if where is not None and where.any():
                rows.append([change(pair, where) for pair in grown.pairs])
    if not rows:
        raise ValueError(f"the region to measure in is known for none of {len(triplets)} triplets")
    return SharingStudy(ps=tuple(ps), changes=np.array(rows), left_out=len(triplets) - len(rows))


def change(pair: ImagePair, where: NDArray[np.bool_]) -> float:
    """Mean absolute difference between the images of a pair within a region, on [-1, 1]."""
    difference = np.abs(pair.source.astype(np.float64) - pair.edited) / 127.5
    return float(difference.mean(axis=-1)[where].mean())

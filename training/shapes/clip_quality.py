"""How good a CLIP of the shapes world is, and which similarities are good enough for a pair.

Measured on true edits: pairs of drawn pictures with the captions of both. Wrong are the captions of
another scene, of another edit, or of another edit of the same type on the same picture, which is
the hardest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.clip import ClipScorer
from inference.shapes.captions import Description, caption
from inference.shapes.edits import edit_description, propose
from training.shapes.pairs import EditPair, draw_pair
from training.shapes.scenes import Pictures, picture, rng, to_model

KEPT: Final = 0.95
"""Share of true pairs that each threshold must let pass."""
_CHOICES = 32
"""Scenes among whose captions, and those of their edits, a picture has to find its own."""


@dataclass(frozen=True, kw_only=True)
class Similarities:
    """Values of one similarity: (N,) of right pairs and (N,) of wrong ones."""

    right: Tensor
    wrong: Tensor

    def summary(self) -> str:
        """Percentiles 5, 50 and 95 of both."""
        return f"right {_percentiles(self.right)}, wrong {_percentiles(self.wrong)}"


@dataclass(frozen=True, kw_only=True)
class ClipQuality:
    """What was measured on N true pairs.

    Attributes:
        kinds: Edit type of each pair.
        hits: (M,) bool, whether a picture's caption won among 64, its near-misses included.
        scores: Name of a similarity, as in `inference.clip`, to its values.
        same_type: Directional similarity with the right edit, and with another of its type; of
            those pairs that allow another.
    """

    kinds: Sequence[str]
    hits: Tensor
    scores: Mapping[str, Similarities]
    same_type: Similarities

    @property
    def top1(self) -> float:
        """Share of hits."""
        return float(self.hits.float().mean())

    @property
    def auc(self) -> float:
        """Chance that a right edit scores above another of its type."""
        return auc(self.same_type)


def measure_clip(scorer: ClipScorer, count: int, seed: int) -> ClipQuality:
    """Measure on the first `count` pairs of a seed."""
    pairs = [draw_pair(seed, index) for index in range(count)]
    source = encode_pictures(scorer, np.stack([picture(pair.source) for pair in pairs]))
    edited = encode_pictures(scorer, np.stack([picture(pair.edited) for pair in pairs]))
    before = scorer.text([caption(pair.description) for pair in pairs])
    after = scorer.text([caption(pair.edited_description) for pair in pairs])
    change, said = F.normalize(edited - source, dim=-1), F.normalize(after - before, dim=-1)

    def similarities(one: Tensor, other: Tensor, wrong: Tensor) -> Similarities:
        return Similarities(right=(one * other).sum(-1), wrong=(one * wrong).sum(-1))

    others = [another_of_its_type(pair, seed, index) for index, pair in enumerate(pairs)]
    rows = [row for row, other in enumerate(others) if other is not None]
    instead = scorer.text([caption(other) for other in others if other is not None])
    return ClipQuality(
        kinds=[pair.edit.kind for pair in pairs],
        hits=retrieved(source, before, after),
        scores={
            "image_image": similarities(source, edited, source.roll(1, 0)),
            "text_source": similarities(source, before, before.roll(1, 0)),
            "text_edited": similarities(edited, after, after.roll(1, 0)),
            "directional": similarities(change, said, said.roll(1, 0)),
        },
        same_type=similarities(
            change[rows], said[rows], F.normalize(instead - before[rows], dim=-1)
        ),
    )


def another_of_its_type(pair: EditPair, seed: int, index: int) -> Description | None:
    """What another edit of the same type makes of the scene; None where there seems to be none."""
    draw = rng("another edit", seed, index)
    for _ in range(20):
        edit = propose(pair.description, pair.edit.kind, draw)
        if edit is None:
            return None
        other = edit_description(edit, pair.description)
        if other != pair.edited_description:
            return other
    return None


def encode_pictures(scorer: ClipScorer, pictures: Pictures) -> Tensor:
    """Unit features of (N, 64, 64, 3) uint8 pictures, (N, D)."""
    chunks = [pictures[start : start + 128] for start in range(0, len(pictures), 128)]
    return torch.cat([scorer.image(to_model(chunk)) for chunk in chunks])


def retrieved(source: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Whether each picture's caption wins among those of 32 scenes and of their edits."""
    hits = []
    for start in range(0, len(source) - _CHOICES + 1, _CHOICES):
        rows = slice(start, start + _CHOICES)
        scores = source[rows] @ torch.cat([before[rows], after[rows]]).T
        hits.append(scores.argmax(dim=1) == torch.arange(_CHOICES))
    return torch.cat(hits)


def thresholds(quality: ClipQuality) -> dict[str, float]:
    """For each similarity the value that parts right from wrong with the fewest errors.

    It is lowered where it would turn down more than `1 - KEPT` of the true pairs; that of the two
    images, which says nothing of the instruction, where it would do so to any one edit type: a new
    background changes more of a picture than a new pattern does, and is no worse for it.
    """
    found = {}
    for name, values in quality.scores.items():
        least = float(values.right.quantile(1 - KEPT))
        if name == "image_image":
            of_kinds = ([kind == one for one in quality.kinds] for kind in set(quality.kinds))
            least = min(float(values.right[rows].quantile(1 - KEPT)) for rows in of_kinds)
        found[name] = round(min(least, _parting(values)), 3)
    return found


def auc(values: Similarities) -> float:
    """Chance that a right value is above a wrong one (Mann and Whitney 1947)."""
    right, wrong = values.right[:, None], values.wrong
    return float(((right > wrong).float() + 0.5 * (right == wrong).float()).mean())


def _parting(values: Similarities) -> float:
    candidates = torch.cat([values.right, values.wrong]).sort().values
    errors = [
        (values.right < c).float().mean() + (values.wrong >= c).float().mean() for c in candidates
    ]
    return float(candidates[int(torch.stack(errors).argmin())])


def _percentiles(values: Tensor) -> str:
    return " ".join(f"{float(values.quantile(q)):.3f}" for q in (0.05, 0.5, 0.95))

"""Measures on held-out pairs: the loss by timestep, distances, similarities, right edits."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final, Self

import numpy as np
import torch
from torch import Tensor

from data_gen.records import ImagePair
from inference.clip import ClipScorer
from inference.images import from_numpy
from inference.shapes.judging import judge_pair
from training.data.config import Framing
from training.data.framing import Pixels, steady
from training.module import EditorTraining
from training.objective import Draws, draw, edit_loss

QUARTERS: Final = 4
"""Parts that the timesteps are measured in."""
TOGETHER: Final = 8
"""Pairs whose loss is computed at a time."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """B held-out pairs, cut to size; images are (H, W, 3) uint8, unknown captions empty."""

    instructions: list[str]
    captions: list[str]
    edited_captions: list[str]
    sources: list[Pixels]
    edited: list[Pixels]

    @property
    def captioned(self) -> list[bool]:
        """Whether both captions of a pair are known."""
        return [bool(a and b) for a, b in zip(self.captions, self.edited_captions, strict=True)]

    def first(self, count: int) -> Self:
        """At most `count` of them."""
        return self._part(slice(count))

    def parts(self, size: int) -> Iterator[Self]:
        """All of them, at most `size` at a time."""
        for start in range(0, len(self.instructions), size):
            yield self._part(slice(start, start + size))

    def _part(self, some: slice) -> Self:
        return type(self)(**{item.name: getattr(self, item.name)[some] for item in fields(self)})

    @classmethod
    def of(cls, pairs: Sequence[ImagePair], framing: Framing) -> Self:
        """Cut pairs to size without chance."""
        cut = [steady(framing, pair.source, pair.edited) for pair in pairs]
        return cls(
            instructions=[pair.triplet.instruction for pair in pairs],
            captions=[pair.triplet.caption for pair in pairs],
            edited_captions=[pair.triplet.edited_caption for pair in pairs],
            sources=[source for source, _ in cut],
            edited=[edited for _, edited in cut],
        )


def losses_by_timestep(module: EditorTraining, held: HeldOut) -> dict[int, float]:
    """The averaged weights' loss with both conditions, in each quarter of the timesteps.

    Noise and timesteps are the same every time: a function of the run's seed and a pair's place.

    Returns:
        The first timestep of each quarter, to its loss.
    """
    totals: defaultdict[int, float] = defaultdict(float)
    for number, part in enumerate(held.parts(TOGETHER)):
        for start, loss in _losses(module, part, first=number * TOGETHER).items():
            totals[start] += loss * len(part.instructions)
    return {start: total / len(held.instructions) for start, total in totals.items()}


@torch.no_grad()
def _losses(module: EditorTraining, held: HeldOut, *, first: int) -> dict[int, float]:
    """The same of a few pairs, the first of which has the place `first` among all."""
    edited, condition = module.encode(_batch(held.edited), _batch(held.sources))
    text = module.backbone.encode_text(held.instructions)
    count, timesteps = len(edited), len(module.alphas)
    drawn = draw(
        seed=module.seed,
        epochs=[-1] * count,  # no sample of training has this epoch
        positions=range(first, first + count),
        shape=edited.shape[1:],
        timesteps=timesteps,
        knobs=replace(module.objective, dropout=0.0, focus=0.0),
    )
    height, width = held.edited[0].shape[:2]
    sizes = torch.tensor([[height, width, 0, 0, height, width]]).expand(count, 6)
    losses = {}
    for quarter in range(QUARTERS):
        start = quarter * timesteps // QUARTERS
        here = drawn._replace(timesteps=start + drawn.timesteps // QUARTERS)
        losses[start] = edit_loss(
            module.average,
            edited=edited,
            condition=condition,
            text=text,
            sizes=sizes.to(edited.device),
            weights=torch.ones_like(edited[:, :1]),
            draws=Draws(*(part.to(edited.device) for part in here)),
            alphas=module.alphas,
            prediction_type=module.prediction_type,
            knobs=module.objective,
        ).item()
    return losses


def _batch(images: Sequence[Pixels]) -> Tensor:
    """(B, 3, H, W) uint8."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def distance(outputs: Sequence[Tensor], expected: Sequence[Pixels]) -> float:
    """Mean absolute difference on [-1, 1] of (3, H, W) outputs and what was expected of them."""
    wanted = torch.stack([from_numpy(image) for image in expected])
    return (torch.stack(list(outputs)) - wanted).abs().mean().item()


def similarities(scorer: ClipScorer, held: HeldOut, outputs: Sequence[Tensor]) -> dict[str, float]:
    """CLIP's image and directional similarity of sources and outputs, in the mean.

    The latter is of the pairs whose captions are known, and left out where there is none.
    """
    scores = scorer.scores(
        torch.stack([from_numpy(image) for image in held.sources]),
        torch.stack(list(outputs)),
        held.captions,
        held.edited_captions,
    )
    found = {"image_similarity": scores["image_image"].mean().item()}
    known = torch.tensor(held.captioned)
    if known.any():
        found["directional_similarity"] = scores["directional"][known].mean().item()
    return found


def carried_out_share(held: HeldOut, outputs: Sequence[Tensor]) -> float:
    """Share of the outputs that read back as the instruction asks, all else unchanged."""
    right = [
        not judge_pair(source, text, (output.permute(1, 2, 0).numpy() + 1) / 2)
        for source, text, output in zip(held.sources, held.instructions, outputs, strict=True)
    ]
    return float(np.mean(right))

"""Pairs on which the base learns to carry the layout in its self-attention.

In Stable Diffusion who attends to whom decides where things stand, and so shared self-attention
keeps a picture's layout (Tumanyan et al. 2022, section 4; it is what InstructPix2Pix shares). A
UNet as small as ours settles that in its convolutions, and takes shared maps for a disturbance. So
it is trained on what sharing asks of it: two pictures with the same layout and the same noise, the
second attending with the queries and keys of the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.attention import RowSharing
from inference.shapes.captions import caption
from inference.shapes.edits import EditType
from training.shapes.pairs import EditPair, draw_pair, pair_pictures
from training.shapes.scenes import Pictures, rng

KEEPING_LAYOUT: Final[frozenset[EditType]] = frozenset(
    {"recolour", "reshape", "background", "pattern", "style"}
)
"""Edits after which every figure stands where it stood."""


@dataclass(frozen=True, kw_only=True)
class LayoutPairs:
    """Pairs, and their pictures: pair i is `pictures[2 * i]` and `pictures[2 * i + 1]`."""

    pairs: Sequence[EditPair]
    pictures: Pictures


def layout_pairs(seed: int, count: int, cache: Path) -> LayoutPairs:
    """The first `count` pairs of a seed whose edits keep the layout; pictures kept in `cache`."""
    drawn = (draw_pair(seed, index) for index in count_from())
    pairs = list(islice((pair for pair in drawn if pair.edit.kind in KEEPING_LAYOUT), count))
    pictures = pair_pictures(pairs, cache / f"layout-pairs-{seed}-{count}.npy")
    return LayoutPairs(pairs=pairs, pictures=pictures.reshape(-1, *pictures.shape[2:]))


def draw_sharing(
    pairs: LayoutPairs, timesteps: Tensor, draw: torch.Generator, key: str, dropout: float
) -> tuple[NDArray[np.int64], list[str], Tensor, RowSharing]:
    """A batch of pairs, source and target in turn; either picture of a pair may be the source.

    The source is up to 40 % less noisy than its target: it knows the layout better, so that
    following its attention pays.

    Args:
        pairs: What to choose from.
        timesteps: (B,) those of a batch; every second one is used.
        draw: Generator of all but the captions.
        key: What the captions' dropout is a function of.
        dropout: Share of pairs whose two captions are both replaced by the empty one.

    Returns:
        (B,) rows of `pairs.pictures`; their captions; (B,) their timesteps; who attends as whom.
    """
    half = len(timesteps) // 2
    chosen = torch.randint(len(pairs.pairs), (half,), generator=draw).tolist()
    flipped = torch.randint(2, (half,), generator=draw).tolist()
    less = 1 - 0.4 * torch.rand(half, generator=draw)
    target = timesteps[::2]
    captions: list[str] = []
    for place, (index, flip) in enumerate(zip(chosen, flipped, strict=True)):
        pair = pairs.pairs[index]
        both = [caption(pair.description), caption(pair.edited_description)]
        kept = rng("caption", f"{key}/{place}").random() >= dropout
        captions += (both[::-1] if flip else both) if kept else ["", ""]
    rows = [
        2 * i + side for i, flip in zip(chosen, flipped, strict=True) for side in (flip, 1 - flip)
    ]
    sharing = RowSharing(self_attention=tuple((row, row + 1) for row in range(0, 2 * half, 2)))
    return (
        np.array(rows),
        captions,
        torch.stack([(target * less).long(), target], 1).flatten(),
        sharing,
    )

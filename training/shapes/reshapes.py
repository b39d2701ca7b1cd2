"""Pairs on which the base learns to change a figure's shape where it stands.

In much noise a figure is a blob, and the blob's size and place are settled long before its shape: a
large star's is as large as a small circle's. A picture that begins under one caption and goes on
under another (`together` in rendering) asks for more: the same figure, of another shape. So it is
trained on that: noise with which the edited picture looks, at the step where the captions change
places, like the source. From there on the source is a ghost in the noise, as it is in sampling.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.shapes.captions import caption
from training.shapes.layout import LayoutPairs

PARTED: Final = (450, 1000)
"""Timesteps at which the captions may change places."""


class Reshapes(NamedTuple):
    """A batch of B edited pictures, and how they are noised.

    Attributes:
        sources: (B,) rows of `LayoutPairs.pictures`.
        targets: (B,) rows of the edited pictures.
        clean: (B, 4, h, w), the edited pictures' latents.
        captions: What the edited pictures show.
        timesteps: (B,) none is before its captions changed places.
        noise: (B, 4, h, w), not standard normal: the ghost of the source is in it.
    """

    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    clean: Tensor
    captions: list[str]
    timesteps: Tensor
    noise: Tensor


def reshaped(pairs: LayoutPairs) -> list[int]:
    """The pairs whose edit changes a shape."""
    return [number for number, pair in enumerate(pairs.pairs) if pair.edit.kind == "reshape"]


def draw_reshapes(
    pairs: LayoutPairs,
    chosen_from: Sequence[int],
    latents: NDArray[np.float16],
    alphas: Tensor,
    timesteps: Tensor,
    draw: torch.Generator,
) -> Reshapes:
    """Draw a batch; either picture of a pair may be the source.

    Args:
        pairs: The pairs.
        chosen_from: Which of them change a shape.
        latents: (2 N, 4, h, w), those of their pictures.
        alphas: (T,) cumulative products of the noise schedule, on the CPU.
        timesteps: (B,) as for any batch; those from before the captions change are moved there.
        draw: Generator of all that is random.
    """
    count = len(timesteps)
    chosen = torch.tensor(chosen_from)[torch.randint(len(chosen_from), (count,), generator=draw)]
    flipped = torch.randint(2, (count,), generator=draw)
    parted = torch.randint(*PARTED, (count,), generator=draw)
    sources, targets = ((2 * chosen + side).numpy() for side in (flipped, 1 - flipped))
    captions = []
    for target in targets.tolist():
        pair = pairs.pairs[target // 2]
        captions.append(caption(pair.edited_description if target % 2 else pair.description))
    before, after = (
        torch.from_numpy(latents[rows].astype(np.float32)) for rows in (sources, targets)
    )
    a = alphas[parted][:, None, None, None]
    noise = torch.randn(after.shape, generator=draw)
    return Reshapes(
        sources=sources,
        targets=targets,
        clean=after,
        captions=captions,
        timesteps=torch.minimum(timesteps, parted),
        noise=noise + (a / (1 - a)).sqrt() * (before - after),
    )

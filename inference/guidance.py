"""Classifier-free guidance: pure functions on model outputs, ε and v alike."""

from typing import NamedTuple

from torch import Tensor


def cfg(uncond: Tensor, cond: Tensor, scale: float | Tensor) -> Tensor:
    """Classifier-free guidance, e_u + s·(e_c - e_u) (Ho & Salimans 2022, eq. 6 with s = 1 + w)."""
    return uncond + scale * (cond - uncond)


class DualWeights(NamedTuple):
    """What each model output counts in dual guidance; the three sum to 1."""

    full: float
    image_only: float
    uncond: float


def dual_weights(text_scale: float, image_scale: float) -> DualWeights:
    """The weights that InstructPix2Pix's eq. 3 gives each model output, its terms collected.

    An output of weight 0 need not be computed: at scales (1, 1) only the conditional one counts.
    """
    return DualWeights(text_scale, image_scale - text_scale, 1 - image_scale)


def dual_cfg(
    uncond: Tensor, image_only: Tensor, full: Tensor, *, text_scale: float, image_scale: float
) -> Tensor:
    """Guidance towards image and text: e_u + s_I·(e_i - e_u) + s_T·(e_f - e_i).

    Brooks et al. 2023 (InstructPix2Pix), eq. 3. Any scales are meant as they are: an image scale
    below 1 weakens the hold of the input image.

    Args:
        uncond: Model output without image and text, any shape.
        image_only: With the image, without the text.
        full: With both.
        text_scale: s_T.
        image_scale: s_I.
    """
    weights = dual_weights(text_scale, image_scale)
    return weights.full * full + weights.image_only * image_only + weights.uncond * uncond

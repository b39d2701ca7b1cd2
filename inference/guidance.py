"""Classifier-free guidance: pure functions on model outputs, ε and v alike."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from inference.number_types import Fraction, NonNegative, SmallCount, checks_numbers


def cfg(uncond: Tensor, cond: Tensor, scale: float | Tensor) -> Tensor:
    """Classifier-free guidance, e_u + s·(e_c - e_u) (Ho & Salimans 2022, eq. 6 with s = 1 + w)."""
    return uncond + scale * (cond - uncond)


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class ProximalGuidance:
    """Guidance only where it matters (Han et al. 2024, ProxEdit, section 3.2).

    Of e_c - e_u only what exceeds a quantile of it counts; elsewhere the picture is not led away,
    and late in the way it is put back onto the trajectory of its inversion, as the source is.

    Attributes:
        quantile: Share of the target's values, smallest first, that do not count. The authors take
            theirs over source and target, and the source's are all 0: their 0.7 is 0.4 here, their
            0.75 is 0.5.
        norm: What happens to the rest: `l0` keeps it, `l1` takes the threshold off it.
        back_below: Timestep below which the source, and what is not led of the target, are put
            back; 0 never does.
        back_rate: How far back, in [0, 1].
        dilate: Latents by which the places that are led are widened.
    """

    quantile: Fraction = 0.7
    norm: Literal["l0", "l1"] = "l0"
    back_below: NonNegative = 400.0
    back_rate: Fraction = 1.0
    dilate: SmallCount = 1

    def threshold(self, difference: Tensor) -> tuple[Tensor, Tensor]:
        """What is left of (B, C, h, w) differences, and where, (B, C, h, w) of 0 and 1."""
        size = difference.abs()
        least = torch.quantile(size.flatten(1), self.quantile, dim=1).view(-1, 1, 1, 1)
        led = (size > least).to(difference)
        left = difference if self.norm == "l0" else difference - difference.sign() * least
        return left * led, led

    def put_back(self, timestep: float, x: Tensor, original: Tensor, led: Tensor) -> Tensor:
        """The state after a step with what was not led put back; all (B, C, h, w)."""
        if timestep >= self.back_below:
            return x
        wide = F.max_pool2d(led, 2 * self.dilate + 1, stride=1, padding=self.dilate)
        return torch.lerp(x, original, self.back_rate * (1 - wide))  # exact where the weight is 1


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

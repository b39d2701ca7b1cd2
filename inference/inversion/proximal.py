"""Proximal guidance (Han et al. 2024, ProxEdit, section 3.2), as its options have it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from inference.inversion.config import ProximalGuidance


def threshold(config: ProximalGuidance, difference: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of (B, C, h, w) differences, and where, (B, C, h, w) of 0 and 1."""
    size = difference.abs()
    least = torch.quantile(size.flatten(1), config.quantile, dim=1).view(-1, 1, 1, 1)
    led = (size > least).to(difference)
    left = difference if config.norm == "l0" else difference - difference.sign() * least
    return left * led, led


def put_back(
    config: ProximalGuidance, timestep: float, x: Tensor, original: Tensor, led: Tensor
) -> Tensor:
    """The state after a step with what was not led put back; all (B, C, h, w)."""
    if timestep >= config.back_below:
        return x
    wide = F.max_pool2d(led, 2 * config.dilate + 1, stride=1, padding=config.dilate)
    return torch.lerp(x, original, config.back_rate * (1 - wide))  # exact where the weight is 1

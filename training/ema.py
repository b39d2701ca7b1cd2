"""The exponential moving average of the UNet's weights: what is validated and exported.

The average is a second network of the same shape and starts as a copy of the first. How many
updates it has seen is the number of optimiser steps, so there is no state here to save.
"""

import torch
from torch import nn


def ramped_decay(step: int, decay: float) -> float:
    """Decay of the `step`-th update, counted from 1: min(decay, (1 + n) / (10 + n)).

    The ramp of InstructPix2Pix (`ldm/modules/ema.py`, LitEma) soon forgets the first weights.
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update(average: nn.Module, live: nn.Module, *, decay: float) -> None:
    """Move every parameter of `average` towards `live`: a <- decay * a + (1 - decay) * l.

    One fused call for all parameters; looping over them costs several times as much.
    """
    torch._foreach_lerp_(list(average.parameters()), list(live.parameters()), 1.0 - decay)

"""The exponential moving average of the UNet's trained weights: what is validated and exported.

The average is a second network of the same shape and starts as a copy of the first; weights that
are not trained are one and the same in both. How many updates it has seen is the number of
optimiser steps, so there is no state here to save.
"""

from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

from training.sharding import local

Network = TypeVar("Network", bound=nn.Module)


def ramped_decay(step: int, decay: float) -> float:
    """Decay of the `step`-th update, counted from 1: min(decay, (1 + n) / (10 + n)).

    The ramp of InstructPix2Pix (`ldm/modules/ema.py`, LitEma) soon forgets the first weights.
    """
    return min(decay, (1 + step) / (10 + step))


def average_of(live: Network) -> Network:
    """A copy of a network that shares the weights which are not trained."""
    shared = {id(p): p for p in live.parameters() if not p.requires_grad}
    average = deepcopy(live, memo=dict(shared))
    return average.eval().requires_grad_(False)


@torch.no_grad()
def update(average: nn.Module, live: nn.Module, *, decay: float) -> None:
    """Move what is trained of `live` in `average` towards it: a <- decay * a + (1 - decay) * l.

    One fused call for all parameters; looping over them costs several times as much. Of parameters
    that are shared among ranks each moves its own part, which the formula does not tell apart.
    """
    pairs = zip(average.parameters(), live.parameters(), strict=True)
    trained = [(local(old), local(new)) for old, new in pairs if new.requires_grad]
    averaged, following = map(list, zip(*trained, strict=True))
    torch._foreach_lerp_(averaged, following, 1.0 - decay)

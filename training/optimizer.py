"""AdamW: its knobs, its groups and its learning rate."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import AdamW, Optimizer

from training import sharding
from training.config import OptimizerKnobs


def learning_rate_factor(step: int, knobs: OptimizerKnobs, steps: int) -> float:
    """Multiple of the full learning rate at `step`, counted from 0, of `steps`; in [0, 1]."""
    if step < knobs.warmup_steps:
        return (step + 1) / (knobs.warmup_steps + 1)
    if knobs.schedule == "constant":
        return 1.0
    progress = (step - knobs.warmup_steps) / max(1, steps - knobs.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def use_own_rates(checkpoint: Mapping[str, Any], knobs: OptimizerKnobs, steps: int) -> None:
    """Put the knobs' learning rates into a checkpoint, whose own the optimiser would take up.

    They are other ones where a new run begins at the checkpoint of another.

    Args:
        checkpoint: As Lightning reads it; changed in place.
        knobs: Those of the run that goes on.
        steps: Its number of steps.
    """
    factor = learning_rate_factor(checkpoint["global_step"], knobs, steps)
    full = [knobs.learning_rate, knobs.learning_rate * knobs.first_layer_factor]
    now = [rate * factor for rate in full]
    for state in checkpoint["optimizer_states"]:
        for group, rate, initial in zip(state["param_groups"], now, full, strict=True):
            group |= {"lr": rate, "initial_lr": initial}
    for state in checkpoint["lr_schedulers"]:
        state |= {"base_lrs": full, "_last_lr": now}


def adamw(unet: nn.Module, knobs: OptimizerKnobs) -> Optimizer:
    """AdamW for what a UNet trains, in two groups: the widened first convolution and the rest.

    Raises:
        ValueError: It is to have moments of 8 bits, and bitsandbytes is not installed.
    """
    trained = {name: p for name, p in unet.named_parameters() if p.requires_grad}
    first = [p for name, p in trained.items() if name.startswith("conv_in.")]
    rest = [p for name, p in trained.items() if not name.startswith("conv_in.")]
    groups = [
        {"params": rest, "lr": knobs.learning_rate},
        {"params": first, "lr": knobs.learning_rate * knobs.first_layer_factor},
    ]
    if knobs.kind == "adamw_8bit":
        kind = _eight_bit()
        return kind(groups, betas=knobs.betas, weight_decay=knobs.weight_decay)
    # one kernel for all parameters; the default loops over them on a CPU
    optimizer = AdamW(groups, betas=knobs.betas, weight_decay=knobs.weight_decay, fused=True)
    optimizer.register_load_state_dict_post_hook(_lay_out_moments)
    return optimizer


@torch.no_grad()
def _lay_out_moments(optimizer: Optimizer) -> None:
    """Put moments into memory as their parameters lie there.

    Those of a file lie as the parameters of its run did, and the fused kernel looks at no strides.
    """
    for parameter, moments in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            moments[name] = torch.empty_like(parameter).copy_(moments[name])


def clip(parameters: Iterable[Tensor], limit: float | None) -> Tensor:
    """Shrink gradients to a norm, as torch does, but for multiplying them by 1 where they are less.

    That would read and write all gradients, two passes over memory where AdamW makes seven.

    Args:
        parameters: Those without a gradient are left out.
        limit: Largest norm of all gradients together; None leaves them alone.

    Returns:
        Their norm before, a scalar.
    """
    trained = [p for p in parameters if p.grad is not None]
    shared = get_total_norm([cast(Tensor, p.grad) for p in trained])
    norm = sharding.whole(shared)
    if limit is not None and norm + 1e-6 > limit:  # torch's margin
        clip_grads_with_norm_(trained, limit, shared)
    return norm


def _eight_bit() -> Callable[..., Optimizer]:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ValueError(
            "optimizer.kind is adamw_8bit, which needs bitsandbytes: pip install 'emend[eight-bit]'"
        ) from error
    return cast(Callable[..., Optimizer], AdamW8bit)

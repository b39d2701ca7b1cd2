"""The one training loop of the small models: AdamW, warm-up and cosine, checkpoints that resume.

A trainer hands over its modules and a loss that is a function of the step number; the loop owns the
optimiser, the log and the checkpoint. Nothing here knows what is being trained.
"""

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from inference.files import make_folder, written_atomically
from inference.progress import ProgressBar
from inference.tensors import read_tensors
from training import ema

Losses = Mapping[str, Tensor]
"""Named scalar losses; their sum under the key `"loss"` is what is minimised."""


@dataclass(frozen=True, kw_only=True)
class LoopKnobs:
    """How to optimise. `rate` is the peak learning rate, reached after `warmup` steps."""

    steps: int
    rate: float
    warmup: int = 100
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema: float | None = None
    log_every: int = 20
    checkpoint_seconds: float = 180.0
    preview_every: int = 0


def generator(*parts: int) -> torch.Generator:
    """A CPU generator that is a function of whole numbers such as (seed, step)."""
    state = 0
    for part in parts:
        state = (state * 1_000_003 + part + 1) % (2**63)
    return torch.Generator().manual_seed(state)


def rate_at(step: int, knobs: LoopKnobs) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine down to one hundredth."""
    if step < knobs.warmup:
        return knobs.rate * (step + 1) / knobs.warmup
    progress = (step - knobs.warmup) / max(1, knobs.steps - knobs.warmup)
    return knobs.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def optimise(
    module: nn.Module,
    loss: Callable[[int], Losses],
    knobs: LoopKnobs,
    work: Path,
    *,
    preview: Callable[[int, nn.Module], None] | None = None,
) -> nn.Module:
    """Train a module, from its last checkpoint in `work` if there is one.

    Args:
        module: What is trained; its parameters that require a gradient are optimised in place.
        loss: Step number to losses; must draw all its randomness from the step number.
        knobs: How to optimise.
        work: Folder for `checkpoint.safetensors` and `log.jsonl`.
        preview: Called with (steps done, averaged module) every `knobs.preview_every` steps.

    Returns:
        Where `knobs.ema` is set an averaged copy of the module, otherwise the module itself.
    """
    make_folder(work)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=knobs.rate, betas=(0.9, 0.99), weight_decay=knobs.weight_decay
    )
    average = module if knobs.ema is None else copy.deepcopy(module)
    checkpoint = work / "checkpoint.safetensors"
    first = load_checkpoint(checkpoint, module, optimiser, average) if checkpoint.exists() else 0
    saved = time.monotonic()
    bar = ProgressBar(
        range(first, knobs.steps), initial=first, total=knobs.steps, desc=work.name, mininterval=5
    )
    with (work / "log.jsonl").open("a", encoding="utf-8") as log:
        for step in bar:
            for group in optimiser.param_groups:
                group["lr"] = rate_at(step, knobs)
            losses = loss(step)
            optimiser.zero_grad(set_to_none=True)
            losses["loss"].backward()
            nn.utils.clip_grad_norm_(parameters, knobs.clip_norm)
            optimiser.step()
            if knobs.ema is not None:
                ema.update(average, module, decay=ema.ramped_decay(step + 1, knobs.ema))
            if step % knobs.log_every == 0 or step + 1 == knobs.steps:
                values = {name: round(float(value.detach()), 5) for name, value in losses.items()}
                bar.set_postfix(values)
                record = {"step": step, "seconds": round(time.time()), **values}
                log.write(json.dumps(record) + "\n")
                log.flush()
            if time.monotonic() - saved > knobs.checkpoint_seconds or step + 1 == knobs.steps:
                save_checkpoint(checkpoint, step + 1, module, optimiser, average)
                saved = time.monotonic()
            if preview and knobs.preview_every and (step + 1) % knobs.preview_every == 0:
                preview(step + 1, average)
    return average


def save_checkpoint(
    path: Path, step: int, module: nn.Module, optimiser: torch.optim.Optimizer, average: nn.Module
) -> None:
    """Write module, optimiser moments, average and step count as one file, atomically."""
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    if average is not module:
        tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items()}
    contiguous = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    with written_atomically(path) as temporary:
        save_file(contiguous, temporary, metadata={"step": str(step)})


def load_checkpoint(
    path: Path, module: nn.Module, optimiser: torch.optim.Optimizer, average: nn.Module
) -> int:
    """Restore what `save_checkpoint` wrote and return how many steps were done."""
    parts: dict[str, dict[str, Tensor]] = {"module": {}, "average": {}, "optimiser": {}}
    metadata, tensors = read_tensors(path, "cpu")
    step = int(metadata["step"])
    for key, tensor in tensors.items():
        part, name = key.split(".", 1)
        parts[part][name] = tensor
    module.load_state_dict(parts["module"])
    if average is not module:
        average.load_state_dict(parts["average"])
    state = optimiser.state_dict()
    for key, value in parts["optimiser"].items():
        index, name = key.split(".", 1)
        state["state"].setdefault(int(index), {})[name] = value
    optimiser.load_state_dict(state)
    return step

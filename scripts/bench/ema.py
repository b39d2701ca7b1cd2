"""What an optimiser step and the moving average cost, beside Lightning's own.

    python scripts/bench/ema.py

Theirs is `EMAWeightAveraging` with torch's AdamW as it comes; ours is a fused AdamW and one call
for the average. Gradients are given, so that nothing else is timed; the two take turns in one
process, in seconds of CPU. Two minutes on one busy core; a table for `RESULTS.md`.
"""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytorch_lightning as pl
import torch
from diffusers import UNet2DConditionModel
from jsonargparse import auto_cli
from pytorch_lightning.callbacks import EMAWeightAveraging
from tables import header, row
from torch import nn
from torch.optim import AdamW

from inference.loading import load_model
from inference.progress import ProgressBar
from inference.shapes import MODELS
from training import ema
from training.config import OptimizerKnobs
from training.optimizer import adamw
from training.unet import widen

DECAY = 0.9999
WIDTHS = (96, 192, 384, 384)
"""Three tenths of Stable Diffusion 1.5's, which fits anywhere twice."""


class _Module(pl.LightningModule):
    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet


def given_gradients(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A UNet whose every parameter has a gradient."""
    torch.manual_seed(0)
    for parameter in unet.parameters():
        parameter.grad = torch.randn_like(parameter)
    return unet


def ours(unet: UNet2DConditionModel) -> Callable[[], None]:
    """Optimiser and average as `training.module` has them."""
    optimizer, average = adamw(unet, OptimizerKnobs()), ema.average_of(unet)

    def step() -> None:
        optimizer.step()
        ema.update(average, unet, decay=DECAY)

    return step


def lightnings(unet: UNet2DConditionModel) -> Callable[[], None]:
    """AdamW by default, and what Lightning's callback does after every step."""
    module, optimizer = _Module(unet), AdamW(unet.parameters())
    callback = EMAWeightAveraging(decay=DECAY)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    callback.setup(trainer, module, "fit")
    average = callback._average_model
    assert average is not None

    def step() -> None:
        optimizer.step()
        average.update_parameters(module)

    return step


def seconds(step: Callable[[], None]) -> float:
    """CPU time of one step."""
    start = time.process_time()
    step()
    return time.process_time() - start


def main(rounds: int = 20, model: Path = MODELS / "stable-diffusion") -> None:
    """Time the two in turn.

    Args:
        rounds: Steps of each.
        model: A diffusers folder of the first UNet; the second is Stable Diffusion's in small.
    """
    unets = {
        "shapes": lambda: widen(load_model(UNet2DConditionModel, model / "unet")),
        "Stable Diffusion 1.5, in small": lambda: UNet2DConditionModel(
            in_channels=8, block_out_channels=WIDTHS, cross_attention_dim=768, attention_head_dim=8
        ),
    }
    header("UNet", "parameters", "tensors", "Lightning's, ms", "ours, ms", "ours / Lightning's")
    for name, build in unets.items():
        unet = build()
        sizes = [parameter.numel() for parameter in unet.parameters()]
        theirs, own = lightnings(given_gradients(unet)), ours(given_gradients(build()))
        theirs(), own()  # moments are made in the first step
        pairs = [(seconds(theirs), seconds(own)) for _ in ProgressBar(range(rounds), leave=False)]
        left, right = (1000 * median(side) for side in zip(*pairs, strict=True))
        ratio = median(b / a for a, b in pairs)
        row(name, f"{sum(sizes):,}", len(sizes), f"{left:.1f}", f"{right:.1f}", f"{ratio:.2f}")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

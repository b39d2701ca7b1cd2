"""How fast can training be at best? A bare loop on nothing, run by `train.py`."""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

import json
import time
from pathlib import Path
from typing import Final

import torch
from jsonargparse import auto_cli

from inference.backbone import load_backbone
from inference.memory import keep_memory
from training.config import OptimizerKnobs
from training.optimizer import adamw
from training.unet import widen

LEARNING_RATE: Final = 1e-4


def ceiling(
    base: Path,
    resolution: int,
    batch: int,
    steps: int,
    skip: int,
    encode: bool,
    precision: str = "32-true",
) -> None:
    """Train on nothing, as fast as the network goes; prints seconds a step as JSON.

    Args:
        base: Diffusers folder of the text-to-image model.
        resolution: Side of the images, in pixels.
        batch: Pairs a step.
        steps: Steps in all.
        skip: Of those, steps at the start that are not counted.
        precision: `32-true` or `bf16-mixed`.
        encode: Let the VAE encode both images of each pair and the text encoder a prompt each.
    """
    torch.manual_seed(0)
    backbone = load_backbone(base)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_memory(device)
    unet = widen(backbone.unet).train().requires_grad_(True).to(device)
    for module in (backbone.vae, backbone.text_encoder):
        module.to(device)
    images = torch.rand(batch, 3, resolution, resolution, device=device) * 2 - 1
    optimizer = adamw(unet, OptimizerKnobs(learning_rate=LEARNING_RATE))
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")

    def encoded() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with torch.no_grad(), autocast:
            edited, source = backbone.encode_image(images), backbone.encode_condition(images)
            return edited, source, backbone.encode_text(["turn it upside down"] * batch).states

    edited, source, text = encoded()
    times = []
    for _ in range(steps):
        times.append(time.time())
        if encode:
            edited, source, text = encoded()
        noise = torch.randn_like(edited)
        timesteps = torch.randint(0, 1000, (batch,), device=device)
        with autocast:
            predicted = unet(torch.cat((edited + noise, source), 1), timesteps, text).sample
        torch.nn.functional.mse_loss(predicted.float(), noise.float()).backward()
        optimizer.step()
        optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()
    print(json.dumps(pace(times, skip)))


def pace(times: list[float], skip: int) -> float:
    """Mean seconds between the moments of all steps but the first ones."""
    return (times[-1] - times[skip]) / (len(times) - 1 - skip)


if __name__ == "__main__":
    auto_cli(ceiling, as_positional=False)

"""Train one small model of the shapes world: `python -m training.shapes autoencoder|clip|…`.

Each command goes on from its last checkpoint under `--work`, says how good the model became, and
puts the finished model into `--out`. The order is that of `scripts/train_shapes_models`.
"""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

import shutil
import sys
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from jsonargparse import auto_cli

from inference.shapes import MODELS
from training.shapes.autoencoder import AutoencoderKnobs, train_autoencoder
from training.shapes.clip import ClipKnobs, train_clip
from training.shapes.diffusion import DiffusionKnobs, train_diffusion
from training.shapes.writer import WriterKnobs, train_writer

WORK: Final = Path("build/shapes")


def autoencoder(
    *, steps: int = AutoencoderKnobs.steps, work: Path = WORK, device: str = "cpu"
) -> None:
    """Train the autoencoder, which `stable-diffusion` takes from `WORK/autoencoder/model`.

    Args:
        steps: Optimiser steps.
        work: Folder for checkpoints, logs and cached pictures.
        device: `cpu` or `cuda`.
    """
    train_autoencoder(AutoencoderKnobs(steps=steps), work / "autoencoder", device)


def clip(
    *,
    steps: int = ClipKnobs.steps,
    work: Path = WORK,
    out: Path = MODELS / "clip",
    device: str = "cpu",
    start: Path | None = None,
) -> None:
    """Train the CLIP that scores pairs.

    Args:
        steps: Optimiser steps.
        work: Folder for checkpoints, logs and cached pictures.
        out: Where the finished model goes.
        device: `cpu` or `cuda`.
        start: A finished folder to start from instead of random weights.
    """
    train_clip(ClipKnobs(steps=steps), work / "clip", device, start)
    publish(work / "clip/model", out)


def writer(
    *,
    steps: int = WriterKnobs.steps,
    work: Path = WORK,
    out: Path = MODELS / "writer",
    device: str = "cpu",
    start: Path | None = None,
) -> None:
    """Train the language model that writes instructions.

    Args:
        steps: Optimiser steps.
        work: Folder for checkpoints and logs.
        out: Where the finished model goes.
        device: `cpu` or `cuda`.
        start: A finished folder to start from instead of random weights.
    """
    train_writer(WriterKnobs(steps=steps), work / "writer", device, start)
    publish(work / "writer/model", out)


def stable_diffusion(
    *,
    steps: int = DiffusionKnobs.steps,
    work: Path = WORK,
    out: Path = MODELS / "stable-diffusion",
    device: str = "cpu",
    start: Path | None = None,
) -> None:
    """Train the base model, on the finished autoencoder.

    Args:
        steps: Optimiser steps.
        work: Folder for checkpoints, logs and cached pictures.
        out: Where the finished model goes.
        device: `cpu` or `cuda`.
        start: A finished folder to start from instead of random weights.
    """
    train_diffusion(
        DiffusionKnobs(steps=steps),
        work / "autoencoder/model",
        work / "stable-diffusion",
        device,
        start,
    )
    publish(work / "stable-diffusion/model", out)


def instruct_pix2pix(
    *,
    trained: Path = Path("out/shapes/editor/model"),
    out: Path = MODELS / "instruct-pix2pix",
) -> None:
    """Ship the editor that the public chain made with the recipes `shapes.yaml`.

    Args:
        trained: The model folder of that training run.
        out: Where the finished model goes.
    """
    publish(trained, out)


def publish(trained: Path, out: Path) -> None:
    """Copy a finished model to where it ships, a UNet's weights in fp16 to halve the repository."""
    if out.exists():
        shutil.rmtree(out)
    shutil.copytree(trained, out)
    if (out / "unet").is_dir():
        unet = UNet2DConditionModel.from_pretrained(trained / "unet", torch_dtype=torch.float16)
        unet.save_pretrained(out / "unet")
    print(f"{out} is ready")


if __name__ == "__main__":
    commands: dict[str, Any] = {
        "autoencoder": autoencoder,
        "clip": clip,
        "writer": writer,
        "stable-diffusion": stable_diffusion,
        "instruct-pix2pix": instruct_pix2pix,
    }
    try:
        auto_cli(commands, as_positional=False)
    except (ValueError, FileNotFoundError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(1)

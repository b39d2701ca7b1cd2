"""Train one small model of the shapes world: `python -m training.shapes train --model clip`.

It goes on from its last checkpoint under `--work`, says how good the model became, and puts the
finished model into `--out`. The order is that of `scripts/train_shapes_models`.
"""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

import shutil
import sys
from pathlib import Path
from typing import Final, Literal

import torch
from diffusers import UNet2DConditionModel

from inference.command_line import run
from inference.devices import device_of
from inference.files import replaced_folder
from inference.loading import load_model
from inference.number_types import PositiveCount, checks_numbers
from inference.shapes import MODELS
from training.shapes.autoencoder import AutoencoderKnobs, train_autoencoder
from training.shapes.clip import ClipKnobs, train_clip
from training.shapes.diffusion import DiffusionKnobs, train_diffusion
from training.shapes.writer import WriterKnobs, train_writer

WORK: Final = Path("build/shapes")


Model = Literal["autoencoder", "clip", "writer", "stable-diffusion"]


@checks_numbers
def train(
    *,
    model: Model,
    steps: PositiveCount | None = None,
    work: Path = WORK,
    out: Path | None = None,
    device: str | None = None,
    start: Path | None = None,
) -> None:
    """Train one model, from its last checkpoint if there is one.

    The autoencoder goes nowhere: `stable-diffusion` takes it from `WORK/autoencoder/model`.

    Args:
        model: Which.
        steps: Optimiser steps; by default as many as suffice.
        work: Folder for checkpoints, logs, previews and cached pictures.
        out: Where the finished model goes; by default where it ships.
        device: `cpu`, `cuda`, `cuda:1` or `mps`; by default a GPU where there is one.
        start: A finished folder to start from instead of random weights.
    """
    chosen = {} if steps is None else {"steps": steps}
    device = device_of(device)
    folder = work / model
    match model:
        case "autoencoder":
            if start is not None:
                raise ValueError("--start is not for the autoencoder: it is trained from nothing")
            train_autoencoder(AutoencoderKnobs(**chosen), folder, device)
            return
        case "clip":
            train_clip(ClipKnobs(**chosen), folder, device, start)
        case "writer":
            train_writer(WriterKnobs(**chosen), folder, device, start)
        case "stable-diffusion":
            knobs, autoencoder = DiffusionKnobs(**chosen), work / "autoencoder/model"
            if not autoencoder.is_dir():
                raise FileNotFoundError(f"{autoencoder} is missing: train the autoencoder first")
            train_diffusion(knobs, autoencoder, folder, device, start)
    publish(folder / "model", out or MODELS / model)


def ship(
    *, editor: Path = Path("out/shapes/editor/model"), out: Path = MODELS / "instruct-pix2pix"
) -> None:
    """Ship the editor that the public chain made with the recipes `shapes.yaml`.

    Args:
        editor: The model folder of that training run.
        out: Where it goes.
    """
    if not editor.is_dir():
        raise FileNotFoundError(f"{editor} is missing: train an editor first")
    publish(editor, out)


def publish(trained: Path, out: Path) -> None:
    """Copy a finished model to where it ships, a UNet's weights in fp16 to halve the repository."""
    with replaced_folder(out) as partial:
        shutil.copytree(trained, partial, dirs_exist_ok=True)
        if (partial / "unet").is_dir():
            unet = load_model(UNet2DConditionModel, trained / "unet", torch.float16)
            unet.save_pretrained(partial / "unet")
    print(f"{out} is ready")


if __name__ == "__main__":
    sys.exit(run({"train": train, "ship": ship}, prog="python -m training.shapes"))

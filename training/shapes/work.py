"""What the commands of `python -m training.shapes` do: train a model, and put it where it ships."""

import shutil
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from inference.devices import device_of
from inference.files import replaced_folder
from inference.loading import load_model
from inference.shapes import MODELS
from training.shapes.autoencoder import AutoencoderKnobs, train_autoencoder
from training.shapes.clip import ClipKnobs, train_clip
from training.shapes.diffusion import DiffusionKnobs, train_diffusion
from training.shapes.writer import WriterKnobs, train_writer


def train_model(
    model: str,
    steps: int | None,
    work: Path,
    out: Path | None,
    device: str | None,
    start: Path | None,
) -> None:
    """Train one model; the arguments are those of the command.

    Raises:
        ValueError: An option is not for this model.
        FileNotFoundError: What it is trained on top of is not there.
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


def publish(trained: Path, out: Path) -> None:
    """Copy a finished model to where it ships, a UNet's weights in fp16 to halve the repository."""
    with replaced_folder(out) as partial:
        shutil.copytree(trained, partial, dirs_exist_ok=True)
        if (partial / "unet").is_dir():
            unet = load_model(UNet2DConditionModel, trained / "unet", torch.float16)
            unet.save_pretrained(partial / "unet")
    print(f"{out} is ready")

"""Train the AutoencoderKL of the shapes world: 64×64×3 pictures to 16×16×4 latents and back."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn

from inference.files import replaced_folder, written_atomically
from training.shapes.loop import LoopKnobs, Losses, generator, optimise
from training.shapes.scenes import TEST_SEED, SceneSet, scene_set, to_model


@dataclass(frozen=True, kw_only=True)
class AutoencoderKnobs:
    """How to train the autoencoder.

    Attributes:
        steps: Optimiser steps.
        batch: Pictures a step.
        rate: Peak learning rate.
        scenes: Pictures to train on.
        kl_weight: Weight of the KL term; tiny, so that latents stay sharp.
        edge_weight: Weight of the L1 distance between image gradients.
        figure_weight: Weight of a pixel that is not background, against one that is.
        seed: Of weights, pictures and batches.
    """

    steps: int = 3600
    batch: int = 16
    rate: float = 2e-3
    scenes: int = 20_000
    kl_weight: float = 1e-6
    edge_weight: float = 1.0
    figure_weight: float = 8.0
    seed: int = 1


def new_autoencoder() -> AutoencoderKL:
    """An untrained AutoencoderKL: channels (16, 32, 64), 4 latent channels, factor 4."""
    return AutoencoderKL(
        sample_size=64,
        latent_channels=4,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        # Few groups: a group of two channels would normalise a flat background away.
        norm_num_groups=2,
    )


def train_autoencoder(knobs: AutoencoderKnobs, work: Path, device: str = "cpu") -> AutoencoderKL:
    """Train, set `scaling_factor` to one over the latents' deviation, and save to `work/model`.

    Args:
        knobs: How to train.
        work: Folder for checkpoint, log, previews and the finished `model`.
        device: Where to train.
    """
    torch.manual_seed(knobs.seed)
    vae = new_autoencoder().to(device)
    train = scene_set(knobs.seed, knobs.scenes, work.parent / "scenes")
    test = scene_set(TEST_SEED, 256, work.parent / "scenes")

    def loss(step: int) -> Losses:
        draw = generator(knobs.seed, step)
        rows = torch.randint(len(train.scenes), (knobs.batch,), generator=draw)
        return reconstruction_loss(vae, train.batch(rows).to(device), knobs, draw)

    def preview(step: int, module: nn.Module) -> None:
        assert isinstance(module, AutoencoderKL)
        print(f"autoencoder step {step}: PSNR {psnr(module, test):.2f} dB", flush=True)
        save_preview(module, test, work / f"preview-{step:05d}.png")

    loop = LoopKnobs(
        steps=knobs.steps, rate=knobs.rate, weight_decay=1e-4, ema=0.995, preview_every=200
    )
    averaged = optimise(vae, loss, loop, work, preview=preview)
    assert isinstance(averaged, AutoencoderKL)
    averaged.register_to_config(scaling_factor=latent_scale(averaged, train))
    with replaced_folder(work / "model") as folder:
        averaged.save_pretrained(folder)
    print(
        f"autoencoder: PSNR {psnr(averaged, test):.2f} dB on unseen scenes, "
        f"scaling factor {averaged.config.scaling_factor:.4f}"
    )
    return averaged


def reconstruction_loss(
    vae: AutoencoderKL, images: Tensor, knobs: AutoencoderKnobs, draw: torch.Generator
) -> Losses:
    """L1 of pixels and of image gradients, and the KL term, for (B, 3, 64, 64) in [-1, 1]."""
    posterior = vae.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=draw).to(images.device)
    decoded = vae.decode(posterior.mean + posterior.std * noise).sample
    # No figure reaches the corner, so its pixel is the background.
    figure = (images != images[:, :, :1, :1]).any(dim=1, keepdim=True)
    weight = 1 + (knobs.figure_weight - 1) * figure
    error = (decoded - images).abs()
    pixels = (weight * (error + error.square())).mean()
    edges = sum(
        (F.l1_loss(decoded.diff(dim=axis), images.diff(dim=axis)) for axis in (2, 3)),
        start=images.new_zeros(()),
    )
    kl = posterior.kl().mean()
    total = pixels + knobs.edge_weight * edges + knobs.kl_weight * kl
    return {"loss": total, "pixels": pixels, "edges": edges, "kl": kl}


@torch.no_grad()
def psnr(vae: AutoencoderKL, scenes: SceneSet) -> float:
    """Mean peak signal-to-noise ratio over a set, in decibel, from the posterior's mean."""
    values = []
    for images in batches(scenes, vae.device):
        decoded = vae.decode(vae.encode(images).latent_dist.mean).sample.clamp(-1, 1)
        error = ((decoded - images) / 2).square().mean(dim=(1, 2, 3))
        values.append(-10 * torch.log10(error))
    return float(torch.cat(values).mean())


@torch.no_grad()
def latent_scale(vae: AutoencoderKL, scenes: SceneSet, count: int = 2000) -> float:
    """One over the standard deviation of the latents, Stable Diffusion's `scaling_factor`."""
    few = SceneSet(scenes=scenes.scenes[:count], pictures=scenes.pictures[:count])
    latents = [vae.encode(images).latent_dist.mean for images in batches(few, vae.device)]
    return float(1 / torch.cat(latents).std())


def batches(scenes: SceneSet, device: torch.device | str, size: int = 64) -> list[Tensor]:
    """The whole set as (size, 3, 64, 64) tensors in [-1, 1], in order."""
    return [
        to_model(scenes.pictures[start : start + size]).to(device)
        for start in range(0, len(scenes.scenes), size)
    ]


@torch.no_grad()
def save_preview(vae: AutoencoderKL, scenes: SceneSet, path: Path, count: int = 8) -> None:
    """Save originals above their reconstructions."""
    images = to_model(scenes.pictures[:count]).to(vae.device)
    decoded = vae.decode(vae.encode(images).latent_dist.mean).sample.clamp(-1, 1)
    rows = [torch.cat(list(batch.cpu()), dim=2) for batch in (images, decoded)]
    sheet = ((torch.cat(rows, dim=1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    with written_atomically(path) as temporary:
        image = Image.fromarray(sheet).resize((count * 192, 384), Image.Resampling.NEAREST)
        image.save(temporary, format="PNG")

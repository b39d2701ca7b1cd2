"""`python -m inference invert`: find out how a model draws given pictures, and keep it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from inference.choices import Dtype
from inference.editors.sizes import Sizes, in_batches
from inference.images import load_image, save_image
from inference.inversion.config import InversionConfig
from inference.inversion.inverted import Inversion, InversionRequest, reconstruct
from inference.inversion.saved import save_inversion
from inference.progress import ProgressBar
from inference.work.common import load_model, one_each, output_paths, require_fitting


def invert_files(
    config: InversionConfig,
    *,
    images: Sequence[str],
    source: Sequence[str],
    model: str,
    output: str,
    steps: int,
    guidance_scale: float,
    batch_size: int,
    device: str,
    dtype: Dtype,
    force: bool,
) -> None:
    """Invert images with an inversion of these options; see `commands.invert`."""
    paths = [Path(image) for image in images]
    outputs = output_paths(paths, Path(output), ".safetensors")
    prompts = one_each("source", source, len(paths))
    backbone = load_model(model, device, dtype)
    method: Inversion = config.build()
    pictures, decibels = [load_image(path) for path in paths], dict[int, float]()
    require_fitting(backbone, model, dict(zip(images, pictures, strict=True)), force=force)
    with ProgressBar(total=len(paths), desc="inverting", unit="image") as bar:

        def drawn_again(rows: Sequence[int], resized: Tensor) -> Tensor:
            inverted = method.invert(
                InversionRequest(
                    backbone=backbone,
                    images=resized,
                    prompts=tuple(prompts[row] for row in rows),
                    steps=steps,
                    guidance_scale=guidance_scale,
                    progress=True,
                )
            )
            with torch.no_grad():
                again = backbone.decode(reconstruct(backbone, inverted)).cpu().float()
            for number, row in enumerate(rows):
                save_inversion(outputs[row], inverted.picture(number), backbone, resized[number])
                decibels[row] = _psnr(again[number], resized[number])
            bar.update(len(rows))
            return again

        drawn = in_batches(pictures, drawn_again, Sizes.of(backbone, None), batch_size)
    for row, (place, picture) in enumerate(zip(outputs, drawn, strict=True)):
        save_image(place.with_suffix(".drawn.png"), picture)
        print(f"{place}: drawn again at {decibels[row]:.1f} dB")


def _psnr(one: Tensor, other: Tensor) -> float:
    """Of two images in [-1, 1], in dB; 100 at most."""
    error = (one - other).square().mean().clamp_min(4e-10)
    return float(10 * torch.log10(4 / error))

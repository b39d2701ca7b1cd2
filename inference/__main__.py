"""Use a trained model: ``python -m inference edit --images photo.png --instruction "…"``."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from inference.backbone import load_backbone
from inference.command_line import run
from inference.editors.editor import EditRequest
from inference.editors.instruct import Instruct
from inference.images import image_format, load_image, save_image
from inference.sampling import SamplerName
from inference.shapes import MODELS


def edit(
    images: list[str],
    instruction: str,
    model: str = str(MODELS / "instruct-pix2pix"),
    output: str = "edited",
    seed: int = 0,
    text_scale: float | None = None,
    image_scale: float | None = None,
    steps: int | None = None,
    sampler: SamplerName | None = None,
    resolution: int | None = None,
    batch_size: int = 16,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
) -> None:
    """Edit images by an instruction.

    Options that are null take what suits the model.

    Args:
        images: PNG, JPEG or WebP files, one or more.
        instruction: What to do, for example "make the circle green".
        model: An InstructPix2Pix diffusers folder; the shapes editor by default.
        output: For one image, a file to write if it ends in .png, .jpg or .webp; else a folder
            that gets <name>.png for every image.
        seed: Of the noise; another one gives another edit.
        text_scale: How strongly to follow the instruction; 1 is no guidance.
        image_scale: How strongly to keep the image; 1 is no guidance.
        steps: Number of denoising steps.
        sampler: How to denoise.
        resolution: Long side in pixels at which to edit; the result has the image's own size.
        batch_size: Most images edited at once.
        device: Where to run; auto takes the GPU if there is one.
        dtype: Of the model's weights.
    """
    paths = [Path(image) for image in images]
    outputs = _output_paths(paths, Path(output))
    requests = [
        EditRequest(image=load_image(path), instruction=instruction, seed=seed) for path in paths
    ]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    editor = Instruct(
        backbone=load_backbone(model, device=device, dtype=getattr(torch, dtype)),
        text_scale=text_scale,
        image_scale=image_scale,
        steps=steps,
        sampler=sampler,
        resolution=resolution,
        batch_size=batch_size,
        progress=True,
    )
    for path, image in zip(outputs, editor.edit(requests), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(path, image)
        print(path)


def _output_paths(paths: Sequence[Path], output: Path) -> list[Path]:
    """Where each result goes; nothing may overwrite an input or another result."""
    if not paths:
        raise ValueError("images is empty; expected one or more files")
    if output.suffix and not output.is_dir():
        image_format(output)
        if len(paths) > 1:
            raise ValueError(f"output is the file {output}; expected a folder for several images")
        outputs = [output]
    else:
        outputs = [output / f"{path.stem}.png" for path in paths]
    name, count = Counter(outputs).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{count} images would be written to {name}; give them different names")
    for path in outputs:
        if path.resolve() in {source.resolve() for source in paths}:
            raise ValueError(f"output {path} is one of the images; expected another place")
    return outputs


if __name__ == "__main__":
    sys.exit(run({"edit": edit}, prog="python -m inference"))

"""What the commands share: which model, on what device, and where results go."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from inference.backbone import Backbone, load_backbone
from inference.images import image_format

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["float32", "bfloat16", "float16"]


def place(device: Device) -> str:
    """The device that the user wants; `auto` is the GPU if there is one."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def load_model(folder: str | Path, device: Device, dtype: Dtype) -> Backbone:
    """Load a diffusers folder where the user wants it (see `place`)."""
    return load_backbone(folder, device=place(device), dtype=getattr(torch, dtype))


def output_paths(paths: Sequence[Path], output: Path, suffix: str = ".png") -> list[Path]:
    """Where each result goes; nothing may overwrite an input or another result.

    Args:
        paths: The inputs.
        output: A file for the one result, or a folder for `<name><suffix>` of each.
        suffix: Of results in a folder, and of the file where that is no picture's.

    Raises:
        ValueError: Two would go to one place, or one onto an input, or the file is of a kind that
            is not written.
    """
    if not paths:
        raise ValueError("images is empty; expected one or more files")
    if output.suffix and not output.is_dir():
        if suffix == ".png":
            image_format(output)
        elif output.suffix != suffix:
            raise ValueError(f"output is {output}; expected a folder or a {suffix} file")
        if len(paths) > 1:
            raise ValueError(f"output is the file {output}; expected a folder for several images")
        outputs = [output]
    else:
        outputs = [output / f"{path.stem}{suffix}" for path in paths]
    name, count = Counter(outputs).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{count} images would be written to {name}; give them different names")
    for path in outputs:
        if path.resolve() in {source.resolve() for source in paths}:
            raise ValueError(f"output {path} is one of the images; expected another place")
    return outputs


def one_each(name: str, values: Sequence[str], count: int) -> list[str]:
    """As many texts as images: those given, or the one for all.

    Raises:
        ValueError: There are others.
    """
    if len(values) not in (1, count):
        raise ValueError(f"{name} has {len(values)} texts; expected 1 or {count}, one an image")
    return list(values) * (count if len(values) == 1 else 1)

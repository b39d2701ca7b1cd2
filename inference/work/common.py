"""What the commands share: which model, on what device, and where results go."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from inference.backbone import Backbone, load_backbone
from inference.choices import Dtype, full_name
from inference.devices import device_of
from inference.files import require_writable
from inference.model_names import located
from inference.pictures import image_format


def load_model(name: str, device: str, dtype: Dtype) -> Backbone:
    """Load a diffusers folder, by a name as `located` takes it, where the user wants it."""
    place = device_of(device)
    return load_backbone(located(name), device=place, dtype=getattr(torch, full_name(dtype)))


def require_fitting(
    backbone: Backbone, model: str | Path, images: Mapping[str, Tensor], *, force: bool
) -> None:
    """Require pictures that the model may know, by their size; `--force` goes on without.

    Args:
        backbone: The model.
        model: Its folder, for the error.
        images: Pictures, (3, H, W), by their files.
        force: Whether any picture will do.

    Raises:
        ValueError: A picture is far larger than those that the model was made for.
    """
    for path, image in images.items():
        height, width = image.shape[-2:]
        if not force and not backbone.may_know(height, width):
            raise ValueError(
                f"{path} is {width}x{height}, but the model {model} was made for drawings of "
                f"{backbone.native_size} pixels and would give a blur: give a model of photographs "
                "with --model FOLDER, or go on all the same with --force"
            )


def output_paths(
    paths: Sequence[Path],
    output: Path,
    suffix: str = ".png",
    *,
    names: Sequence[str] | None = None,
) -> list[Path]:
    """Where each result goes; nothing may overwrite an input or another result.

    Args:
        paths: The inputs.
        output: A file for the one result, or a folder for `<name><suffix>` of each.
        suffix: Of results in a folder, and of the file where that is no picture's.
        names: Those of the results in a folder; None takes those of the inputs.

    Raises:
        ValueError: Two would go to one place, or one onto an input, or the file is of a kind that
            is not written.
        OSError: One of them cannot be written.
    """
    if not paths:
        raise ValueError("images is empty; expected one or more files")
    if output.suffix and not output.is_dir():
        if suffix == ".png":
            image_format(output)
        elif output.suffix != suffix:
            raise ValueError(f"output is {output}; expected a folder or a {suffix} file")
        if len(paths) > 1:
            raise ValueError(f"output is the file {output}; expected a folder for several edits")
        outputs = [output]
    else:
        names = [path.stem for path in paths] if names is None else names
        outputs = [output / f"{name}{suffix}" for name in names]
    name, count = Counter(outputs).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{count} images would be written to {name}; give them different names")
    for path in outputs:
        if path.resolve() in {source.resolve() for source in paths}:
            raise ValueError(f"output {path} is one of the images; expected another place")
        require_writable(path)
    return outputs


def one_each(name: str, values: Sequence[str], count: int) -> list[str]:
    """As many texts as images: those given, or the one for all.

    Raises:
        ValueError: There are others.
    """
    if len(values) not in (1, count):
        raise ValueError(f"{name} has {len(values)} texts; expected 1 or {count}, one an image")
    return list(values) * (count if len(values) == 1 else 1)

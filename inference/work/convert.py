"""`python -m inference convert`: one file to a diffusers folder, and back."""

from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from inference.backbone import Backbone, load_backbone
from inference.choices import PredictionType
from inference.files import replaced_folder, require_writable, require_writable_folder
from inference.model_names import located
from inference.saving import save_backbone
from inference.single_file.reading import backbone_of, read_original
from inference.single_file.writing import original_tensors, write_original
from inference.tensors import read_tensors

LEFT_OVER = "original-left-over.safetensors"
"""Tensors of the original file that no part of a diffusers folder holds, kept for the way back."""


def convert(
    source: Path,
    output: Path,
    ema: bool,
    prediction_type: PredictionType | None,
    native_size: int | None,
    tokenizer: Path | None,
) -> None:
    """Convert a Stable Diffusion: a single file to a diffusers folder, a folder to a single file.

    The arguments are those of the command, `commands.convert`.
    """
    if output.exists():
        raise ValueError(f"output {output} is there already; expected a new name")
    if not source.exists():
        source = located(source)
    if source.is_dir():
        if prediction_type or native_size or tokenizer:
            raise ValueError(
                f"source {source} is a folder, which says all of itself: leave prediction_type, "
                "native_size and tokenizer out"
            )
        require_writable(output)
        left_over = source / LEFT_OVER
        others = read_tensors(left_over, "cpu")[1] if left_over.exists() else {}
        write_original(_as_stored(load_backbone(source), source), output, others)
        print(f"{output} holds the model of {source} under its original names")
        return
    require_writable_folder(output)
    tensors, configs = read_original(source, ema=ema)
    backbone = backbone_of(
        tensors,
        configs,
        prediction_type=prediction_type,
        native_size=native_size,
        tokenizer=tokenizer,
    )
    others = {name: tensors[name] for name in tensors.keys() - original_tensors(backbone).keys()}
    with replaced_folder(output) as folder:
        save_backbone(backbone, folder)
        if others:
            save_file({n: t.contiguous() for n, t in others.items()}, folder / LEFT_OVER)
    print(f"{output} holds the model of {source} as a diffusers folder")


def _as_stored(backbone: Backbone, folder: Path) -> Backbone:
    """A loaded backbone in the dtype of its files."""
    for name, module in backbone.modules.items():
        _, tensors = read_tensors(min((folder / name).glob("*.safetensors")), "cpu")
        dtype = next(iter(tensors.values())).dtype
        nn.Module.to(module, dtype)  # diffusers' own warns of parts to be kept in float32: none
    return backbone

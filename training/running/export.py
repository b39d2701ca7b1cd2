"""What a run leaves behind: the editor as a folder, as one file, and as a LoRA where it is one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference.saving import save_backbone
from inference.single_file.writing import write_original
from training.lora import save_adapters
from training.module import EditorTraining
from training.running.card import model_card


def export(module: EditorTraining, folder: Path, *, recipe: Mapping[str, Any], steps: int) -> None:
    """Write the averaged weights into the folder of a run.

    - `lora/`, where adapters were trained: `load_lora_weights` reads it, and its `conv_in` goes in
      by one line (see `inference.input_layer`).
    - `model.safetensors`: the whole editor under its original names, as other programs read it.
    - `model/`: the whole editor as a stock diffusers folder. It comes last: where it is, all is.

    Args:
        module: The trained module.
        folder: Of the run.
        recipe: Options of `fit`, for the model card.
        steps: Optimiser steps done.
    """
    card = model_card(module.backbone, recipe, steps=steps)
    if module.lora is not None:
        save_adapters(module.backbone, folder / "lora", card=card)
    editor = module.editor()
    write_original(editor, folder / "model.safetensors")
    save_backbone(editor, folder / "model", card=card)

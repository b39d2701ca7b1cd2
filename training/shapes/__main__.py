"""Train one small model of the shapes world: `python -m training.shapes train --model clip`.

It goes on from its last checkpoint under `--work`, says how good the model became, and puts the
finished model into `--out`. The order is that of `scripts/train_shapes_models`.
"""

import sys
from pathlib import Path
from typing import Final, Literal

from inference.command_line import run
from inference.number_types import PositiveCount, checks_numbers
from inference.shapes import MODELS

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
    from training.shapes.work import train_model

    train_model(model, steps, work, out, device, start)


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
    from training.shapes.work import publish

    publish(editor, out)


if __name__ == "__main__":
    sys.exit(run({"train": train, "ship": ship}, prog="python -m training.shapes"))

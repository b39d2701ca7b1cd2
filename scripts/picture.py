"""Draw the README's pictures with the shipped editor: `python scripts/picture.py --output docs`.

`edits.png` shows the first held-out edits of every type, right or wrong, as they come: nothing is
picked. A green frame means that the output reads back as exactly the scene asked for.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from jsonargparse import auto_cli
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from inference.backbone import load_backbone
from inference.editors.editor import EditRequest
from inference.editors.instruct import Instruct
from inference.images import from_numpy, save_image
from inference.shapes import MODELS
from inference.shapes.edits import EDIT_TYPES
from inference.shapes.evaluation import Trial, draw_trials, measure
from inference.shapes.render import Field, render
from inference.shapes.scene import Figure, Scene


def main(output: Path, model: Path = MODELS / "instruct-pix2pix", per_kind: int = 3) -> None:
    """Draw the pictures.

    Args:
        output: Folder for them.
        model: The editor.
        per_kind: Edits of each type.
    """
    output.mkdir(parents=True, exist_ok=True)
    circle = Figure(shape="circle", colour="red", pattern="solid", size="large", column=8, row=8)
    save_image(
        output / "circle.png", from_numpy(render(Scene(figures=(circle,), background="white")))
    )
    trials = draw_trials(EDIT_TYPES, per_kind)
    requests = [
        EditRequest(image=from_numpy(render(trial.before)), instruction=trial.instruction, seed=n)
        for n, trial in enumerate(trials)
    ]
    images = Instruct(backbone=load_backbone(model), batch_size=32, progress=True).edit(requests)
    outputs = [((image.permute(1, 2, 0).numpy() + 1) / 2).astype(np.float32) for image in images]
    draw(trials, outputs, per_kind, output / "edits.png")


def draw(trials: tuple[Trial, ...], outputs: list[Field], columns: int, path: Path) -> None:
    """A grid of input, arrow and output under each instruction, one row an edit type."""
    rows = len(trials) // columns
    figure, grid = plt.subplots(rows, 2 * columns, figsize=(3.1 * columns, 1.62 * rows))
    figure.subplots_adjust(left=0.01, right=0.99, top=0.97, bottom=0.01, wspace=0.08, hspace=0.32)
    for number, (trial, output) in enumerate(zip(trials, outputs, strict=True)):
        before, after = grid[number // columns, 2 * (number % columns) : 2 * (number % columns) + 2]
        right = measure(trial, output).right
        show(before, render(trial.before), "#d0d5dd")
        show(after, output, "#17804a" if right else "#d0d5dd")
        before.set_title(trial.instruction, fontsize=8, loc="left", pad=4)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def show(axes: Axes, picture: Field, frame: str) -> None:
    """One picture in a coloured frame."""
    axes.imshow(picture.clip(0, 1), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=frame, linewidth=2.5)


if __name__ == "__main__":
    mpl.use("agg")
    auto_cli(main, as_positional=False)

"""Draw the README's pictures with the shipped editor: `python scripts/picture.py --output docs`.

`edits.png` shows the first held-out edits of every type, right or wrong, as they come: nothing is
picked. A green frame: the output reads back as exactly the scene asked for. With `--data`,
`pairs.png` shows the first pairs of every type in a data set, in the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jsonargparse import auto_cli
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from data_gen.shards import ShardIndex
from inference.backbone import load_backbone
from inference.editors.instruct import Instruct
from inference.files import make_folder, written_atomically
from inference.images import from_numpy, save_image
from inference.shapes import MODELS
from inference.shapes.edits import EDIT_TYPES
from inference.shapes.evaluation import carried_out, draw_trials, measure
from inference.shapes.judging import judge_pair
from inference.shapes.render import Field, render
from inference.shapes.scene import Figure, Scene


@dataclass(frozen=True, kw_only=True)
class Example:
    """Two pictures, (64, 64, 3) in [0, 1], what was asked between them, and whether it is right."""

    before: Field
    instruction: str
    after: Field
    right: bool


def main(
    output: Path,
    model: Path = MODELS / "instruct-pix2pix",
    data: Path | None = None,
    per_kind: int = 3,
) -> None:
    """Draw the pictures.

    Args:
        output: Folder for them.
        model: The editor.
        data: The data set that it learned from.
        per_kind: Examples of each edit type.
    """
    make_folder(output)
    circle = Figure(shape="circle", colour="red", pattern="solid", size="large", column=8, row=8)
    save_image(
        output / "circle.png", from_numpy(render(Scene(figures=(circle,), background="white")))
    )
    draw(edits(model, per_kind), per_kind, output / "edits.png")
    if data is not None:
        draw(pairs(data, per_kind), per_kind, output / "pairs.png")


def edits(model: Path, per_kind: int) -> list[Example]:
    """The first held-out edits of each type, carried out."""
    trials = draw_trials(EDIT_TYPES, per_kind)
    editor = Instruct(backbone=load_backbone(model), batch_size=32, progress=True)
    outputs = carried_out(editor, trials)
    return [
        Example(
            before=render(trial.before),
            instruction=trial.instruction,
            after=after,
            right=measure(trial, after).right,
        )
        for trial, after in zip(trials, outputs, strict=True)
    ]


def pairs(data: Path, per_kind: int) -> list[Example]:
    """The first pairs of each type in a data set, by key."""
    index = ShardIndex(data)
    found: dict[str, list[Example]] = {kind: [] for kind in EDIT_TYPES}
    for position in range(len(index)):
        pair = index.read(position)
        of_kind = found[pair.triplet.edit_type]
        if len(of_kind) < per_kind:
            text = pair.triplet.instruction
            wrong = judge_pair(pair.source, text, pair.edited)
            before, after = (image.astype(np.float32) / 255 for image in (pair.source, pair.edited))
            of_kind.append(Example(before=before, instruction=text, after=after, right=not wrong))
    return [example for kind in EDIT_TYPES for example in found[kind]]


def draw(examples: Sequence[Example], columns: int, path: Path) -> None:
    """A grid of both pictures under each instruction."""
    rows = -(-len(examples) // columns)
    figure, grid = plt.subplots(rows, 2 * columns, figsize=(3.1 * columns, 1.62 * rows))
    figure.subplots_adjust(left=0.01, right=0.99, top=0.97, bottom=0.01, wspace=0.08, hspace=0.32)
    for place in grid.flat:
        place.axis("off")
    for number, example in enumerate(examples):
        before, after = grid[number // columns, 2 * (number % columns) : 2 * (number % columns) + 2]
        show(before, example.before, "#d0d5dd")
        show(after, example.after, "#17804a" if example.right else "#d0d5dd")
        before.set_title(example.instruction, fontsize=8, loc="left", pad=4)
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)


def show(axes: Axes, picture: Field, frame: str) -> None:
    """One picture in a coloured frame."""
    axes.axis("on")
    axes.imshow(picture.clip(0, 1), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=frame, linewidth=2.5)


if __name__ == "__main__":
    mpl.use("agg")
    auto_cli(main, as_positional=False)

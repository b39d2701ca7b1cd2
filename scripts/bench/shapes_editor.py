"""The shapes editor: held-out edits carried out and read back, and the guidance study."""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from shapes_captions import SEED, kinds_of
from tables import header, row, share

from data_gen.shards import ShardIndex
from inference.backbone import Backbone, load_backbone
from inference.editors.instruct import Instruct
from inference.files import written_atomically
from inference.progress import ProgressBar
from inference.shapes import MODELS
from inference.shapes.edits import EDIT_TYPES
from inference.shapes.evaluation import (
    Outcome,
    Trial,
    carried_out,
    draw_trials,
    measure,
    summarise,
)
from inference.shapes.judging import judge_pair
from inference.shapes.render import Field
from inference.shapes.render import render as draw_scene
from training.shapes.layout import KEEPING_LAYOUT
from training.unet import widen

GUIDANCE_SEED: Final = 21_000_000
"""The guidance study chooses settings, so it may not see the edits that then measure them."""
TEXT_SCALES: Final = (1.0, 1.5, 2.0, 3.0, 5.0, 7.5)
IMAGE_SCALES: Final = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0)


def editor(
    count: int = 500, model: Path = MODELS / "instruct-pix2pix", data: Path | None = None
) -> None:
    """The editor: held-out edits, carried out and read back.

    Args:
        count: Edits, of all types together; as many again in held-out phrasings.
        model: A diffusers folder.
        data: The data set that it was trained on, for the share of right pairs in it.
    """
    backbone = load_backbone(model)
    parent = load_backbone(MODELS / "stable-diffusion")
    untrained = replace(parent, unet=widen(parent.unet), settings=backbone.settings)
    per_kind = -(-count // len(EDIT_TYPES))
    trials = draw_trials(EDIT_TYPES, per_kind, seed=SEED)
    elsewhere = draw_trials(EDIT_TYPES, per_kind, seed=SEED, held_out_phrasings=True)
    outcomes = {
        "editor": edited(backbone, trials),
        "held-out phrasings": edited(backbone, elsewhere),
        "base": edited(untrained, trials),
        "copy": [measure(trial, draw_scene(trial.before)) for trial in trials],
    }
    true_pairs = {} if data is None else right_pairs(data)
    header("edit type", "count", *outcomes, "pairs it learned from")
    groups = (*EDIT_TYPES, "recolour, background", ", ".join(sorted(KEEPING_LAYOUT)), "all")
    for name in groups:
        kinds = kinds_of(name)
        chosen = [n for n, trial in enumerate(trials) if trial.edit_type in kinds]
        cells = [share([rows[n].right for n in chosen]) for rows in outcomes.values()]
        learned = [right for kind in kinds for right in true_pairs.get(kind, ())]
        row(name, len(chosen), *cells, share(learned) if learned else "")
    print()
    header("error, mean absolute, on [-1, 1]", *outcomes)
    summaries = [summarise(rows) for rows in outcomes.values()]
    row("to the expected picture", *(f"{summary.error:.3f}" for summary in summaries))
    row("outside the edited region", *(f"{summary.error_elsewhere:.3f}" for summary in summaries))


def guidance(
    output: Path = Path("out/guidance"),
    per_kind: int = 40,
    model: Path = MODELS / "instruct-pix2pix",
) -> None:
    """The guidance study: accuracy and preservation over both scales, and `guidance.png`.

    Of the types that leave the layout as it is; the editor hardly manages the others at any scale.

    Args:
        output: Folder for the picture.
        per_kind: Edits of each type.
        model: The editor.
    """
    backbone = load_backbone(model, dtype=torch.bfloat16)
    trials = draw_trials(sorted(KEEPING_LAYOUT), per_kind, seed=GUIDANCE_SEED)
    right = np.zeros((len(TEXT_SCALES), len(IMAGE_SCALES)))
    changed = np.zeros_like(right)
    header("text scale", "image scale", "right", "error outside the edited region")
    for i, text_scale in enumerate(TEXT_SCALES):
        for j, image_scale in enumerate(IMAGE_SCALES):
            scales = {"text_scale": text_scale, "image_scale": image_scale}
            rows = edited(backbone, trials, **scales)
            summary = summarise(rows)
            right[i, j], changed[i, j] = summary.accuracy, summary.error_elsewhere
            hits = share([one.right for one in rows])
            row(text_scale, image_scale, hits, f"{summary.error_elsewhere:.3f}")
    output.mkdir(parents=True, exist_ok=True)
    draw_study(right, changed, output / "guidance.png")


def edited(backbone: Backbone, trials: Sequence[Trial], **scales: float) -> list[Outcome]:
    """Edit the pictures of trials and measure what came out."""
    editor = Instruct(backbone=backbone, batch_size=64, progress=True, **scales)
    outputs = carried_out(editor, trials)
    return [measure(trial, output) for trial, output in zip(trials, outputs, strict=True)]


def right_pairs(data: Path) -> dict[str, list[bool]]:
    """Edit type -> whether each pair of a data set is right, by reading it."""
    found: dict[str, list[bool]] = defaultdict(list)
    index = ShardIndex(data)
    for position in ProgressBar(range(len(index)), desc="reading pairs"):
        pair = index.read(position)
        wrong = judge_pair(pair.source, pair.triplet.instruction, pair.edited)
        found[pair.triplet.edit_type].append(not wrong)
    return found


def draw_study(right: Field, changed: Field, path: Path) -> None:
    """Two heat maps side by side: accuracy, and what changed elsewhere."""
    mpl.use("agg")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for place, values, title, colours, form in (
        (axes[0], 100 * right, "exactly right, %", "viridis", ".0f"),
        (axes[1], changed, "error outside the edited region", "viridis_r", ".3f"),
    ):
        place.imshow(values, cmap=colours, aspect="auto")
        place.set_xticks(range(len(IMAGE_SCALES)), IMAGE_SCALES)
        place.set_yticks(range(len(TEXT_SCALES)), TEXT_SCALES)
        place.set(xlabel="image scale", ylabel="text scale", title=title)
        middle = (values.min() + values.max()) / 2
        for (i, j), value in np.ndenumerate(values):
            dark = (value < middle) == (colours == "viridis")
            place.text(
                j, i, f"{value:{form}}", ha="center", va="center", color="w" if dark else "k"
            )
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)

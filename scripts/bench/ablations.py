"""What each choice of training is worth, on the world of shapes: one change a row, two seeds.

    python scripts/bench/ablations.py --data out/shapes/data --unfiltered out/shapes/unfiltered

`--data` is the set of `data_gen/recipes/shapes.yaml`. The unfiltered one has the first candidate of
the same triplets, whatever it came to: copy `captions.jsonl`, `instructions.jsonl` and
`triplets.jsonl` into its folder and let that recipe's pair stage make it with

    --pairs.render.seeds 1 --pairs.render.branches 1 --pairs.filter.max_surprise null
    --pairs.filter.thresholds '{image_image: -1, text_source: -1, text_edited: -1,
    directional: -1}'

Every run begins at the base and trains by `training/recipes/shapes.yaml` for `--steps`; both seeds
of all rows take turns. "Right" is the share of other held-out edits, of the types that leave the
layout as it is, that read back as asked; "size" how far the pixels to be edited went on their way
(1: all of it), "elsewhere" the mean absolute error on [-1, 1] where nothing was to change. Prints a
Markdown table for `RESULTS.md`; a quarter of an hour a run on one core.
"""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import yaml
from jsonargparse import auto_cli
from tables import header, row, share

from data_gen.shards import INDEX_FILE
from inference.backbone import Backbone, load_backbone
from inference.editors.instruct import Instruct
from inference.shapes.evaluation import Trial, carried_out, draw_trials, measure
from inference.shapes.render import Field, render
from training.shapes.layout import KEEPING_LAYOUT

SEED: Final = 26_000_000
RECIPE: Final = Path("training/recipes/shapes.yaml")
PLAIN: Final = {"focus": 0.0, "changed_share": None, "detail_share": None}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One choice: what it changes of the recipe's objective, and the data it takes.

    Attributes:
        objective: Knobs of `model.objective` in place of the recipe's.
        data: `filtered`, `unfiltered` or `tenth`.
        raw: Whether the weights themselves are measured, of the recipe's own run.
    """

    objective: Mapping[str, Any] = {}
    data: str = "filtered"
    raw: bool = False


ROWS: Final[Mapping[str, Row]] = {
    "as the recipe has it": Row(),
    "the weights, not their average": Row(raw=True),
    "every error counts alike": Row(objective=PLAIN),
    "min-SNR": Row(objective={**PLAIN, "weighting": "min_snr"}),
    "clamped 1 / alpha-bar": Row(objective={**PLAIN, "weighting": "clamped_inverse_alpha"}),
    "images never dropped": Row(objective={"drop_image": False}),
    "no filter": Row(data="unfiltered"),
    "a tenth of the data": Row(data="tenth"),
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an editor made of the trials."""

    right: list[bool]
    sizes: list[float]
    elsewhere: list[float]


def main(
    data: Path,
    unfiltered: Path,
    output: Path = Path("out/ablations"),
    steps: int = 1000,
    seeds: tuple[int, ...] = (0, 1),
    per_kind: int = 40,
    only: str = "",
) -> None:
    """Train, measure, print the table.

    Args:
        data: Folder of the filtered data set.
        unfiltered: Folder of the unfiltered one.
        output: Folder of the runs; those that have ended are not run again.
        steps: Of each run.
        seeds: Of the runs.
        per_kind: Edits of each type to measure by.
        only: Rows, with semicolons between; empty takes all.
    """
    names = only.split(";") if only else list(ROWS)
    both = groups(data) & groups(unfiltered)
    sets = {
        "filtered": subset(data, output / "data" / "filtered", both),
        "unfiltered": subset(unfiltered, output / "data" / "unfiltered", both),
        "tenth": subset(data, output / "data" / "tenth", set(sorted(both)[: len(both) // 10])),
    }
    trials = draw_trials(sorted(KEEPING_LAYOUT), per_kind, seed=SEED)
    found: dict[str, list[Measured]] = defaultdict(list)
    for seed in seeds:
        for name in names:
            choice = ROWS[name]
            run = trained(replace(choice, raw=False), sets[choice.data], output, steps, seed)
            editor = raw_weights(run) if choice.raw else load_backbone(run / "model")
            found[name].append(measured(editor, trials))
            print(f"seed {seed}, {name}: {np.mean(found[name][-1].right):.0%}", file=sys.stderr)
    print(f"{steps} steps, {len(both)} pairs, {len(trials)} edits a seed\n")
    header("what is other", "right", "by seed", "size", "elsewhere")
    for name, runs in found.items():
        row(
            name,
            share([hit for run in runs for hit in run.right]),
            ", ".join(f"{np.mean(run.right):.0%}" for run in runs),
            spread(run.sizes for run in runs),
            spread(run.elsewhere for run in runs),
        )


# --- training ------------------------------------------------------------------------------------


def trained(choice: Row, data: Path, output: Path, steps: int, seed: int) -> Path:
    """The folder of a finished run; rows that change nothing of the run share it."""
    changes = "-".join(f"{name}={value}" for name, value in choice.objective.items())
    folder = output / f"{choice.data}-{changes or 'recipe'}-{seed}"
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    recipe |= {"seed_everything": seed, "output": str(folder)}
    recipe["model"]["objective"] |= choice.objective
    recipe["data"]["shards"] = str(data)
    recipe["trainer"]["max_steps"] = steps
    recipe["checkpoints"]["every"] = steps
    recipe["held_out_edits"]["every"] = 10 * steps
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    line = [sys.executable, "-m", "training", "fit", "--config", str(path)]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "HF_HUB_OFFLINE": "1"}
    subprocess.run(line, check=True, env=environment)
    return folder


def raw_weights(run: Path) -> Backbone:
    """The editor with the weights as they were after the last step."""
    editor = load_backbone(run / "model")
    state = torch.load(run / "last.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    weights = {
        name.removeprefix("unet."): found
        for name, found in state.items()
        if name.startswith("unet.")
    }
    editor.unet.load_state_dict(weights)
    return editor


# --- measuring -----------------------------------------------------------------------------------


def measured(editor: Backbone, trials: Sequence[Trial]) -> Measured:
    """Let an editor carry out the trials."""
    backbone = replace(editor, unet=editor.unet.to(torch.bfloat16))
    outputs = carried_out(Instruct(backbone=backbone, batch_size=64, progress=True), trials)
    outcomes = [measure(trial, output) for trial, output in zip(trials, outputs, strict=True)]
    return Measured(
        right=[one.right for one in outcomes],
        sizes=[size(trial, output) for trial, output in zip(trials, outputs, strict=True)],
        elsewhere=[one.error_elsewhere for one in outcomes],
    )


def size(trial: Trial, output: Field) -> float:
    """How far an edit went: its step along the step asked for, over that one's length."""
    side = output.shape[0]
    before, expected = render(trial.before, side), render(trial.expected, side)
    asked = expected - before
    return float(((output - before) * asked).sum() / (asked**2).sum())


def spread(values: Iterable[Sequence[float]]) -> str:
    """Median over all edits, and that of each seed."""
    runs = [np.median(run) for run in values]
    return f"{np.mean(runs):.3f} ({', '.join(f'{one:.3f}' for one in runs)})"


# --- data ----------------------------------------------------------------------------------------


def groups(data: Path) -> set[str]:
    """The triplets of a data set."""
    return set(pq.read_table(data / INDEX_FILE, columns=["group"])["group"].to_pylist())


def subset(data: Path, target: Path, wanted: set[str]) -> Path:
    """The same shards behind an index of some triplets only."""
    if not (target / INDEX_FILE).is_file():
        shutil.copytree(data / "shards", target / "shards", dirs_exist_ok=True)
        table = pq.read_table(data / INDEX_FILE)
        chosen = pc.is_in(table["group"], value_set=pa.array(sorted(wanted)))
        pq.write_table(table.filter(chosen), target / INDEX_FILE)
    return target


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

"""What each choice of training is worth, on a small part of the world: one change a row, two seeds.

    python scripts/bench/ablations.py            # two hours on 2 cores; again after an interruption

Two data sets are made of the same triplets: that of `ablations_data.yaml` with more captions, and
one with the first candidate of each triplet, whatever it came to. Every run begins at the base and
trains by `ablations_training.yaml`, several runs side by side. "Right" is the share of held-out
edits of one figure or its background that read back as asked; "size" how far the pixels to be
edited went on their way (1: all of it), "elsewhere" the mean absolute error on [-1, 1] where
nothing was to change, both as medians. Prints a Markdown table for `RESULTS.md`.
"""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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
from inference.files import replaced_folder, write_lines, written_atomically
from inference.progress import ProgressBar
from inference.shapes.evaluation import Trial, carried_out, draw_trials, measure
from inference.shapes.render import Field, render

SEED: Final = 26_000_000
DATA_RECIPE: Final = Path(__file__).with_name("ablations_data.yaml")
RECIPE: Final = Path(__file__).with_name("ablations_training.yaml")
UNFILTERED: Final = {
    "pairs.render.branches": "1",
    "pairs.filter.thresholds": (
        "{image_image: -1, text_source: -1, text_edited: -1, directional: -1}"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One choice: what it changes of the recipe's objective, and the data it takes.

    Attributes:
        objective: Knobs of `model.objective` in place of the recipe's.
        data: `filtered`, `unfiltered` or `tenth`.
        raw: Whether the weights themselves are measured, not their average.
    """

    objective: Mapping[str, Any] = field(default_factory=dict)
    data: str = "filtered"
    raw: bool = False

    def folder(self, output: Path, seed: int) -> Path:
        """Of the run; rows that change nothing of the run share it."""
        changes = "-".join(f"{name}={value}" for name, value in self.objective.items())
        return output / f"{self.data}-{changes or 'recipe'}-{seed}"


ROWS: Final[Mapping[str, Row]] = {
    "as the recipe has it": Row(),
    "the weights, not their average": Row(raw=True),
    "min-SNR": Row(objective={"weighting": "min_snr"}),
    "clamped 1 / alpha-bar": Row(objective={"weighting": "clamped_inverse_alpha"}),
    "half the loss on what changes": Row(objective={"changed_share": 0.5}),
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
    captions: int = 700,
    output: Path = Path("out/ablations"),
    steps: int = 300,
    seeds: tuple[int, ...] = (0, 1),
    per_kind: int = 50,
    only: str = "",
    side_by_side: int = 2,
    text_scale: float | None = None,
    image_scale: float | None = None,
) -> None:
    """Make the data, train, measure, print the table.

    Args:
        captions: Of each data set.
        output: Folder of data sets and runs; those that have ended are not made again.
        steps: Of each run.
        seeds: Of the runs.
        per_kind: Edits of each type to measure by.
        only: Rows, with semicolons between; empty takes all.
        side_by_side: Runs at a time.
        text_scale: Guidance to measure with in place of the recipe's.
        image_scale: Likewise.
    """
    rows = {name: ROWS[name] for name in only.split(";")} if only else ROWS
    sets, pairs = data_sets(output / f"data-of-{captions}-captions", captions)
    folder = output / f"runs-of-{captions}-captions-and-{steps}-steps"
    runs = {
        choice.folder(folder, seed): (choice, seed) for seed in seeds for choice in rows.values()
    }
    threads = max(1, (os.cpu_count() or 1) // side_by_side)
    with ThreadPoolExecutor(side_by_side) as pool:
        todo = [
            pool.submit(train, choice, sets[choice.data], run, steps, seed, threads)
            for run, (choice, seed) in runs.items()
        ]
        for each in ProgressBar(todo, desc="training", unit="run"):
            each.result()
    trials = one_figure_trials(per_kind)
    found: dict[str, list[Measured]] = defaultdict(list)
    for seed in seeds:
        for name, choice in rows.items():
            run = choice.folder(folder, seed)
            editor = raw_weights(run) if choice.raw else load_backbone(run / "model")
            method = Instruct(
                backbone=editor,
                text_scale=text_scale,
                image_scale=image_scale,
                batch_size=50,
                progress=True,
            )
            found[name].append(measured(method, trials))
            print(f"seed {seed}, {name}: {np.mean(found[name][-1].right):.0%}", file=sys.stderr)
    scales = f"text scale {text_scale}, image scale {image_scale} (None: the recipe's)"
    print(f"{steps} steps, {pairs} pairs, {len(trials)} edits a seed, {scales}\n")
    header("what is other", "right", "by seed", "size", "elsewhere")
    for name, ended in found.items():
        row(
            name,
            share([hit for run in ended for hit in run.right]),
            ", ".join(f"{np.mean(run.right):.0%}" for run in ended),
            spread(run.sizes for run in ended),
            spread(run.elsewhere for run in ended),
        )


# --- data ----------------------------------------------------------------------------------------


def data_sets(folder: Path, captions: int) -> tuple[dict[str, Path], int]:
    """The sets by name, of the same triplets; and how many pairs the full ones have."""
    filtered, unfiltered = folder / "all-filtered", folder / "all-unfiltered"
    generate(filtered, captions, {})
    unfiltered.mkdir(parents=True, exist_ok=True)
    for name in ("captions.jsonl", "instructions.jsonl", "triplets.jsonl"):
        shutil.copy(filtered / name, unfiltered / name)
    generate(unfiltered, captions, UNFILTERED)
    both = sorted(groups(filtered) & groups(unfiltered))
    return {
        "filtered": subset(filtered, folder / "filtered", both),
        "unfiltered": subset(unfiltered, folder / "unfiltered", both),
        "tenth": subset(filtered, folder / "tenth", both[: len(both) // 10]),
    }, len(both)


def generate(folder: Path, captions: int, changes: Mapping[str, str]) -> None:
    """Make a data set by the recipe, with a few knobs changed."""
    knobs = {"output": str(folder), "captions.count": str(captions), **changes}
    options = [part for name, value in knobs.items() for part in (f"--{name}", value)]
    command("data_gen", "run", "--config", str(DATA_RECIPE), *options)


def groups(data: Path) -> set[str]:
    """The triplets of a data set."""
    return set(pq.read_table(data / INDEX_FILE, columns=["group"])["group"].to_pylist())


def subset(data: Path, target: Path, wanted: Sequence[str]) -> Path:
    """The same shards behind an index of some triplets only."""
    if not (target / INDEX_FILE).is_file():
        with replaced_folder(target / "shards") as shards:
            shutil.copytree(data / "shards", shards, dirs_exist_ok=True)
        table = pq.read_table(data / INDEX_FILE)
        chosen = pc.is_in(table["group"], value_set=pa.array(wanted))
        with written_atomically(target / INDEX_FILE) as temporary:
            pq.write_table(table.filter(chosen), temporary)
    return target


def command(*line: str, threads: int | None = None) -> None:
    """Run one of the packages as a user would."""
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "HF_HUB_OFFLINE": "1"}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    subprocess.run([sys.executable, "-m", *line], check=True, env=environment)


# --- training ------------------------------------------------------------------------------------


def train(choice: Row, data: Path, folder: Path, steps: int, seed: int, threads: int) -> None:
    """Train to the end; a run that has ended is left alone."""
    if (folder / "model").is_dir():
        return
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    recipe |= {"seed_everything": seed, "output": str(folder)}
    recipe["model"]["objective"] |= choice.objective
    recipe["data"]["shards"] = str(data)
    recipe["trainer"]["max_steps"] = steps
    recipe["checkpoints"]["every"] = steps
    recipe["held_out_edits"]["every"] = 10 * steps
    path = folder / "recipe.yaml"
    write_lines(path, [yaml.safe_dump(recipe)])
    command("training", "fit", "--config", str(path), threads=threads)


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


def one_figure_trials(per_kind: int) -> list[Trial]:
    """Held-out edits of the recipe's two types, of scenes with one figure."""
    return [
        trial
        for kind in ("background", "recolour")
        for trial in [
            drawn
            for drawn in draw_trials([kind], 4 * per_kind, seed=SEED)
            if len(drawn.before.figures) == 1
        ][:per_kind]
    ]


def measured(editor: Instruct, trials: Sequence[Trial]) -> Measured:
    """Let an editor carry out the trials."""
    outputs = carried_out(editor, trials)
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
    """The mean of the seeds' medians, and each of them."""
    runs = [np.median(run) for run in values]
    return f"{np.mean(runs):.3f} ({', '.join(f'{one:.3f}' for one in runs)})"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

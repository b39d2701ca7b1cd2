"""Write `report.html`: one run of the whole chain on the shapes world, made to be looked at.

    python scripts/report.py --data DATA_SET --training TRAINING_RUN --output report.html

The page shows the triplets, kept and rejected pairs with their scores, what p does, the loss, and
held-out edits by the base, by the run's own editor and by the shipped one, each measured by reading
its output. The page needs nothing but itself, and is not made again while its inputs are the same.
"""

import csv
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import matplotlib as mpl
import numpy as np
import pyarrow.parquet as pq
import report_pictures
from jsonargparse import auto_cli
from numpy.typing import NDArray
from report_pictures import data_uri, loss_plot, sharing_plot

from data_gen.instructions.stage import read_triplets
from data_gen.rendering.config import RenderKnobs, Share
from data_gen.rendering.sharing import study_sharing
from data_gen.shapes import draw_triplets, unconcerned_region
from data_gen.shards import INDEX_FILE, ShardIndex, read_pair, scan_shard
from inference.backbone import Backbone, load_backbone
from inference.editors.instruct import Instruct
from inference.endpoints.journal import Journal
from inference.files import written_atomically
from inference.settings import Settings, load_settings
from inference.shapes import MODELS
from inference.shapes.edits import EDIT_TYPES, EditType
from inference.shapes.evaluation import (
    Outcome,
    Summary,
    Trial,
    carried_out,
    draw_trials,
    measure,
    summarise,
)
from inference.shapes.render import render
from training.unet import widen

Picture = NDArray[np.float32]
T = TypeVar("T")
TEMPLATE = Path(__file__).with_name("report.html.j2")
COPY = "copy the input"
PS = (0.0, 0.3, 0.6, 0.9)
NEXT_STEPS = """\
# edit a picture of your own with the editor this run trained, or with the shipped one
.venv/bin/python -m inference edit --images picture.png --instruction "make the circle green" \\
    --model {model} --output edited.png

# the recipe behind the shipped editor: more captions, all edit types, forty minutes on 2 cores
.venv/bin/python -m data_gen run --config data_gen/recipes/shapes.yaml
.venv/bin/python -m training fit --config training/recipes/shapes.yaml"""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One column of the comparison: its outputs, trial by trial, (64, 64, 3) in [0, 1]."""

    name: str
    outputs: Sequence[Picture]
    outcomes: Sequence[Outcome]


def main(
    data: Path,
    training: Path,
    output: Path,
    base: Path = MODELS / "stable-diffusion",
    shipped: Path = MODELS / "instruct-pix2pix",
    trials: int = 24,
    sharing_triplets: int = 16,
) -> None:
    """Write the page.

    Args:
        data: Folder of the data set (`python -m data_gen run`).
        training: Folder of the training run (`python -m training fit`).
        output: The page.
        base: Text-to-image model that rendered the pairs and was trained into the editor.
        shipped: Editor to compare with.
        trials: Held-out edits a type to measure with.
        sharing_triplets: Triplets to show the effect of p with.
    """
    key = _inputs_key(data, training, shipped)
    if output.is_file() and key in output.read_text(encoding="utf-8"):
        print(f"{output}: already done")
        return
    mpl.use("svg")
    page = {
        "key": key,
        **_data_part(data),
        **_sharing_part(base, sharing_triplets),
        **_training_part(training),
        **_editing_part(data, training, base, shipped, trials),
        "next_steps": NEXT_STEPS.format(model=training / "model"),
    }
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(page)
    with written_atomically(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{output}: written")


def _inputs_key(data: Path, training: Path, shipped: Path) -> str:
    """Hash of all that decides the page; it stands in the page itself."""
    sources = [
        data / INDEX_FILE,
        training / "model" / "unet" / "config.json",
        *sorted((training / "model" / "unet").glob("*.safetensors")),
        *sorted((shipped / "unet").glob("*.safetensors")),
        TEMPLATE,
        Path(__file__),
        Path(report_pictures.__file__),
    ]
    missing = [path for path in sources if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{missing[0]} is missing: run the stages before the report")
    return hashlib.sha256(
        b"".join(hashlib.sha256(p.read_bytes()).digest() for p in sources)
    ).hexdigest()


# --- stage 1: triplets and pairs -----------------------------------------------------------------


def _data_part(root: Path) -> dict[str, Any]:
    triplets = read_triplets(root / "triplets.jsonl")
    with Journal(root / "instructions.jsonl") as journal:
        answers = list(journal.entries())
    refusals = Counter(str(answer["rejected"]) for answer in answers if answer["rejected"])
    candidates = [
        row
        for path in sorted((root / "candidates").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    index = ShardIndex(root)
    kept = [_card(index.read(position), None) for position in _spread(len(index), 12)]
    return {
        "triplets": _one_of_each(triplets, lambda triplet: triplet.edit_type, 8),
        "refusals": refusals.most_common(4),
        "kept": kept,
        "rejected": _rejected_cards(root, {row["key"]: row["reason"] for row in candidates}, 8),
        "survival": _survival(candidates),
        "counts": {
            "answers of the writer": len(answers),
            "triplets accepted": len(triplets),
            "pairs rendered": len(candidates),
            "pairs kept": len(index),
        },
    }


def _card(pair: Any, reason: str | None) -> dict[str, Any]:
    return {
        "source": data_uri(pair.source),
        "edited": data_uri(pair.edited),
        "instruction": pair.triplet.instruction,
        "edit_type": pair.triplet.edit_type,
        "p": pair.p,
        "guidance": pair.guidance,
        "scores": pair.scores,
        "reason": reason,
    }


def _rejected_cards(root: Path, reasons: Mapping[str, str], count: int) -> list[dict[str, Any]]:
    rows = [
        row
        for path in sorted((root / "rejected").glob("*.tar"))
        for row in scan_shard(path, path.relative_to(root).as_posix())
    ]
    some = _one_of_each(rows, lambda row: reasons[row.key], count)
    return [_card(read_pair(root, row), reasons[row.key]) for row in some]


def _survival(candidates: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for kind in sorted({row["edit_type"] for row in candidates}):
        mine = [row for row in candidates if row["edit_type"] == kind]
        # A candidate that lost to a better p of its seed has passed the thresholds.
        reasons = Counter(row["reason"] for row in mine if row["reason"] and "<" in row["reason"])
        rows.append(
            {
                "edit_type": kind,
                "candidates": len(mine),
                "passed": len(mine) - reasons.total(),
                "reason": reasons.most_common(1)[0][0] if reasons else "",
            }
        )
    return rows


def _sharing_part(base: Path, count: int) -> dict[str, Any]:
    backbone, triplets = load_backbone(base), draw_triplets(count, seed=4_000_000)
    shares: tuple[Share, ...] = ("self", "cross")
    studies = {}
    for share in shares:
        knobs = RenderKnobs(share=share, steps=20, guidance_range=(3.0, 6.0), batch_rows=128)
        studies[share] = study_sharing(backbone, triplets, PS, knobs, unconcerned_region)
    return {
        "sharing_plot": sharing_plot(studies),
        "sharing_note": "Mean change of what the edit does not concern, with 95 % intervals, when "
        f"self- or cross-attention is shared: {count} triplets, the same noise at every p.",
    }


# --- stage 2: training ---------------------------------------------------------------------------


def _training_part(root: Path) -> dict[str, Any]:
    losses: dict[int, float] = {}
    for path in sorted((root / "logs").glob("version_*/metrics.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            losses |= {
                int(r["step"]): float(r["train/loss"])
                for r in csv.DictReader(file)
                if r["train/loss"]
            }
    if not losses:
        raise ValueError(f"{root / 'logs'} holds no losses: has the training run finished?")
    steps, values = zip(*sorted(losses.items()), strict=True)
    return {
        "steps": steps[-1] + 1,
        "loss_plot": loss_plot(steps, values),
        "training_note": "The base model's UNet gets four more input channels for the picture to "
        f"edit (weights zero: it starts as its parent), then {steps[-1] + 1:,} optimiser steps.",
    }


# --- stage 3: editing ----------------------------------------------------------------------------


def _editing_part(
    data: Path, training: Path, base: Path, shipped: Path, trials: int
) -> dict[str, Any]:
    found = {triplet.edit_type for triplet in read_triplets(data / "triplets.jsonl")}
    kinds = [kind for kind in EDIT_TYPES if kind in found]
    drawn = draw_trials(kinds, trials)
    settings = load_settings(training / "model")
    contestants = [
        _copying(drawn),
        _contestant("before training", _untrained(base, settings), drawn),
        _contestant("this run", load_backbone(training / "model"), drawn),
        _contestant("shipped editor", load_backbone(shipped), drawn),
    ]
    return {
        "editors": [contestant.name for contestant in contestants[1:]],
        "contestants": [contestant.name for contestant in contestants],
        "edits": _edit_rows(drawn, contestants[1:], kinds),
        "accuracy": _accuracy_rows(drawn, contestants, kinds),
        "accuracy_note": f"{trials} held-out edits a type. Right means: read back from the "
        "picture, the scene is the one asked for and nothing else has changed.",
        "verdict": _verdict(contestants),
    }


def _untrained(base: Path, settings: Settings) -> Backbone:
    backbone = load_backbone(base)
    return replace(backbone, unet=widen(backbone.unet), settings=settings)


def _copying(trials: Sequence[Trial]) -> Contestant:
    outputs = [render(trial.before) for trial in trials]
    outcomes = [measure(trial, output) for trial, output in zip(trials, outputs, strict=True)]
    return Contestant(name=COPY, outputs=outputs, outcomes=outcomes)


def _contestant(name: str, backbone: Backbone, trials: Sequence[Trial]) -> Contestant:
    outputs = carried_out(Instruct(backbone=backbone, batch_size=32, progress=True), trials)
    outcomes = [measure(trial, output) for trial, output in zip(trials, outputs, strict=True)]
    return Contestant(name=name, outputs=outputs, outcomes=outcomes)


def _edit_rows(
    trials: Sequence[Trial], editors: Sequence[Contestant], kinds: Sequence[EditType]
) -> list[dict[str, Any]]:
    per_kind = max(2, 12 // len(kinds))
    rows = []
    for kind in kinds:
        numbers = [n for n, trial in enumerate(trials) if trial.edit_type == kind][:per_kind]
        for n in numbers:
            cells = [
                {
                    "image": data_uri(editor.outputs[n]),
                    "right": editor.outcomes[n].right,
                    "reason": editor.outcomes[n].reason,
                }
                for editor in editors
            ]
            rows.append(
                {
                    "input": data_uri(render(trials[n].before)),
                    "instruction": trials[n].instruction,
                    "edit_type": kind,
                    "outputs": cells,
                    "expected": data_uri(render(trials[n].expected)),
                }
            )
    return rows


def _accuracy_rows(
    trials: Sequence[Trial], contestants: Sequence[Contestant], kinds: Sequence[EditType]
) -> list[dict[str, Any]]:
    rows = []
    for kind in (*kinds, None):
        chosen = [n for n, trial in enumerate(trials) if kind in (None, trial.edit_type)]
        summaries = [summarise([one.outcomes[n] for n in chosen]) for one in contestants]
        least = min(summary.error for summary in summaries)
        rows.append(
            {
                "edit_type": kind or "all",
                "cells": [_accuracy_cell(summary, least) for summary in summaries],
            }
        )
    return rows


def _accuracy_cell(summary: Summary, least: float) -> dict[str, Any]:
    low, high = summary.interval
    return {
        "right": f"{100 * summary.accuracy:.0f} %",
        "interval": f"{100 * low:.0f} to {100 * high:.0f} %",
        "error": f"{summary.error:.3f}",
        "best": summary.error == least,
    }


def _verdict(contestants: Sequence[Contestant]) -> str:
    errors = {one.name: summarise(one.outcomes).error for one in contestants}
    ours = errors["this run"]
    words = ", ".join(f"{name} {error:.3f}" for name, error in errors.items())
    if ours < min(errors[COPY], errors["before training"]):
        finding = "already beat both doing nothing and the base"
    else:
        finding = "did not suffice to beat both doing nothing and the base"
    return f"This run's minutes of training {finding}. Mean error: {words}."


# --- small helpers of this page ------------------------------------------------------------------


def _spread(length: int, count: int) -> list[int]:
    """At most `count` positions, evenly over a sequence."""
    return sorted({round(i) for i in np.linspace(0, length - 1, min(count, length))})


def _one_of_each(items: Sequence[T], kind: Callable[[T], str], count: int) -> list[T]:
    """At most `count` items, kinds in turn."""
    seen: Counter[str] = Counter()
    ranked = []
    for item in items:
        ranked.append((seen[kind(item)], item))
        seen[kind(item)] += 1
    return [item for _, item in sorted(ranked, key=lambda pair: pair[0])[:count]]


if __name__ == "__main__":
    try:
        auto_cli(main, as_positional=False)
    except (FileNotFoundError, ValueError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(1)

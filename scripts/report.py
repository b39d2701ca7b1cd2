"""Write `report.html`: one run of the whole chain on the shapes world, made to be looked at.

    python scripts/report.py --data DATA_SET --training TRAINING_RUN --output report.html

The page shows the triplets, kept and turned down pairs with their scores, what p does, the loss,
and held-out edits by the model before training and by the run's own editor, each measured by
reading its output. Beside it lie the contact sheet and the statistics of the data set. The pages
need nothing but themselves, and are not made again while their inputs are the same.
"""

import csv
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq
import report_editors
import report_pictures
from jsonargparse import auto_cli
from report_editors import BEFORE, OURS, copying, draw_parts, edited_by
from report_pictures import data_uri, loss_plot, p_plot

from data_gen.instructions.triplets import read_triplets
from data_gen.records import EditTriplet, ImagePair
from data_gen.shards import INDEX_FILE, ShardIndex, read_pair, scan_shard
from data_gen.survey import pages
from data_gen.survey.fates import fate, recipe_key
from data_gen.survey.pages import made_here, render_page
from data_gen.survey.sheet import sheet
from data_gen.survey.stats import share_in_words, stats
from inference.backbone import Backbone, load_backbone
from inference.endpoints.journal import Journal
from inference.files import written_atomically
from inference.memory import keep_memory
from inference.settings import Settings, load_settings
from inference.shapes import MODELS
from inference.shapes.domain import Domain
from inference.shapes.edits import EDIT_TYPES
from training.unet import widen

T = TypeVar("T")
TEMPLATE = Path(__file__).with_name("report.html.j2")
STYLE = Path(__file__).with_name("report.css")
NEXT_STEPS = """\
# edit a picture of your own with the editor this run trained
.venv/bin/python -m inference edit --images picture.png --model {model} \\
    --instruction "make the circle smaller" --output edited.png

# the recipe behind the shipped editor: more captions, all edit types, hours instead of minutes
.venv/bin/python -m data_gen run --config data_gen/recipes/shapes.yaml
.venv/bin/python -m training fit --config training/recipes/shapes.yaml"""


def main(
    data: Path,
    training: Path,
    output: Path,
    base: Path = MODELS / "instruct-pix2pix",
    trials: int = 20,
    steps: int = 15,
    times: Path | None = None,
) -> None:
    """Write the page, and beside it the contact sheet and the statistics of the data set.

    Args:
        data: Folder of the data set (`python -m data_gen run`).
        training: Folder of the training run (`python -m training fit`).
        output: The page.
        base: What the training began with: a text-to-image model, or an editor.
        trials: Held-out edits a type to measure with, and half as many of scenes never seen.
        steps: Denoising steps of an edit.
        times: What each stage took: lines of a name, seconds and CPU seconds, between tabs.
    """
    key = _inputs_key(data, training, base)
    if output.is_file() and key in output.read_text(encoding="utf-8"):
        print(f"{output}: already done")
        return
    keep_memory("cpu")
    beside = {
        "report": output,
        "contact sheet": output.with_name(f"{output.stem}-sheet.html"),
        "statistics": output.with_name(f"{output.stem}-stats") / "stats.html",
    }
    page = {
        "key": key,
        "made": made_here(),
        "times": _times(times),
        "links": _links(beside, "report"),
        **_data_part(data),
        **_training_part(training, base),
        **_editing_part(data, training, base, trials, steps),
        "next_steps": NEXT_STEPS.format(model=training / "model"),
    }
    sheet(data, beside["contact sheet"], links=_links(beside, "contact sheet"))
    stats(data, beside["statistics"].parent, links=_links(beside, "statistics"))
    style = STYLE.read_text(encoding="utf-8")
    text = render_page(TEMPLATE.name, folder=TEMPLATE.parent, style=style, **page)
    with written_atomically(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{output}: written\n{page['headline']}")


def _links(pages_beside: Mapping[str, Path], here: str) -> dict[str, str]:
    """Name -> address of the other pages, from one of them."""
    folder = pages_beside[here].parent
    return {
        name: Path(os.path.relpath(path, folder)).as_posix()
        for name, path in pages_beside.items()
        if name != here
    }


def _inputs_key(data: Path, training: Path, base: Path) -> str:
    """Hash of all that decides the page; it stands in the page itself."""
    sources = [
        data / INDEX_FILE,
        training / "model" / "unet" / "config.json",
        *sorted((training / "model" / "unet").glob("*.safetensors")),
        *sorted((base / "unet").glob("*.safetensors")),
        TEMPLATE,
        STYLE,
        pages.STYLE,
        Path(__file__),
        Path(report_editors.__file__),
        Path(report_pictures.__file__),
    ]
    missing = [path for path in sources if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{missing[0]} is missing: run the stages before the report")
    return hashlib.sha256(
        b"".join(hashlib.sha256(p.read_bytes()).digest() for p in sources)
    ).hexdigest()


def _times(path: Path | None) -> list[dict[str, Any]]:
    """What each stage took, over all the runs that it took."""
    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path and path.is_file() else []
    for line in lines:
        name, wall, used = line.split("\t")
        seconds[name] = seconds.get(name, 0) + float(wall)
        cpu[name] = cpu.get(name, 0) + float(used)
    return [{"name": name, "wall": seconds[name], "cpu": cpu[name]} for name in seconds]


# --- stage 1: triplets and pairs -----------------------------------------------------------------


def _data_part(root: Path) -> dict[str, Any]:
    triplets = read_triplets(root / "triplets.jsonl")
    with Journal(root / "instructions.jsonl") as journal:
        answers = [entry for entry in journal.entries() if "answer" in entry]
    refusals = Counter(str(answer["rejected"]) for answer in answers if answer["rejected"])
    candidates = [
        row
        for path in sorted((root / "candidates").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    index = ShardIndex(root)
    kept = [_card(index.read(position), None) for position in _spread(len(index), 8)]
    return {
        "triplets": _one_of_each(triplets, lambda triplet: triplet.edit_type, 6),
        "refusals": refusals.most_common(4),
        "kept": kept,
        "rejected": _rejected_cards(root, {row["key"]: row["reason"] for row in candidates}, 4),
        "survival": _survival(candidates),
        "p_plot": p_plot(candidates),
        "counts": {
            "answers of the writer": len(answers),
            "triplets accepted": len(triplets),
            "pairs rendered": sum(row["directional"] is not None for row in candidates),
            "pairs kept": len(index),
        },
    }


def _card(pair: ImagePair, reason: str | None) -> dict[str, Any]:
    return {
        "source": data_uri(pair.source),
        "edited": data_uri(pair.edited),
        "caption": pair.triplet.caption,
        "edited_caption": pair.triplet.edited_caption,
        "instruction": pair.triplet.instruction,
        "edit_type": pair.triplet.edit_type,
        "p": pair.p,
        "guidance": pair.guidance,
        "scores": asdict(pair.scores) if pair.scores else {},
        "verdict": "kept" if reason is None else f"turned down: {reason}",
        "recipe_key": None if reason is None else recipe_key(reason),
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
    """What became of the candidates that were rendered to their end or turned down before."""
    rows = []
    for kind in sorted({row["edit_type"] for row in candidates}):
        mine = [row["reason"] for row in candidates if row["edit_type"] == kind]
        fates = Counter(map(fate, mine))
        against = Counter(reason for reason in mine if fate(reason) == "turned down")
        judged = fates["kept"] + fates["turned down"]
        reason = against.most_common(1)[0][0] if against else ""
        rows.append(
            {
                "edit_type": kind,
                "kept": fates["kept"],
                "outranked": fates["outranked"],
                "turned_down": fates["turned down"],
                "share": share_in_words(fates["turned down"], judged),
                "reason": reason,
                "recipe_key": recipe_key(reason) or "",
            }
        )
    return rows


# --- stage 2: training ---------------------------------------------------------------------------


def _training_part(root: Path, base: Path) -> dict[str, Any]:
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
        "training_note": f"It begins as {base.name} and makes {steps[-1] + 1:,} optimiser steps.",
    }


# --- stage 3: editing ----------------------------------------------------------------------------


def _editing_part(
    data: Path, training: Path, base: Path, trials: int, steps: int
) -> dict[str, Any]:
    triplets = read_triplets(data / "triplets.jsonl")
    found = {triplet.edit_type for triplet in triplets}
    domain = _domain(triplets)
    parts = draw_parts([kind for kind in EDIT_TYPES if kind in found], domain, trials)
    settings = load_settings(training / "model")
    contestants = [
        copying(parts),
        edited_by(BEFORE, _untrained(base, settings), parts, steps),
        edited_by(OURS, load_backbone(training / "model"), parts, steps),
    ]
    said = list(report_editors.verdicts(parts, contestants))
    return {
        "headline": report_editors.headline(said),
        "verdicts": said,
        "domain": domain.in_words(),
        "trials": trials,
        "denoising_steps": steps,
        "accuracy": report_editors.table(parts, contestants),
        "contestants": [contestant.name for contestant in contestants],
        "edits": report_editors.examples(parts, contestants, count=4),
    }


def _domain(triplets: Sequence[EditTriplet]) -> Domain:
    return Domain.of(
        text for triplet in triplets for text in (triplet.caption, triplet.edited_caption)
    )


def _untrained(base: Path, settings: Settings) -> Backbone:
    backbone = load_backbone(base)
    return replace(backbone, unet=widen(backbone.unet), settings=settings)


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

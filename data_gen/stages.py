"""The three stages of data generation, and the recipe that says how each is done.

    captions -> captions.jsonl -> instructions -> triplets.jsonl -> pairs -> shards + index

Each stage reads what the one before left in the output folder, so it runs alone as well as in the
chain, and each goes on where it was interrupted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from data_gen.captions import CaptionKnobs, read_captions, write_captions
from data_gen.executors import Executor, Partition, in_process
from data_gen.filter import FilterKnobs, judged
from data_gen.instruction_knobs import InstructionKnobs
from data_gen.instructions import read_triplets, write_triplets
from data_gen.pairs import RenderKnobs, render
from data_gen.receipts import Outcome, Receipt, Unit, done_receipt, fingerprint, plan, tally
from data_gen.records import EditTriplet, Rendered, Verdict
from data_gen.units import Paint, UnitMaker, publish
from inference.backbone import load_backbone
from inference.clip import load_clip

FORMAT = 3
"""Raised when the same recipe and models would give other bytes than before."""

_PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Unfinished(Exception):
    """The run ended and something is still to be done."""


@dataclass(frozen=True, kw_only=True)
class PairKnobs:
    """How triplets become image pairs.

    Attributes:
        model: Diffusers folder of the text-to-image model.
        clip: The CLIP that scores: a folder, or a name that open_clip knows.
        precision: Of the text-to-image model's weights.
        render: Sampling and attention sharing.
        filter: What is kept.
        unit_size: Triplets a unit: what is lost, at most, when a run is killed.
        keep_rejected: Rejected pairs a unit keeps to be looked at.
    """

    model: str = "inference/shapes/models/stable-diffusion"
    clip: str = "inference/shapes/models/clip"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    render: RenderKnobs = field(default_factory=RenderKnobs)
    filter: FilterKnobs = field(default_factory=FilterKnobs)
    unit_size: int = 32
    keep_rejected: int = 4

    def __post_init__(self) -> None:
        if self.unit_size < 1:
            raise ValueError(f"pairs.unit_size must be at least 1, got {self.unit_size}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a data set is made.

    Attributes:
        output: The data set's folder.
        captions: The caption stage.
        instructions: The instruction stage.
        pairs: The pair stage.
        partition: The share of the units that this process makes, i/n; for array jobs.
    """

    output: Path
    captions: CaptionKnobs = field(default_factory=CaptionKnobs)
    instructions: InstructionKnobs = field(default_factory=InstructionKnobs)
    pairs: PairKnobs = field(default_factory=PairKnobs)
    partition: str = "0/1"


def make_captions(recipe: Recipe) -> None:
    """Write ``captions.jsonl``."""
    write_captions(recipe.captions, recipe.output / "captions.jsonl")


def make_instructions(recipe: Recipe) -> None:
    """Write ``triplets.jsonl``, asking what the journal does not answer yet."""
    write_triplets(
        read_captions(recipe.output / "captions.jsonl"),
        recipe.instructions,
        journal=recipe.output / "instructions.jsonl",
        triplets=recipe.output / "triplets.jsonl",
    )


def make_pairs(recipe: Recipe, *, executor: Executor = in_process) -> None:
    """Make this partition's units that are not done, and publish once all partitions' are.

    Raises:
        Unfinished: Prompts failed.
        ValueError: A file or a knob is wrong.
    """
    knobs, root = recipe.pairs, recipe.output
    units = plan_units(read_triplets(root / "triplets.jsonl"), knobs)
    mine = Partition.parse(recipe.partition).of(units)
    todo = [unit for unit in mine if done_receipt(root, unit) is None]
    print(f"pairs: {len(mine) - len(todo)} of {len(mine)} units are done")
    if todo:
        _make_units(todo, knobs, root, executor)
    receipts = [receipt for unit in units if (receipt := done_receipt(root, unit))]
    if len(receipts) < len(units):
        print(f"pairs: {len(units) - len(receipts)} units are left to other partitions")
        return
    pairs = publish(root, receipts)
    statuses, reasons = tally(receipts)
    print(f"pairs: {pairs} kept; prompts {dict(statuses)}; not kept {dict(reasons.most_common())}")


def plan_units(triplets: Sequence[EditTriplet], knobs: PairKnobs) -> list[Unit]:
    """Cut triplets into units whose fingerprint covers all that decides their bytes."""
    settings = {
        "format": FORMAT,
        "precision": knobs.precision,
        "render": asdict(knobs.render),
        "filter": asdict(knobs.filter),
        "keep_rejected": knobs.keep_rejected,
    }
    recipe = fingerprint(settings, [knobs.model, knobs.clip])
    return plan(triplets, unit_size=knobs.unit_size, recipe=recipe)


def _make_units(units: Sequence[Unit], knobs: PairKnobs, root: Path, executor: Executor) -> None:
    with tqdm(total=sum(len(unit.triplets) for unit in units), desc="pairs", unit="prompt") as bar:
        kept = 0

        def on_prompt(outcome: Outcome) -> None:
            nonlocal kept
            kept += outcome.kept
            bar.set_postfix(kept=kept, refresh=False)
            bar.update()

        maker = UnitMaker(
            root=root,
            paint=painter(knobs),
            provenance={"model": knobs.model, "clip": knobs.clip, "precision": knobs.precision},
            keep_rejected=knobs.keep_rejected,
            on_prompt=on_prompt,
        )
        failed = [receipt for receipt in executor(maker, units) if receipt.failed]
    if failed:
        raise Unfinished(_failure(failed))


def _failure(receipts: Sequence[Receipt]) -> str:
    _, reasons = tally(receipts)
    return f"{len(receipts)} units failed, {dict(reasons)}: run again to make them again"


def painter(knobs: PairKnobs) -> Paint:
    """Load the models and return what renders and judges triplets with them."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = load_backbone(knobs.model, device=device, dtype=_PRECISIONS[knobs.precision])
    scorer = load_clip(knobs.clip, device=device)

    def paint(triplets: Sequence[EditTriplet]) -> Iterator[tuple[Rendered, list[Verdict]]]:
        for rendered in render(backbone, triplets, knobs.render):
            yield rendered, judged(rendered, scorer, knobs.filter, backbone)

    return paint

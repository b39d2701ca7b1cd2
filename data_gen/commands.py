"""The commands: what may be said to each, in words and types.

The work behind one, and the libraries that it takes, are imported once it runs: help and wrong
options are answered at once.
"""

import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from data_gen.imports.config import Columns, ForeignLayout
from data_gen.instructions.knobs import FineTuneKnobs
from data_gen.recipe import Recipe
from inference.command_line import Commands
from inference.number_types import (
    Count,
    PixelCount,
    Positive,
    PositiveCount,
    Seed,
    checks_numbers,
)


def run(**recipe: Any) -> None:
    """Run all stages, each from where it was left.

    Questions that the language model left unanswered do not hold up the pairs of the others; the
    command fails for them in the end, and the next one asks them again.
    """
    wanted = Recipe(**recipe)
    from data_gen.instructions.stage import Unanswered
    from data_gen.preflight import require_ready
    from data_gen.stages import make_pairs
    from data_gen.text_stages import make_captions, make_instructions

    made = require_ready(wanted)  # models are located once: all stages are to see the same
    make_captions(made)
    unanswered: Unanswered | None = None
    try:
        make_instructions(made)
    except Unanswered as error:
        print(f"warning: {error}; the pairs of the others are made", file=sys.stderr, flush=True)
        unanswered = error
    make_pairs(made)
    if unanswered is not None:
        raise unanswered


def captions(**recipe: Any) -> None:
    """Only collect the captions."""
    made = Recipe(**recipe)
    from data_gen.text_stages import make_captions

    make_captions(made)


def instructions(**recipe: Any) -> None:
    """Only have the edits of the collected captions written."""
    made = Recipe(**recipe)
    from data_gen.text_stages import make_instructions

    make_instructions(made)


def pairs(**recipe: Any) -> None:
    """Only render and filter the pairs of the written edits."""
    made = Recipe(**recipe)
    from data_gen.stages import make_pairs

    make_pairs(made)


@checks_numbers
def estimate(
    rates: dict[str, Positive] | None = None, measure: bool = False, **recipe: Any
) -> None:
    """Tell what the run of a recipe will need: requests, UNet rows, hours and disk.

    Args:
        rates: Device -> UNet rows a second of the pair stage, such as '{"H200": 900}'; what
            --measure says there.
        measure: Also time the recipe's models on this machine, for a few seconds.
        recipe: The recipe.
    """
    made = Recipe(**recipe)
    from data_gen.estimate.report import report

    for line in report(made, rates or {}, measure=measure):
        print(line)


def verify(
    data: Path, clip: str | None = None, swaps: bool = True, report: Path | None = None
) -> None:
    """Check a data set: hashes, every member, the index, keys, fields, and swapped pairs.

    Args:
        data: The data set's folder.
        clip: The CLIP that looks for swapped pairs: a folder, or a name that open_clip knows. By
            default the shapes world's own, for the pairs that it scored; another that a data set
            names is not loaded unasked.
        swaps: Whether to look for swapped pairs, by far the slowest part.
        report: File for all faults, one JSON object a line; by default the first of each kind are
            printed and that is all.
    """
    from data_gen.survey.verify import verify as work

    work(data, clip, swaps, report)


def stats(data: Path, output: Path, links: dict[str, str] | None = None) -> None:
    """Count and draw what became of prompts and candidates, by stage and edit type.

    Works while a run is still going. The table is printed and written as `survival.csv`; beside it
    lie `survival.png`, `reasons.png`, `scores.png` and `p.png`, as far as there is what they show,
    and `stats.html`, one page with all of it that needs nothing but itself.

    Args:
        data: The data set's folder.
        output: Folder for the table, the pictures and the page.
        links: Pages that the page links to, name -> address.
    """
    from data_gen.survey.stats import stats as work

    work(data, output, links)


@checks_numbers
def sheet(
    data: Path,
    output: Path,
    pairs: Count = 240,
    rejected: Count = 120,
    seed: Seed = 0,
    size: PixelCount = 256,
    links: dict[str, str] | None = None,
) -> None:
    """Write a contact sheet of a data set: one HTML file, to be opened in a browser.

    Args:
        data: The data set's folder; its run need not be finished.
        output: The page.
        pairs: How many kept pairs to show, at most.
        rejected: How many rejected pairs to show, at most; a data set keeps a few of each unit.
        seed: Chooses them.
        size: Longer side of a picture on the page, at most, in pixels.
        links: Pages that the page links to, name -> address.
    """
    from data_gen.survey.sheet import sheet as work

    work(data, output, pairs, rejected, seed, size, links)


@checks_numbers
def import_pairs(
    layout: ForeignLayout,
    output: Path,
    source: str | None = None,
    columns: Columns | None = None,
    split: str = "train",
    unit_size: PositiveCount = 1000,
) -> None:
    """Import pairs that others made into shards and an index, ready to train on.

    For example, from lines such as {"source": "in/1.png", "target": "out/1.png", "instruction":
    "make it night"}, with the pictures in folders beside the file:

        python -m data_gen import --layout jsonl --source edits.jsonl --output out/edits

    Args:
        layout: How the pairs come. `instruct-pix2pix`: a folder with seeds.json; `jsonl`: a file
            with a JSON object a line, beside its pictures; `columns`: what `datasets` loads, a
            hub name, a folder or a parquet file, by its columns' names; `magicbrush` and
            `instructpix2pix-clip-filtered`: those two, from the hub or from a copy. A shard holds
            two pictures a pair: further ones, as MagicBrush's masks, are left out, with a note.
        output: The data set's folder.
        source: Folder, file or hub name; `magicbrush` and the like know theirs.
        columns: Under which names a jsonl or a table keeps what; the default names of a jsonl are
            source, target and instruction.
        split: Which split of a hub data set.
        unit_size: Prompts a shard: what is lost, at most, when an import is killed.
    """
    from data_gen.imports.pairs import import_pairs as work

    work(layout, output, source, columns, split, unit_size)


@checks_numbers
def push(
    data: Path,
    to: str,
    license: str,  # noqa: A002 (the card's own word)
    name: str | None = None,
    recipe: Path | None = None,
    shard_mib: PositiveCount = 512,
    private: bool = True,
) -> None:
    """Publish a data set as webdataset shards with a card, in a local folder or on the hub.

    The data set is verified first. Whoever pushes to the hub is logged in, or has HF_TOKEN set.

    Args:
        data: The data set's folder.
        to: An empty or new folder, or hf://datasets/OWNER/NAME. OWNER/NAME alone is a folder only
            where there is a folder OWNER.
        license: The license you publish under, as the hub writes it, such as cc-by-4.0.
        name: The data set's name on its card; by default that of the folder or repository.
        recipe: The recipe that made it, which the card shows: a YAML file, or a recipe's name.
        shard_mib: Size of a shard, in MiB; a unit is not cut.
        private: Whether a repository that is made new on the hub is private.
    """
    from data_gen.publishing.push import push as work

    work(data, to, license, name, recipe, shard_mib, private)


def doctor(**recipe: Any) -> None:
    """Tell all that a recipe still lacks on this machine, before anything is fetched or paid."""
    made = Recipe(**recipe)
    from data_gen.doctor import diagnose
    from inference.readiness import report

    report(diagnose(made), f"the recipe of {made.output}")


def fine_tune(**knobs: Any) -> None:
    """Fine-tune a hosted language model on edits that people wrote, and print its name."""
    made = FineTuneKnobs(**knobs)
    from data_gen.instructions.fine_tune import run_fine_tuning

    run_fine_tuning(made)


COMMANDS: Final[Commands] = MappingProxyType(
    {
        "run": run,
        "captions": captions,
        "instructions": instructions,
        "pairs": pairs,
        "estimate": estimate,
        "verify": verify,
        "stats": stats,
        "sheet": sheet,
        "import": import_pairs,
        "push": push,
        "fine-tune": fine_tune,
        "doctor": doctor,
    }
)

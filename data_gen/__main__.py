"""Make a data set from a recipe: ``python -m data_gen run --config data_gen/recipes/shapes.yaml``.

Each stage also runs alone, with the same recipe: ``captions``, ``instructions``, ``pairs``.
``fine-tune`` teaches a hosted language model to write edits from edits that people wrote.
"""

import sys
from collections.abc import Sequence
from typing import Any

from data_gen.budget import BudgetMet
from data_gen.fine_tune import FineTuneKnobs, run_fine_tuning
from data_gen.server import ServerError
from data_gen.stages import Recipe, Unfinished, make_captions, make_instructions, make_pairs
from inference import command_line


def run(**recipe: Any) -> None:
    """Run all stages, each from where it was left."""
    made = Recipe(**recipe)
    make_captions(made)
    make_instructions(made)
    make_pairs(made)


def captions(**recipe: Any) -> None:
    """Only collect the captions."""
    make_captions(Recipe(**recipe))


def instructions(**recipe: Any) -> None:
    """Only have the edits of the collected captions written."""
    make_instructions(Recipe(**recipe))


def pairs(**recipe: Any) -> None:
    """Only render and filter the pairs of the written edits."""
    make_pairs(Recipe(**recipe))


def fine_tune(**knobs: Any) -> None:
    """Fine-tune a hosted language model on edits that people wrote, and print its name."""
    run_fine_tuning(FineTuneKnobs(**knobs))


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    return command_line.run(
        {
            "run": run,
            "captions": captions,
            "instructions": instructions,
            "pairs": pairs,
            "fine-tune": fine_tune,
        },
        prog="python -m data_gen",
        args=args,
        expected=(ValueError, OSError, ServerError, BudgetMet, Unfinished),
    )


if __name__ == "__main__":
    sys.exit(main())

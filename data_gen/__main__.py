"""Make a data set from a recipe: ``python -m data_gen run --config data_gen/recipes/shapes.yaml``.

Each stage also runs alone, with the same recipe: ``captions``, ``instructions``, ``pairs``;
``estimate`` tells what a run will need. Around a data set: ``verify``, ``stats``, ``sheet``,
``import`` and ``push``. ``fine-tune`` teaches a hosted language model to write edits from edits
that people wrote.
"""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from data_gen.doctor import diagnose
from data_gen.estimate.report import report
from data_gen.imports.pairs import import_pairs
from data_gen.instructions.fine_tune import FineTuneKnobs, run_fine_tuning
from data_gen.instructions.stage import Unanswered
from data_gen.preflight import require_ready
from data_gen.publishing.push import push
from data_gen.runs.receipts import Unfinished
from data_gen.runs.workers import WorkerError
from data_gen.stages import Recipe, make_captions, make_instructions, make_pairs
from data_gen.survey.sheet import sheet
from data_gen.survey.stats import stats
from data_gen.survey.verify import verify
from inference import command_line, readiness
from inference.endpoints.budget import BudgetMet
from inference.endpoints.failures import ServerError
from inference.number_types import Positive, checks_numbers
from inference.recipe_names import with_recipe_paths
from inference.recipe_parser import USAGE_ERROR


def run(**recipe: Any) -> None:
    """Run all stages, each from where it was left.

    Questions that the language model left unanswered do not hold up the pairs of the others; the
    command fails for them in the end, and the next one asks them again.
    """
    made = Recipe(**recipe).located()  # once: the stages are to see the same models
    require_ready(made)
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
    make_captions(Recipe(**recipe))


def instructions(**recipe: Any) -> None:
    """Only have the edits of the collected captions written."""
    make_instructions(Recipe(**recipe))


def pairs(**recipe: Any) -> None:
    """Only render and filter the pairs of the written edits."""
    make_pairs(Recipe(**recipe))


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
    for line in report(Recipe(**recipe), rates or {}, measure=measure):
        print(line)


def doctor(**recipe: Any) -> None:
    """Tell all that a recipe still lacks on this machine, before anything is fetched or paid."""
    made = Recipe(**recipe)
    readiness.report(diagnose(made), f"the recipe of {made.output}")


def fine_tune(**knobs: Any) -> None:
    """Fine-tune a hosted language model on edits that people wrote, and print its name."""
    run_fine_tuning(FineTuneKnobs(**knobs))


RECIPES: Final = Path(__file__).with_name("recipes")

COMMANDS: Final[command_line.Commands] = MappingProxyType(
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


def main(args: Sequence[str] | None = None, prog: str = "python -m data_gen") -> int:
    """Run a command line, of the program `prog`, and return its exit code."""
    try:
        line = with_recipe_paths(sys.argv[1:] if args is None else args, RECIPES, "data")
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return USAGE_ERROR
    with _terminated_politely():
        return command_line.run(
            COMMANDS,
            prog=prog,
            args=line,
            expected=(ValueError, OSError, ServerError, BudgetMet, Unfinished, WorkerError),
            less_memory="a smaller pairs.render.batch_rows, pairs.precision bfloat16 or fewer "
            "executor.workers",
        )


@contextmanager
def _terminated_politely() -> Iterator[None]:
    """Let SIGTERM unwind the stack, as Ctrl-C does, so that workers and servers end with us."""
    former = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


if __name__ == "__main__":
    sys.exit(main())

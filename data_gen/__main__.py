"""Make a data set from a recipe: ``python -m data_gen run --config data_gen/recipes/shapes.yaml``.

Each stage also runs alone, with the same recipe: ``captions``, ``instructions``, ``pairs``.
"""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from data_gen.server import ServerError
from data_gen.stages import Recipe, Unfinished, make_captions, make_instructions, make_pairs
from data_gen.workers import WorkerError
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


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    with _terminated_politely():
        return command_line.run(
            {"run": run, "captions": captions, "instructions": instructions, "pairs": pairs},
            prog="python -m data_gen",
            args=args,
            expected=(ValueError, OSError, ServerError, Unfinished, WorkerError),
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

"""Make a data set from a recipe: ``python -m data_gen run --config data_gen/recipes/shapes.yaml``.

Each stage also runs alone, with the same recipe: ``captions``, ``instructions``, ``pairs``.
"""

import errno
import sys
from typing import Any

from jsonargparse import auto_cli

from data_gen.server import ServerError
from data_gen.stages import (
    Recipe,
    Unfinished,
    make_captions,
    make_instructions,
    make_pairs,
)


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


def main(args: list[str] | None = None) -> int:
    """Run a command line and return the exit code: 0, 1 for an error, 2 for a wrong recipe."""
    commands: dict[str, Any] = {
        "run": run,
        "captions": captions,
        "instructions": instructions,
        "pairs": pairs,
    }
    try:
        auto_cli(commands, args=args, as_positional=False, prog="python -m data_gen")
    except OSError as error:
        full = error.errno == errno.ENOSPC
        remedy = "; free some space and run again: what is done is kept" if full else ""
        print(f"error: {error}{remedy}", file=sys.stderr)
        return 1
    except (ValueError, ServerError, Unfinished) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

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

from data_gen.commands import COMMANDS
from data_gen.recipe import RECIPES
from inference import command_line
from inference.recipe_names import with_recipe_paths
from inference.recipe_parser import USAGE_ERROR


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

"""Use a model: ``python -m inference edit --images photo.png --instruction "…"``."""

import sys
from collections.abc import Sequence

from inference.command_line import Commands, chosen, flattened, run, spelled_out
from inference.commands.caption import caption
from inference.commands.convert import convert
from inference.commands.edit import edit
from inference.commands.grid import grid, grid_of_scales
from inference.commands.invert import invert
from inference.commands.positionals import with_options
from inference.editors.config import EDITORS, InstructConfig, PromptToPromptConfig
from inference.inversion.config import INVERSIONS
from inference.recipe_parser import USAGE_ERROR


def main(arguments: Sequence[str] | None = None, prog: str = "python -m inference") -> int:
    """Run a command line, of the program `prog`; the exit code (see `run`)."""
    line = list(sys.argv[1:] if arguments is None else arguments)
    try:
        line = with_options(line)
        commands = commands_of(line)
        if line[:1] in (["edit"], ["grid"]):
            line = spelled_out(line, "inversion", INVERSIONS)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return USAGE_ERROR
    return run(
        commands,
        prog=prog,
        args=line,
        less_memory="fewer or smaller images, a smaller --batch_size, or --dtype bfloat16",
    )


def commands_of(line: Sequence[str]) -> Commands:
    """The commands, with the options of the editor or inversion that a command line names.

    Raises:
        ValueError: It names one that there is not.
    """
    editor = inversion = None
    if line[:1] == ["edit"]:
        editor = chosen(line, "editor", EDITORS)
    scales = line[:1] == ["grid"] and chosen(line, "editor", {"instruct": InstructConfig})
    if line[:1] == ["invert"]:
        inversion = chosen(line, "inversion", INVERSIONS)
    return {
        "edit": flattened(edit, EDITORS[editor or "instruct"]),
        "invert": flattened(invert, INVERSIONS[inversion or "null_text"]),
        "caption": caption,
        "convert": convert,
        "grid": (
            flattened(grid_of_scales, InstructConfig)
            if scales
            else flattened(grid, PromptToPromptConfig)
        ),
    }


if __name__ == "__main__":
    sys.exit(main())

"""The commands `python -m training fit --config training/recipes/shapes.yaml` and `... latents`.

One grammar: typed signatures, YAML recipes, dotted overrides, `--print_config`. A run writes into
the folder `output`: `checkpoints/` with `last.ckpt` and `best.ckpt` beside it (run the same command
again to go on), `logs/`, `tensorboard/`, `held-out/*.png`, and at the end the editor: `model/`, a
stock diffusers folder with a model card, `model.safetensors`, the same as one file for other
programs, and, where adapters were trained, `lora/`. A finished run is not run again, and `run.json`
keeps the folder from going on with another recipe, base or data set.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from inference.command_line import run
from inference.recipe_names import with_recipe_paths
from inference.recipe_parser import USAGE_ERROR
from training.commands import COMMANDS

RECIPES: Final = Path(__file__).with_name("recipes")
_LIGHTNINGS: Final = ("fit", "doctor")
"""The commands whose options are Lightning's too."""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m training") -> None:
    """Run a command line, of the program `prog`.

    Expected errors become one sentence and exit code 1.
    """
    try:
        line = with_recipe_paths(sys.argv[1:] if arguments is None else arguments, RECIPES, "train")
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(USAGE_ERROR) from error
    if _is_lightnings(line):
        from training.fit import fit  # Lightning takes seconds to import

        fit(line, prog)
        return
    less_memory = "a smaller batch_size, or fewer executor.workers"
    raise SystemExit(run(COMMANDS, prog=prog, args=line, less_memory=less_memory))


def _is_lightnings(line: Sequence[str]) -> bool:
    """Whether a line is for Lightning's parser: by its command, or by a recipe of the whole."""
    if not line:
        return False
    return line[0] in _LIGHTNINGS or line[0].startswith(("-c", "--config", "--print_config"))


if __name__ == "__main__":
    main()

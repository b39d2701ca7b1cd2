"""Recipes by name: `--config shapes-quickstart`, from whatever folder the command is called."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_OPTIONS: Final = ("--config", "-c")
_NAME: Final = re.compile(r"(?:(?P<group>data|train)/)?(?P<name>[A-Za-z0-9][\w-]*)")


def with_recipe_paths(line: Sequence[str], folder: Path, group: str) -> list[str]:
    """A command line whose `--config` options name files.

    Args:
        line: The command line without the program.
        folder: Where the recipes lie that have names.
        group: `data` or `train`, which may stand before a name.

    Raises:
        ValueError: There is no recipe of such a name.
    """
    return list(_with_recipe_paths(line, folder, group))


def _with_recipe_paths(line: Sequence[str], folder: Path, group: str) -> Iterator[str]:
    awaits_recipe = False
    for word in line:
        option, equals, value = word.partition("=")
        if awaits_recipe:
            yield recipe_path(word, folder, group)
        elif option in _OPTIONS and equals:
            yield f"{option}={recipe_path(value, folder, group)}"
        else:
            yield word
        awaits_recipe = word in _OPTIONS


def recipe_path(recipe: str, folder: Path, group: str) -> str:
    """The file that a recipe's name stands for; a path, or YAML itself, is left as it is.

    A file of that name here comes first.

    Raises:
        ValueError: There is no recipe of such a name.
    """
    match = _NAME.fullmatch(recipe)
    if match is None or Path(recipe).is_file():
        return recipe
    path = folder / f"{match['name']}.yaml"
    if match["group"] in (None, group) and path.is_file():
        return str(path)
    known = sorted(one.stem for one in folder.glob("*.yaml"))
    raise ValueError(
        f"config is {recipe!r}; expected a file, or one of the recipes {', '.join(known)}"
    )

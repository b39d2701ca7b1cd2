"""The recipes and models that ship, by name: `data/NAME`, `train/NAME`, `shapes/NAME`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from emend.packages import folder_of

GROUPS: Final[Mapping[str, str]] = MappingProxyType({"data": "data_gen", "train": "training"})
"""A group of commands and of recipes -> the package that runs them."""

MODELS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "shapes/stable-diffusion": "renders a caption of the shapes world",
        "shapes/instruct-pix2pix": "edits pictures of it by an instruction",
        "shapes/clip": "scores pairs of pictures and captions",
        "shapes/writer": "answers a caption with an instruction and an edited caption",
    }
)


class UsageError(ValueError):
    """A command line asks for what there is not."""


def recipes() -> dict[str, Path]:
    """The recipes, by group and name."""
    return {
        f"{group}/{path.stem}": path
        for group, package in GROUPS.items()
        for path in sorted((folder_of(package) / "recipes").glob("*.yaml"))
    }


def named(name: str) -> str:
    """The one recipe of a name, with or without its group.

    Raises:
        UsageError: There is none, or one in each group.
    """
    known = recipes()
    if name in known:
        return name
    found = [full for full in known if full.partition("/")[2] == name]
    if len(found) > 1:
        raise UsageError(f"the recipe {name!r} may be {' or '.join(found)}: say which")
    if not found:
        raise UsageError(
            f"there is no recipe {name!r}; expected one of {', '.join(known)}; of a file of your "
            "own: emend data doctor --config FILE, or emend train doctor --config FILE"
        )
    return found[0]


def listing() -> Iterator[str]:
    """Every recipe and model with one line about it."""
    lines = {name: headline(path) for name, path in recipes().items()}
    width = max(map(len, [*lines, *MODELS]))
    yield "Recipes (--config NAME in `emend data …` and `emend train …`):"
    yield from (f"  {name:{width}}  {line}" for name, line in lines.items())
    yield ""
    yield "Models that ship (wherever an option or a recipe names a model):"
    yield from (f"  {name:{width}}  {line}" for name, line in MODELS.items())


def headline(path: Path) -> str:
    """The first line of a recipe's header."""
    with path.open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()

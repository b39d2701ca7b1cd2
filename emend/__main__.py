"""One command for all: `emend edit`, `emend data run`, `emend train fit`.

It starts the three packages by name and imports none of them, so that imports still go one way,
and its own help needs no library at all.
"""

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from emend.packages import ForeignPackage, require_own, version
from emend.recipes import GROUPS, UsageError, listing, named

ERROR: Final = 1
USAGE_ERROR: Final = 2
INTERRUPTED: Final = 130

EDITING: Final[Mapping[str, str]] = MappingProxyType(
    {
        "edit": "edit pictures by an instruction, or by two prompts",
        "invert": "find out how a model draws given pictures, once for many edits",
        "grid": "see how an edit moves with attention windows, or with both guidance scales",
        "caption": "say what pictures show",
        "convert": "a single file to a diffusers folder, and back",
    }
)
DATA: Final[Mapping[str, str]] = MappingProxyType(
    {
        "run": "all stages: captions, instructions, pairs; each from where it was left",
        "captions": "only collect the captions",
        "instructions": "only have the edits written",
        "pairs": "only render and filter the pairs",
        "estimate": "what a run will need: requests, dollars, hours, disk",
        "verify": "check a data set: hashes, members, index, swapped pairs",
        "stats": "count and plot what survived each stage",
        "sheet": "a contact sheet to look at, in one HTML file",
        "import": "take over pairs that others made",
        "push": "publish a data set, with a card",
        "fine-tune": "teach a hosted language model from edits that people wrote",
        "doctor": "what a recipe still lacks on this machine",
    }
)
TRAINING: Final[Mapping[str, str]] = MappingProxyType(
    {
        "fit": "train an editor; again, to go on",
        "latents": "encode a data set once, for many trainings",
        "doctor": "what a recipe still lacks on this machine",
    }
)
_ABOUT: Final = "Make, train, run and measure instruction-based image editors."
_OWN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "recipes": "the recipes and models that ship, by name",
        "doctor": "what a recipe still lacks here: emend doctor data/NAME or train/NAME",
    }
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        arguments: The line without the program; None for the process's own.
    """
    line = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(line)
    except ForeignPackage as error:
        sys.stderr.write(f"error: {error}\n")
        return ERROR
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return USAGE_ERROR
    except BrokenPipeError:  # of `emend recipes | head`, say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED


def _run(line: Sequence[str]) -> int:
    """Run a command line.

    Raises:
        UsageError: There is no such command, or no such recipe.
        ForeignPackage: Another distribution's package stands in the place of one of Emend's.
    """
    command, rest = (line[0], line[1:]) if line else ("--help", [])
    if command in ("-h", "--help", "help"):
        print("\n".join(_help()))
        return 0 if line else USAGE_ERROR
    if command == "--version":
        print(f"emend {version()}")
        return 0
    if command == "recipes":
        _require_nothing(rest, "recipes")
        print("\n".join(listing()), flush=True)
        return 0
    if command == "doctor":
        return _doctor(rest)
    if command in GROUPS:
        return _start(GROUPS[command], rest, f"emend {command}")
    if command in EDITING:
        return _start("inference", line, "emend")
    known = ", ".join([*EDITING, *GROUPS, *_OWN])
    raise UsageError(f"there is no command {command!r}; expected one of {known}")


def _doctor(rest: Sequence[str]) -> int:
    """Ask the package of a recipe what it lacks."""
    if not rest or rest[0] in ("-h", "--help"):
        print("usage: emend doctor data/NAME | train/NAME [options of the recipe]")
        return 0 if rest else USAGE_ERROR
    group, _, name = named(rest[0]).partition("/")
    line = ["doctor", "--config", name, *rest[1:]]
    return _start(GROUPS[group], line, f"emend {group}")


def _start(package: str, line: Sequence[str], prog: str) -> int:
    """Run a package's command line and return its exit code."""
    require_own()
    package_main: Callable[..., int | None]
    package_main = importlib.import_module(f"{package}.__main__").main
    return package_main(list(line), prog=prog) or 0


def _require_nothing(rest: Sequence[str], command: str) -> None:
    if rest:
        raise UsageError(f"emend {command} takes no options, got {' '.join(rest)}")


def _help() -> list[str]:
    """What there is, a line each."""
    lines = [
        "usage: emend COMMAND [OPTIONS]",
        "",
        f"{_ABOUT} `emend COMMAND --help` tells of one.",
    ]
    for title, prefix, commands in (
        ("Edit pictures", "", EDITING),
        ("Make a data set", "data ", DATA),
        ("Train an editor", "train ", TRAINING),
        ("Find out", "", _OWN),
    ):
        lines += ["", f"{title}:"]
        lines += [f"  {prefix + name:18}  {about}" for name, about in commands.items()]
    return [*lines, "", "emend --version tells the version."]


if __name__ == "__main__":
    sys.exit(main())

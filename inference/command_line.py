"""How functions become the commands of a package: one grammar, and errors in one sentence.

A command is a function; jsonargparse turns its signature into options and reads YAML recipes.
"""

import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, get_origin

from jsonargparse import ArgumentParser, auto_cli

USAGE_ERROR = 2
ERROR = 1

Commands = Mapping[str, Callable[..., None]]


def run(
    commands: Commands,
    *,
    prog: str,
    args: Sequence[str] | None = None,
    expected: tuple[type[Exception], ...] = (ValueError, OSError),
) -> int:
    """Run the command that a command line names.

    Options are written as jsonargparse has them, and a list option may also be written as several
    values: `--images a.png b.png`.

    Args:
        commands: Functions by the name of their command.
        prog: What the user called, for the help.
        args: The command line without the program; None for that of the process.
        expected: Errors that are the user's to mend: told as one sentence, without a traceback.

    Returns:
        Exit code: 0, 1 after an expected error, 130 after Ctrl-C. A wrong option exits with 2.
    """
    line = list(sys.argv[1:] if args is None else args)
    try:
        auto_cli(
            dict(commands),
            args=_join_lists(commands, line),
            as_positional=False,
            parser_class=_Parser,
            prog=prog,
        )
    except expected as error:
        sys.stderr.write(f"error: {error}\n")
        return ERROR
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


class _Parser(ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        sys.stderr.write(f"error: {one_sentence(message)}\n")
        sys.exit(USAGE_ERROR)


def _join_lists(commands: Commands, line: list[str]) -> list[str]:
    """`--images a b` to `--images '["a", "b"]'` for the options of the named command."""
    if not line or line[0] not in commands:
        return line
    parameters = inspect.signature(commands[line[0]], eval_str=True).parameters.values()
    lists = [f"--{p.name}" for p in parameters if get_origin(p.annotation) is list]
    joined: list[str] = []
    rest = line.copy()
    while rest:
        option = rest.pop(0)
        joined.append(option)
        if option not in lists:
            continue
        values: list[str] = []
        while rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        is_literal = len(values) == 1 and values[0].startswith("[")
        if values:
            joined.append(values[0] if is_literal else json.dumps(values))
    return joined


def one_sentence(message: str) -> str:
    """One sentence for jsonargparse's messages, which run over several lines."""
    option = re.search(r'Parser key "(.+?)"', message)
    given = re.search(r"(?:Given|Got) value: (.*)", message)
    kinds = re.findall(r"Expected an? (?:<class '(.+?)'>|(?:typing\.)?(.+?)\. Got)", message)
    if option and given and kinds:
        names = ["null" if a == "NoneType" else a or b for a, b in kinds]
        return f"{option[1]} is {given[1]!r}; expected {' or '.join(names)}"
    lines = [line.strip(" -") for line in message.splitlines()]
    return " ".join(line for line in lines if line)

"""How functions become the commands of a package: one grammar, and errors in one sentence.

A command is a function; jsonargparse turns its signature into options and reads YAML recipes.
"""

import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_origin

import docstring_parser
import yaml
from jsonargparse import auto_cli

from inference.caches import unwritable_cache
from inference.errors import ExpectedError
from inference.interrupts import INTERRUPTED
from inference.memory import memory_shortage
from inference.outside import MAX_YAML_BYTES, parse_yaml, read_text
from inference.recipe_parser import USAGE_ERROR, RecipeParser, require_text

ERROR = 1

Commands = Mapping[str, Callable[..., None]]


def run(
    commands: Commands,
    *,
    prog: str,
    args: Sequence[str] | None = None,
    less_memory: str = "smaller batches",
) -> int:
    """Run the command that a command line names.

    Options are written as jsonargparse has them, and a list option may also be written as several
    values: `--images a.png b.png`.

    Args:
        commands: Functions by the name of their command.
        prog: What the user called, for the help.
        args: The command line without the program; None for that of the process.
        less_memory: What to try where there is too little memory.

    Returns:
        Exit code: 0, 1 after an expected error, 130 after Ctrl-C. A wrong option exits with 2.
    """
    line = list(sys.argv[1:] if args is None else args)
    try:
        for word in line:
            require_text(word)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(USAGE_ERROR)
    try:
        auto_cli(
            _wanted(commands, line),
            args=_join_lists(commands, line),
            as_positional=False,
            parser_class=RecipeParser,
            prog=prog,
        )
    except Exception as error:
        if (said := sentence(error, less_memory)) is None:
            raise
        sys.stderr.write(f"error: {said}\n")
        return ERROR
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    return 0


def _wanted(commands: Commands, line: Sequence[str]) -> dict[str, Any]:
    """The commands to build a parser of: the one that is named, without the options of the others.

    A line that names none asks for a list of them, or is told that there is no such command; a
    recipe of the whole package may name any.
    """
    if line and line[0] in commands:
        return {line[0]: commands[line[0]]}
    if any(word.startswith("--config") for word in line):
        return dict(commands)
    return {name: _listed(command) for name, command in commands.items()}


def _listed(command: Callable[..., None]) -> Callable[[], None]:
    """A command in a list of them: its first line, and no options."""

    def listed() -> None: ...

    listed.__doc__ = docstring_parser.parse(inspect.getdoc(command) or "").short_description
    return listed


def sentence(
    error: Exception, less_memory: str, more: tuple[type[Exception], ...] = ()
) -> str | None:
    """What to tell the user of an error; None of one that is ours to mend.

    Args:
        error: The error.
        less_memory: What to try where there is too little memory.
        more: Further errors whose own words are for the user.
    """
    if (shortage := memory_shortage(error)) is not None:
        return f"{shortage}: try {less_memory}"
    if (cache := unwritable_cache(error)) is not None:
        return cache
    return str(error) if isinstance(error, (ValueError, OSError, ExpectedError, *more)) else None


def flattened(
    command: Callable[..., None], kind: type, fixed: Sequence[str] = ()
) -> Callable[..., None]:
    """A command whose options are its own and, beside them, the fields of a dataclass.

    Args:
        command: Takes the values of those fields as a dictionary, `knobs`.
        kind: The dataclass; its docstring describes them.
        fixed: Fields that are not for the user to choose.
    """
    own = [p for p in _parameters(command) if p.name != "knobs"]
    knobs = [p for p in _parameters(kind) if p.name not in fixed]
    for name in {p.name for p in own} & {p.name for p in knobs}:
        raise TypeError(f"{command.__name__} and {kind.__name__} both have an option {name}")

    def run_it(**options: Any) -> None:
        command(
            **{p.name: options[p.name] for p in own},
            knobs={p.name: options[p.name] for p in knobs},
        )

    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in own + knobs]
    run_it.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    texts = [docstring_parser.parse(inspect.getdoc(one) or "") for one in (command, kind)]
    told = [p for docstring in reversed(texts) for p in docstring.params]  # its own words last
    said = {p.arg_name: " ".join((p.description or "").split()) for p in told}
    lines = [f"    {p.name}: {said[p.name]}" for p in parameters if p.name in said]
    about = f"{texts[0].short_description}\n\n{texts[0].long_description or ''}"
    run_it.__doc__ = "\n".join([about, "", "Args:", *lines])
    return run_it


def chosen(line: Sequence[str], option: str, names: Mapping[str, object]) -> str | None:
    """The name that a command line, or a recipe it names, gives for an option; None if none does.

    The last one counts, as jsonargparse has it.

    Raises:
        ValueError: It is not one of `names`.
    """
    name = None
    for place, word in enumerate(line):
        key, equals, value = word.partition("=")
        value = value if equals else "".join(line[place + 1 : place + 2])
        if key == f"--{option}" and value:
            name = value
        elif key == "--config":
            name = _named_in(value, option) or name
    if name is not None and name not in names:
        raise ValueError(f"{option} is {name!r}; expected one of {', '.join(names)}")
    return name


def _named_in(recipe: str, option: str) -> str | None:
    """The name that a YAML file gives for an option; what is wrong with it jsonargparse says."""
    try:
        content = parse_yaml(read_text(Path(recipe), max_bytes=MAX_YAML_BYTES), recipe)
    except (OSError, ValueError):
        return None
    name = content.get(option) if isinstance(content, dict) else None
    return name if isinstance(name, str) else None


def spelled_out(line: Sequence[str], option: str, classes: Mapping[str, type]) -> list[str]:
    """A command line with the short name of a class as jsonargparse wants it: where it lives.

    Raises:
        ValueError: The line gives a name that is not one of `classes`.
    """
    chosen(line, option, classes)
    paths = {name: f"{of.__module__}.{of.__qualname__}" for name, of in classes.items()}
    found: list[str] = []
    for word in line:
        key, _, name = word.partition("=")
        if found[-1:] == [f"--{option}"]:
            found.append(paths.get(word, word))
        elif key == f"--{option}" and name in paths:
            found.append(f"{key}={paths[name]}")
        else:
            found.append(word)
    return found


def _parameters(of: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a function or a dataclass, with their types and plain defaults."""
    factories = {f.name: f.default_factory for f in fields(of)} if is_dataclass(of) else {}
    found = []
    for parameter in inspect.signature(of, eval_str=True).parameters.values():
        factory = factories.get(parameter.name, MISSING)
        default = parameter.default if factory is MISSING else factory()
        found.append(parameter.replace(default=default))
    return found


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
            joined.append(values[0] if is_literal else _yaml_list(values))
    return joined


def _yaml_list(values: Sequence[str]) -> str:
    """Texts as a list in one line; JSON's escapes of emoji are none in YAML."""
    return str(yaml.safe_dump(values, default_flow_style=True, default_style='"', width=math.inf))

"""jsonargparse's parser, guarded: what it is given is read through one door and told in sentences.

A recipe, or a section of one, is a regular file of YAML in which every key is known and stands
once; jsonargparse itself overlooks an empty section that it does not know, waits for pipes, and
writes out aliases without end.
"""

import re
import sys
import types
from argparse import SUPPRESS
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final, NoReturn, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from inference.number_types import description, is_number, limits_of
from inference.option_hints import command_with, meant
from inference.outside import MAX_YAML_BYTES, parse_yaml, read_text

USAGE_ERROR = 2
COMMAND_LINE: Final = "the command line"

_MISSING: Final = re.compile(
    r"Option '(?:\w+\.)?(?P<long>[\w.]+)' is required but not provided"
    r"|Parser key \"(?P<short>[\w.]+)\":\s+Not of type .* not NoneType"
)
_REFUSED: Final = re.compile(r"Problem with given class_path '(?P<name>.+?)':\s+(?P<why>.+)")
_EXPECTED: Final = re.compile(
    r"Value error, expected (?P<number>.+?) \[type="
    r"|Expected an? (?:<class '(?P<type>.+?)'>|(?:typing\.)?(?P<other>.+?)\. Got)"
)


class NumberHelp(DefaultHelpFormatter):
    """Says what a number may be, in the place of its annotation."""

    def _get_help_string(self, action: Any) -> str:
        text, hint = super()._get_help_string(action), getattr(action, "_typehint", None)
        return text.replace("%(type)s", description(hint)) if is_number(hint) else text


class RecipeParser(ArgumentParser):
    """Options and recipes of a command; whatever is wrong with them exits with 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": NumberHelp, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one sentence and exit."""
        said = _unknown_options(self, message) or one_sentence(message)
        sys.stderr.write(f"error: {said}\n")
        sys.exit(USAGE_ERROR)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *more: Any, **kwargs: Any
    ) -> Namespace:
        """Parse a command line, whose sections may be files too."""
        line = list(sys.argv[1:] if args is None else args)
        try:
            line = list(_guarded(self, line))
        except (ValueError, OSError) as error:
            self.error(str(error), error)
        return super().parse_args(line, *more, **kwargs)

    def parse_path(self, cfg_path: str | PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        """Parse a recipe."""
        try:
            text = read_text(Path(cfg_path), max_bytes=MAX_YAML_BYTES)
        except (ValueError, OSError) as error:
            self.error(str(error), error)
        return self.parse_string(text, cfg_path, *args, **kwargs)

    def parse_string(
        self, cfg_str: str, cfg_path: str | PathLike[str] = "", *args: Any, **kwargs: Any
    ) -> Namespace:
        """Parse the text of a recipe."""
        name = str(cfg_path) or "the recipe"
        try:
            content = parse_yaml(cfg_str, name)
            if isinstance(content, Mapping):  # what it is otherwise jsonargparse refuses
                _require_known(self, content, name)
        except ValueError as error:
            self.error(str(error), error)
        return super().parse_string(cfg_str, cfg_path, *args, **kwargs)


def one_sentence(message: str) -> str:
    """One sentence for jsonargparse's messages, which run over several lines."""
    if missing := _MISSING.search(message):
        return f"--{missing['long'] or missing['short']} is missing; --help says what it is"
    if refused := _REFUSED.search(message):
        return f"{refused['name']}: {refused['why']}"
    option = re.search(r'Parser key "(.+?)"', message)
    given = re.search(r"(?:Given|Got) value: (.*)", message)
    kinds = [
        match["number"] or match["type"] or match["other"] for match in _EXPECTED.finditer(message)
    ]
    if option and given and kinds:
        names = ["null" if kind == "NoneType" else kind for kind in kinds]
        return f"{option[1]} is {given[1]!r}; expected {' or '.join(dict.fromkeys(names))}"
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    return " ".join(line for line in lines if line)


def require_text(word: str) -> None:
    """Require a word of a command line that is text.

    Raises:
        ValueError: It is not UTF-8, which Python then hands over as surrogates.
    """
    if any("\ud800" <= character <= "\udfff" for character in word):
        raise ValueError(f"the argument {word!r} is not UTF-8 text")


def _unknown_options(parser: ArgumentParser, message: str) -> str | None:
    """A sentence for the options of a line that there are not, with what they may have meant."""
    words = message.removeprefix("Unrecognized arguments: ").split()
    unknown = [word.partition("=")[0] for word in words if word.startswith("--")]
    if len(words) == len(message.split()) or not unknown:
        return None
    called = (word for word in getattr(parser, "args", []) if word in _subcommands(parser))
    within = _subcommands(parser).get(next(called, ""), parser)
    known = [name for name in _hints(within) if name not in _sections(within)]
    sentences = []
    for option in dict.fromkeys(unknown):
        near = meant(option.lstrip("-"), known)
        hint = f"did you mean --{near}?" if near else "--help shows all options"
        sentences.append(f"there is no option {option}; {hint}")
    return "; ".join(sentences)


def _guarded(parser: ArgumentParser, line: Sequence[str]) -> Iterator[str]:
    """The words of a line, files of sections replaced by what they hold.

    Raises:
        ValueError: A word is no text, a value is a pipe, or something is wrong with a section.
    """
    option = subcommand = ""
    for word in line:
        require_text(word)
        key, equals, value = word.partition("=")
        if subcommand or not key.startswith("--"):
            subcommand = subcommand or (word if word in _subcommands(parser) else "")
            own = option and not subcommand  # a subcommand's parser looks at the rest
            yield _guarded_value(parser, option, word) if own else word
        else:
            option = key.removeprefix("--")
            yield f"{key}={_guarded_value(parser, option, value)}" if equals else key


def _guarded_value(parser: ArgumentParser, option: str, value: str) -> str:
    path = Path(value)
    if _is(path.is_fifo):
        raise ValueError(f"{option}: {value} is not a regular file")
    hint = _hint_of(parser, option)
    if _is_only_numbers(hint):
        _require_right_fields(hint, parse_yaml(value, option), COMMAND_LINE, option)
    if option not in _sections(parser) and not _is_structured(hint):
        return value
    if is_file := _is(path.is_file):
        value = read_text(path, max_bytes=MAX_YAML_BYTES)
    content = parse_yaml(value, str(path) if is_file else option)
    for part in reversed(option.split(".")):
        content = {part: content}
    _require_known(parser, content, str(path) if is_file else COMMAND_LINE)
    return value


def _require_known(
    parser: ArgumentParser, content: Mapping[Any, Any], recipe: str, section: str = ""
) -> None:
    """Require keys that a parser knows, in sections that are mappings.

    Raises:
        ValueError: A key is not known, or a section is something else.
    """
    hints, sections, subcommands = _hints(parser), _sections(parser), _subcommands(parser)
    for key, value in content.items():
        name = f"{section}{key}"
        if name in sections:
            if isinstance(value, Mapping):
                _require_known(parser, value, recipe, f"{name}.")
            elif value is not None:
                raise ValueError(f"{recipe}: {name} is {value!r}; expected a mapping")
        elif name in hints:
            _require_right_fields(hints[name], value, recipe, name)
        elif name in subcommands and isinstance(value, Mapping):
            _require_known(subcommands[name], value, recipe)
        elif name not in subcommands:
            known = sorted(
                {
                    other.removeprefix(section).partition(".")[0]
                    for other in hints
                    if other.startswith(section)
                }
            )
            raise _unknown(recipe, name, known)


def _require_right_fields(hint: Any, value: Any, recipe: str, name: str) -> None:
    """The same for what an annotation says, and numbers within their limits, named in full.

    Looks into dataclasses, lists and mappings. What is neither jsonargparse checks.
    """
    origin, args = get_origin(hint), get_args(hint)
    if limits_of(hint) is not None:
        _require_number([hint], value, recipe, name)
    elif origin in (Union, types.UnionType):
        others = [arm for arm in args if limits_of(arm) is None]
        if all(arm is types.NoneType for arm in others):
            _require_number(args, value, recipe, name)
        for arm in others:
            _require_right_fields(arm, value, recipe, name)
    elif is_dataclass(hint) and isinstance(value, Mapping) and "class_path" not in value:
        fields = get_type_hints(hint, include_extras=True)
        for key, item in value.items():
            if key not in fields:
                raise _unknown(recipe, f"{name}.{key}", sorted(fields))
            _require_right_fields(fields[key], item, recipe, f"{name}.{key}")
    elif isinstance(value, list) and args:
        each = args if origin is tuple and args[-1] is not ... else args[:1] * len(value)
        for place, (item, part) in enumerate(zip(value, each, strict=False)):
            _require_right_fields(part, item, recipe, f"{name}[{place}]")
    elif isinstance(value, Mapping) and len(args) == 2:
        for key, item in value.items():
            _require_right_fields(args[1], item, recipe, f"{name}.{key}")


def _require_number(hints: Sequence[Any], value: Any, recipe: str, name: str) -> None:
    """Require a number that one of the annotations admits; or null, where one is that.

    Raises:
        ValueError: It is none of them.
    """
    limits = [found for hint in hints if (found := limits_of(hint)) is not None]
    if value is None and len(limits) < len(hints):
        return
    for one in limits:
        with suppress(ValueError):
            one.read(value)
            return
    expected = list(map(str, limits)) + ["null"] * (len(limits) < len(hints))
    option = f"--{name}" if recipe == COMMAND_LINE else f"{recipe}: {name}"
    raise ValueError(f"{option} is {value!r}; expected {' or '.join(expected)}")


def _unknown(recipe: str, name: str, known: Sequence[str]) -> ValueError:
    said = f"{recipe}: there is no {name}; expected one of {', '.join(known)}"
    return ValueError(said + (f" ({of} has it)" if (of := command_with(name)) else ""))


def _hints(parser: ArgumentParser) -> dict[str, Any]:
    """Option -> annotation, of the options that a recipe may give."""
    return {
        action.dest: getattr(action, "_typehint", None)
        for action in parser._actions
        if action.default != SUPPRESS
    }


def _hint_of(parser: ArgumentParser, option: str) -> Any:
    """The annotation of an option, also of a field of one that is a dataclass; None if unknown."""
    hints, path = _hints(parser), option.split(".")
    for count in range(len(path), 0, -1):
        if (hint := hints.get(".".join(path[:count]))) is not None:
            for name in path[count:]:
                arms = [arm for arm in (hint, *get_args(hint)) if is_dataclass(arm)]
                hint = get_type_hints(arms[0], include_extras=True).get(name) if arms else None
            return hint
    return None


def _sections(parser: ArgumentParser) -> set[str]:
    """Names that only group options: `pairs` and `pairs.render` of `pairs.render.steps`."""
    parts = [option.split(".") for option in _hints(parser)]
    return {".".join(each[:count]) for each in parts for count in range(1, len(each))}


def _subcommands(parser: ArgumentParser) -> Mapping[str, ArgumentParser]:
    for action in parser._actions:
        if isinstance(action.choices, Mapping):
            return action.choices
    return {}


def _is_structured(hint: Any) -> bool:
    """Whether values of an annotation are written as mappings, or as lists of them."""
    is_mapping = isinstance(origin := get_origin(hint), type) and issubclass(origin, Mapping)
    is_config = isinstance(hint, type) and is_dataclass(hint)
    return is_config or is_mapping or any(map(_is_structured, get_args(hint)))


def _is_only_numbers(hint: Any) -> bool:
    """Whether an annotation is a number with limits, or a list of them, or null."""
    if limits_of(hint) is not None:
        return True
    rest = [arm for arm in get_args(hint) if arm not in (types.NoneType, ...)]
    return get_origin(hint) in (Union, types.UnionType, list) and all(map(_is_only_numbers, rest))


def _is(question: Callable[[], bool]) -> bool:
    """The answer to a question about a path; no to what cannot be one."""
    try:
        return question()
    except (OSError, ValueError):
        return False

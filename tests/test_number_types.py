"""No number of a command, a recipe or a module may do without limits, so that none can be wrong."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from data_gen import __main__ as data_gen
from data_gen.instructions.knobs import FineTuneKnobs
from data_gen.recipe import Recipe
from inference import __main__ as inference
from inference.commands.caption import caption
from inference.commands.convert import convert
from inference.commands.edit import edit
from inference.commands.grid import grid, grid_of_scales
from inference.commands.invert import invert
from inference.editors.config import EDITORS
from inference.inversion.config import INVERSIONS
from inference.number_types import is_number, limits_of
from inference.settings import Settings
from training.commands import latents
from training.data.data_module import PairData
from training.module import EditorTraining
from training.running.checkpoints import Checkpoints
from training.running.held_out import HeldOutEdits
from training.running.progress import Progress

ROOTS: list[Callable[..., Any]] = [
    *data_gen.COMMANDS.values(),
    Recipe,
    FineTuneKnobs,
    caption,
    convert,
    edit,
    grid,
    grid_of_scales,
    invert,
    *EDITORS.values(),
    *INVERSIONS.values(),
    Settings,
    latents,
    EditorTraining,
    PairData,
    HeldOutEdits,
    Progress,
    Checkpoints,
]


def parts(hint: Any) -> Iterator[Any]:
    """An annotation and what stands inside it, but for what has limits."""
    yield hint
    if limits_of(hint) is None and get_origin(hint) is not Literal:
        for part in get_args(hint):
            yield from parts(part)


def hints(of: Callable[..., Any]) -> Mapping[str, Any]:
    call = of.__init__ if inspect.isclass(of) else of  # type: ignore[misc]
    found = get_type_hints(call, include_extras=True)
    return {name: found[name] for name in inspect.signature(of).parameters if name in found}


def reached(roots: list[Callable[..., Any]]) -> Iterator[Callable[..., Any]]:
    """Commands and modules, and all dataclasses that their options are made of."""
    todo, known = list(roots), set[Any]()
    while todo:
        one = todo.pop()
        if one in known:
            continue
        known.add(one)
        yield one
        todo += [p for hint in hints(one).values() for p in parts(hint) if is_dataclass(p)]


ALL = [*reached(ROOTS)]


def plain_numbers(of: Callable[..., Any]) -> list[str]:
    return [
        name
        for name, hint in hints(of).items()
        if any(part in (int, float) for part in parts(hint))
    ]


def is_checked(of: Callable[..., Any]) -> bool:
    call = of.__init__ if inspect.isclass(of) else of  # type: ignore[misc]
    return hasattr(call, "__wrapped__")


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.__qualname__)
def test_every_number_has_limits_and_is_held_to_them(one: Callable[..., Any]) -> None:
    assert plain_numbers(one) == []
    if any(map(is_number, hints(one).values())):
        assert is_checked(one), "decorate it with checks_numbers"


def test_the_walk_goes_through_all_that_a_recipe_holds() -> None:
    names = {one.__qualname__ for one in ALL}
    assert {
        "RenderKnobs",
        "FilterKnobs",
        "PairSet",
        "Objective",
        "ExecutorKnobs",
        "Settings",
    } <= names


def test_a_plain_number_would_be_seen() -> None:
    def forgetful(a: int, b: Mapping[str, tuple[float, ...]] | None, c: list[str]) -> None: ...

    assert plain_numbers(forgetful) == ["a", "b"]


def test_commands_are_all_walked() -> None:
    commands = {*inference.commands_of([])}
    assert commands == {"edit", "invert", "caption", "convert", "grid"}

"""Numbers are held to what their annotations say, in Python and on command lines."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from inference.command_line import run
from inference.number_types import (
    Count,
    Finite,
    Fraction,
    FractionRange,
    OpenFraction,
    PositiveCount,
    checks_numbers,
    description,
)

NAN = float("nan")


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class Oven:
    """An oven."""

    trays: PositiveCount = 3
    heat: Fraction | None = None
    spread: FractionRange = (0.1, 0.9)
    buns: Mapping[str, Count] = field(default_factory=dict)
    spreads: Mapping[str, FractionRange] = field(default_factory=dict)
    offset: tuple[Finite, Finite] = (0.0, 0.0)
    fan: OpenFraction | str = "off"


seen: list[object] = []


@checks_numbers
def bake(oven: Oven | None = None, loaves: PositiveCount = 1, times: list[Finite] = []) -> None:  # noqa: B006
    """Bake."""
    seen.append((oven, loaves, times))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"trays": 0}, "trays is 0; expected a whole number from 1 to 1,000,000,000,000"),
    ({"trays": 10**30}, "trays is 1000000000000000000000000000000; expected a whole number"),
    ({"trays": True}, "trays is True; expected a whole number"),
    ({"heat": NAN}, "heat is nan; expected a number from 0 to 1 or null"),
    ({"heat": 1e400}, "heat is inf; expected a number from 0 to 1 or null"),
    ({"spread": [3, 5]}, "expected two numbers, the lower one first, each a number from 0 to 1"),
    ({"spread": [0.9, 0.1]}, "expected two numbers, the lower one first"),
    ({"spread": [0.9]}, "expected two numbers, the lower one first"),
    ({"buns": {"raisin": -1}}, "is -1; expected a whole number from 0 to"),
    ({"spreads": {"jam": [0, 2]}}, "expected two numbers, the lower one first"),
    ({"offset": (0, NAN)}, "is nan; expected a finite number"),
    ({"fan": 1.0}, "expected a number above 0 below 1 or str"),
]


@pytest.mark.parametrize(("options", "sentence"), WRONG)
def test_a_wrong_number_is_refused_in_python(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=r"^Oven\.") as raised:
        Oven(**options)
    assert sentence in str(raised.value)


def test_inside_a_mapping_or_a_tuple_the_place_is_named() -> None:
    with pytest.raises(ValueError, match=r"Oven\.buns\.raisin is -1"):
        Oven(buns={"plain": 2, "raisin": -1})
    with pytest.raises(ValueError, match=r"Oven\.offset\[1\] is nan"):
        Oven(offset=(0.0, NAN))


def test_text_is_no_number_in_python() -> None:
    with pytest.raises(ValueError, match="loaves is '3'"):
        bake(loaves="3")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword argument 'tray'"):
        Oven(tray=1)  # type: ignore[call-arg]


def test_right_numbers_stay_as_they_are() -> None:
    given = {"trays": 1, "heat": 0, "spread": (0.5, 0.5), "fan": 0.5, "buns": {"a": 0}}
    assert asdict(Oven(**given)) | given == asdict(Oven(**given))


@pytest.mark.parametrize(("options", "sentence"), WRONG[:-2])
def test_a_recipe_is_refused_naming_the_option(
    options: dict[str, Any], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    told = str({"oven": options}).replace("nan", ".nan").replace("inf", ".inf").lower()
    recipe.write_text(told.replace("'", '"'))
    with pytest.raises(SystemExit) as ended:
        run({"bake": bake}, prog="x", args=["bake", "--config", str(recipe)])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert f"{recipe}: oven.{next(iter(options))}" in error
    assert sentence.partition("expected")[2] in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--loaves", "-1"], "loaves is -1; expected a whole number from 1 to"),
        (["--loaves", "two"], "loaves is 'two'; expected a whole number from 1 to"),
        (["--times", "[1, .nan]"], "expected a finite number"),
    ],
)
def test_a_command_line_is_refused(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run({"bake": bake}, prog="x", args=["bake", *words])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_options_become_plain_numbers() -> None:
    seen.clear()
    assert (
        run({"bake": bake}, prog="x", args=["bake", "--loaves", "2", "--times", "[1, 1e-3]"]) == 0
    )
    assert seen == [(None, 2, [1.0, 0.001])]
    assert [type(each) for each in seen[0][2]] == [float, float]  # type: ignore[index]


def test_help_says_it_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run({"bake": bake}, prog="x", args=["bake", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "(type: whole number from 1 to 1,000,000,000,000, default: 1)" in shown
    assert description(Mapping[str, Fraction] | None) == "Mapping[str, number from 0 to 1] or null"

"""Options as lists, and every complaint in one sentence."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from inference.command_line import chosen, flattened, run, spelled_out

seen: list[tuple[object, ...]] = []


def paint(
    images: list[str],
    colour: Literal["red", "tan"] = "red",
    scale: float | None = None,
    steps: int = 3,
) -> None:
    """Paint images."""
    if steps == 0:
        raise ValueError("steps is 0; expected at least 1")
    seen.append((images, colour, scale, steps))


def call(*args: str) -> int:
    seen.clear()
    return run({"paint": paint}, prog="python -m paint", args=args)


def test_a_list_may_be_several_values() -> None:
    assert call("paint", "--images", "a.png", "b c.png", "--scale", "2") == 0
    assert seen == [(["a.png", "b c.png"], "red", 2.0, 3)]
    assert call("paint", "--scale", "2", "--images", "a.png") == 0
    assert seen == [(["a.png"], "red", 2.0, 3)]
    assert call("paint", "--images", '["a.png", "b.png"]', "--steps=4") == 0
    assert seen == [(["a.png", "b.png"], "red", None, 4)]


def test_any_character_stays_in_a_list() -> None:
    names = ["happy😀.png", "a\u2028b.png", "x\x07.png", 'it"s.png', "1e3", "a, b]"]
    assert call("paint", "--images", *names) == 0
    assert seen == [(names, "red", None, 3)]


def test_a_recipe_is_read_and_overridden(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("images: [a.png]\ncolour: tan\n")
    assert call("paint", "--config", str(recipe), "--steps", "5") == 0
    assert seen == [(["a.png"], "tan", None, 5)]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--images", "a", "--scale", "high"], "scale is 'high'; expected null or float"),
        (["--images", "a", "--steps", "2.5"], "steps is '2.5'; expected int"),
        (
            ["--images", "a", "--colour", "pink"],
            "colour is 'pink'; expected Literal['red', 'tan']",
        ),
        (["--images", "a", "--color", "red"], "there is no option --color; did you mean --colour?"),
        (["--images"], "argument --images/--images+: expected one argument"),
        ([], "--images is missing; --help says what it is"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    args: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        call("paint", *args)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"
    assert seen == []


def test_an_unknown_key_of_a_recipe_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("images: [a.png]\ncolor: blue\n")
    with pytest.raises(SystemExit) as ended:
        call("paint", "--config", str(recipe))
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "color" in error
    assert error.count("\n") == 1


def test_expected_errors_are_told_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("paint", "--images", "a", "--steps", "0") == 1
    assert capsys.readouterr().err == "error: steps is 0; expected at least 1\n"


@dataclass(frozen=True, kw_only=True)
class Brush:
    """A brush.

    Attributes:
        width: Of its stroke, in pixels.
        colours: Name -> share of the paint.
        wet: Whether it is.
    """

    width: int = 2
    colours: Mapping[str, float] = field(default_factory=dict)
    wet: bool = False


def stroke(knobs: Mapping[str, object], length: int = 5) -> None:
    """Make a stroke.

    Args:
        knobs: Those of the brush.
        length: In pixels.
    """
    seen.append((length, knobs))


def call_stroke(*args: str) -> int:
    seen.clear()
    commands = {"stroke": flattened(stroke, Brush, fixed=("wet",))}
    return run(commands, prog="python -m paint", args=["stroke", *args])


def test_the_fields_of_a_dataclass_are_options_beside_a_command_s_own() -> None:
    assert call_stroke("--width", "4", "--colours.red", "0.5", "--length=9") == 0
    assert seen == [(9, {"width": 4, "colours": {"red": 0.5}})]
    assert call_stroke() == 0
    assert seen == [(5, {"width": 2, "colours": {}})]


def test_the_help_of_both_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call_stroke("--help")
    shown = " ".join(capsys.readouterr().out.split())
    for text in (
        "Make a stroke.",
        "In pixels. (type: int, default: 5)",
        "Of its stroke, in pixels.",
    ):
        assert text in shown
    assert "--wet" not in shown


def test_an_option_in_place_of_a_fixed_field_has_its_own_help() -> None:
    def dab(knobs: Mapping[str, object], wet: str = "no") -> None:
        """Dab.

        Args:
            knobs: Those of the brush.
            wet: How wet it is, in words.
        """

    shown = flattened(dab, Brush, fixed=("wet",)).__doc__ or ""
    assert "wet: How wet it is, in words." in shown
    assert "Whether it is." not in shown


def test_an_option_is_not_had_twice() -> None:
    def both(knobs: Mapping[str, object], width: int = 1) -> None:
        """Both."""

    with pytest.raises(TypeError, match="both and Brush both have an option width"):
        flattened(both, Brush)


@pytest.mark.parametrize("line", [["--brush", "flat"], ["--brush=flat"]])
def test_a_short_name_is_spelled_out(line: list[str]) -> None:
    whole = ["paint", *line, "--tip", "flat"]
    assert chosen(whole, "brush", {"flat": Brush}) == "flat"
    found = spelled_out(whole, "brush", {"flat": Brush})
    path = f"{Brush.__module__}.Brush"
    assert found in (
        ["paint", "--brush", path, "--tip", "flat"],
        ["paint", f"--brush={path}", "--tip", "flat"],
    )
    assert spelled_out(["paint"], "brush", {"flat": Brush}) == ["paint"]
    assert spelled_out([*whole, *line], "brush", {"flat": Brush}) == [*found, *found[1:-2]]
    with pytest.raises(ValueError, match="brush is 'flat'; expected one of round"):
        chosen(whole, "brush", {"round": Brush})


def test_a_name_may_stand_in_a_recipe_and_the_last_one_counts(tmp_path: Path) -> None:
    recipe, names = tmp_path / "recipe.yaml", {"flat": Brush, "round": Brush}
    recipe.write_text("brush: flat\n")
    by_recipe = ["--config", str(recipe)]
    assert chosen(["paint", *by_recipe], "brush", names) == "flat"
    assert chosen(["paint", f"--config={recipe}"], "brush", names) == "flat"
    assert chosen(["paint", *by_recipe, "--brush", "round"], "brush", names) == "round"
    assert chosen(["paint", "--brush", "round", *by_recipe], "brush", names) == "flat"
    for text in ("brush: {class_path: Brush}", "- brush", "brush: [", ""):
        recipe.write_text(text)
        assert chosen(["paint", "--brush=round", *by_recipe], "brush", names) == "round"
    assert chosen(["paint", "--config", str(tmp_path / "none.yaml")], "brush", names) is None

"""What a parser is given comes through one door, and unknown keys are told, empty or not."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from inference.command_line import run
from inference.outside import MAX_YAML_BYTES


@dataclass(frozen=True, kw_only=True)
class Glaze:
    """A glaze."""

    colour: str = "white"


@dataclass(frozen=True, kw_only=True)
class Pot:
    """A pot."""

    height: int = 3
    glaze: Glaze = field(default_factory=Glaze)
    second: Glaze | None = None
    more: list[Glaze] = field(default_factory=list)
    shares: Mapping[str, float] = field(default_factory=dict)


seen: list[Pot] = []


def throw(pot: Pot = Pot()) -> None:
    """Throw a pot."""
    seen.append(pot)


def call(*args: str) -> int:
    seen.clear()
    return run({"throw": throw}, prog="python -m throw", args=["throw", *args])


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as ended:
        call(*args)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 9)
)

WRONG = [
    ("pto: {}", "there is no pto; expected one of "),
    ("pot: {glasse: {}}", "there is no pot.glasse; expected one of glaze, height, more, "),
    ("pot: {glaze: {color: }}", "there is no pot.glaze.color; expected one of colour"),
    ("pot: {second: {color: {}}}", "there is no pot.second.color; expected one of colour"),
    ("pot: {more: [{color: {}}]}", "there is no pot.more[0].color; expected one of colour"),
    ("pot: {glaze: other.yaml}", "pot.glaze is 'other.yaml'; expected a mapping"),
    ("pot:\n  height: 1\n  glaze: {}\n  height: 2", "line 4: the key 'height' stands already in"),
    ("pot: {shares: {a: 1, a: 2}}", "line 1: the key 'a' stands already in line 1"),
    ("pot: &pot {glaze: *pot}", "line 1: a value refers to itself"),
    (f"pot: {{}}\n{BOMB}", "holds more than 100,000 values"),
    ("pot: " + "[" * 5000, "is nested too deep"),
    ("pot: {", "is not YAML: "),
    ("pot: \x07", "is not YAML: "),
    ("pot: " + " " * MAX_YAML_BYTES, "bytes; expected at most"),
]


@pytest.mark.parametrize(("text", "sentence"), WRONG)
def test_a_wrong_recipe_is_told_with_its_name(
    text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    error = refused(capsys, "--config", str(recipe))
    assert str(recipe) in error
    assert sentence in error


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--config", "{pot: {glasse: {}}}"], "there is no pot.glasse"),
        (["--pot", "{glasse: {}}"], "there is no pot.glasse"),
        (["--pot={height: 1, height: 2}"], "pot, line 1: the key 'height' stands already"),
        (["--pot.more", "[{}, {color: {}}]"], "there is no pot.more[1].color"),
        (["--pot.shares", "{a: 1, a: 2}"], "pot.shares, line 1: the key 'a' stands already"),
        (["--pot.glaze.colour", "caf\udce9"], r"the argument 'caf\udce9' is not UTF-8 text"),
    ],
)
def test_so_is_a_command_line(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence in refused(capsys, *words)


@pytest.mark.parametrize("option", ["--config", "--pot", "--pot.glaze", "--pot.more"])
def test_a_pipe_is_not_waited_for(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert f"{pipe} is not a regular file" in refused(capsys, option, str(pipe))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_recipes_and_sections_are_read_in_any_unicode(encoding: str, tmp_path: Path) -> None:
    recipe, section = tmp_path / "recipe.yaml", tmp_path / "section.yaml"
    recipe.write_text("pot: {height: 5, second: {colour: 黒}, shares: {a: 1e-2}}", encoding)
    section.write_text("{colour: rosé}", encoding)
    assert call("--config", str(recipe), "--pot.glaze", str(section)) == 0
    assert seen == [
        Pot(height=5, glaze=Glaze(colour="rosé"), second=Glaze(colour="黒"), shares={"a": 0.01})
    ]


def test_aliases_and_merged_keys_stay(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("pot:\n  glaze: &one {colour: red}\n  second: {<<: *one, colour: blue}\n")
    assert call("--config", str(recipe)) == 0
    assert seen == [Pot(glaze=Glaze(colour="red"), second=Glaze(colour="blue"))]

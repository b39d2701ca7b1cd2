"""Recipes by name, in a command line."""

from pathlib import Path

import pytest

from inference.recipe_names import with_recipe_paths


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two recipes."""
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    for name in ("small", "sd15-1gpu"):
        (recipes / f"{name}.yaml").write_text("output: out\n")
    return recipes


@pytest.mark.parametrize("name", ["sd15-1gpu", "train/sd15-1gpu"])
@pytest.mark.parametrize("form", [["--config", "{}"], ["--config={}"], ["-c", "{}"]])
def test_a_name_becomes_the_path_of_its_recipe(folder: Path, name: str, form: list[str]) -> None:
    line = ["fit", *(word.format(name) for word in form), "--output", "small"]
    expected = ["fit", *(word.format(folder / "sd15-1gpu.yaml") for word in form), *line[-2:]]
    assert with_recipe_paths(line, folder, "train") == expected


@pytest.mark.parametrize(
    "recipe", ["own/small.yaml", "small.yaml", "nowhere/at.yml", "{output: out}", "output: out\n"]
)
def test_paths_and_yaml_are_left_as_they_are(folder: Path, recipe: str) -> None:
    assert with_recipe_paths(["--config", recipe], folder, "data") == ["--config", recipe]


def test_a_file_of_that_name_comes_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small").write_text("output: mine\n")
    assert with_recipe_paths(["--config=small"], folder, "data") == ["--config=small"]
    Path("small").unlink()
    Path("small").mkdir()  # a run's output, say: no recipe
    found = with_recipe_paths(["--config=small"], folder, "data")
    assert found == [f"--config={folder / 'small.yaml'}"]


@pytest.mark.parametrize("name", ["smal", "train/small", "data/none"])
def test_an_unknown_name_is_told_what_there_is(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="a file, or one of the recipes sd15-1gpu, small$"):
        with_recipe_paths(["--config", name], folder, "data")

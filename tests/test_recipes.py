"""The recipes as a chain: what trains is what was made."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from emend.recipes import recipes
from inference.model_names import repository_of

RECIPES = recipes()


def read(name: str) -> dict[str, Any]:
    """A recipe as it stands."""
    found: dict[str, Any] = yaml.safe_load(RECIPES[name].read_text(encoding="utf-8"))
    return found


DATA = {read(name)["output"]: name for name in RECIPES if name.startswith("data/")}
TRAINING = [name for name in RECIPES if name.startswith("train/")]


def test_there_are_recipes() -> None:
    assert len(DATA) == sum(name.startswith("data/") for name in RECIPES) >= 6
    assert len(TRAINING) >= 9


@pytest.mark.parametrize("name", TRAINING)
def test_a_training_recipe_reads_what_a_data_recipe_writes(name: str) -> None:
    data = read(name)["data"]
    if "sets" in data:  # other people's, by their names on the hub
        assert all(repository_of(one["path"], "pipeline") for one in data["sets"])
    else:
        assert data["shards"] in DATA, f"{name} reads {data['shards']}, which no recipe writes"


@pytest.mark.parametrize("name", TRAINING)
def test_an_editor_and_its_data_lie_apart(name: str) -> None:
    output = Path(read(name)["output"])
    assert all(output not in [one, *one.parents] for one in map(Path, DATA))
    assert all(one not in [output, *output.parents] for one in map(Path, DATA))


@pytest.mark.parametrize("name", RECIPES)
def test_a_header_names_the_command_of_its_own_recipe(name: str) -> None:
    group, _, short = name.partition("/")
    text = RECIPES[name].read_text(encoding="utf-8")
    commands = (
        f"emend {'data run' if group == 'data' else 'train fit'} --config {short}",
        f"-m training fit --config {short}",  # torchrun
    )
    assert any(command in text for command in commands)

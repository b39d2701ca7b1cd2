"""Fixtures for the tests of training: a small folder of shards, tiny bases, and runs of recipes."""

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_gen.records import EditTriplet, ImagePair, Scores
from data_gen.shards import INDEX_FILE, scan_shard, shard_writer, write_index
from training.__main__ import main

GROUPS_PER_SHARD = (5, 4, 3)
RECIPES = sorted(
    recipe
    for recipe in Path("training/recipes").glob("*.yaml")
    if "shards" in yaml.safe_load(recipe.read_text())["data"]  # others: test_finetune_recipe.py
)
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
COLOURS = {"red": (230, 20, 20), "blue": (20, 20, 230), "green": (20, 200, 20)}


def _pair(number: int, seed_index: int) -> ImagePair:
    """A plain 32x32 image that turns from one colour to another; told apart by its number."""
    names = list(COLOURS)
    before, after = names[number % 3], names[(number + 1) % 3]
    triplet = EditTriplet.of(
        caption=f"{number} {before}",
        instruction=f"make {number} {after}",
        edited_caption=f"{number} {after}",
        edit_type="recolour",
        inverse_instruction=f"make {number} {before}",
    )
    source, edited = (
        np.full((32, 32, 3), COLOURS[name], dtype=np.uint8) for name in (before, after)
    )
    for image in (source, edited):
        image[: 2 + number, : 4 + 4 * seed_index] = 10 * number
    return ImagePair(
        triplet=triplet,
        key=ImagePair.key_of(triplet.id, seed_index, 0),
        source=source,
        edited=edited,
        seed_index=seed_index,
        branch=0,
        p=0.5,
        guidance=4.0,
        scores=Scores(image_image=0.9, text_source=0.3, text_edited=0.3, directional=0.4),
    )


def _write(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rows = []
    numbers = iter(range(sum(GROUPS_PER_SHARD)))
    for shard, groups in enumerate(GROUPS_PER_SHARD):
        name = f"{shard:05d}.tar"
        with shard_writer(folder / name, {}) as writer:
            for number in islice(numbers, groups):
                for seed_index in range(1 + number % 2):
                    writer.write(_pair(number, seed_index))
        rows += scan_shard(folder / name, name)
    write_index(folder / INDEX_FILE, rows)
    return folder


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 3 shards, 12 groups, 18 pairs of 32x32 images; do not modify it."""
    return _write(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture
def own_shards(tmp_path: Path) -> Path:
    """The same, for a test that damages it."""
    return _write(tmp_path / "shards")


@pytest.fixture(scope="session", name="tiny")
def tiny_fixture() -> Callable[[Path, Path, Path, Path], list[str]]:
    """`tiny(recipe, base, shards, output)`: the command line of a small run of a recipe."""
    return tiny


def tiny(recipe: Path, base: Path, shards: Path, output: Path) -> list[str]:
    """A recipe with all its keys, for a tiny model, a tiny set, one CPU and two steps."""
    line = [
        "fit",
        f"--config={recipe}",
        f"--output={output}",
        f"--model.base={base}",
        f"--data.shards={shards}",
        "--model.settings.steps=2",
        "--model.speed.compile=false",
        "--data.batch_size=4",
        "--data.held_out=0.3",
        "--data.num_workers=0",
        "--trainer.max_steps=2",
        "--trainer.log_every_n_steps=1",
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--trainer.num_nodes=1",
        "--trainer.strategy=auto",
        "--checkpoints.every=1",
        "--held_out_edits.every=2",
        "--held_out_edits.samples=2",
    ]
    framing = yaml.safe_load(recipe.read_text())["data"]["framing"]
    if "resolution" in framing:
        line += ["--data.framing.resolution=32", "--data.framing.enlarge_to=36"]
    return line


@pytest.fixture(scope="session")
def base_of(build_backbone, save_folder, tmp_path_factory) -> Callable[[Path], Path]:
    """`base_of(recipe)`: a folder of a tiny model of the kind that a recipe starts from."""

    @functools.cache
    def saved(prediction_type: str, xl: bool) -> Path:
        folder: Path = tmp_path_factory.mktemp("base") / "tiny"
        save_folder(build_backbone(prediction_type, xl=xl), folder)
        return folder

    def of(recipe: Path) -> Path:
        knobs = yaml.safe_load(recipe.read_text())["model"]
        return saved(knobs["objective"]["prediction_type"], "sdxl" in recipe.stem)

    return of


@pytest.fixture(scope="session")
def run_of(base_of, shards: Path, tmp_path_factory) -> Callable[[Path], Path]:
    """`run_of(recipe)`: the folder of a finished run of two steps; do not modify it."""

    @functools.cache
    def run(recipe: Path) -> Path:
        output: Path = tmp_path_factory.mktemp(recipe.stem) / "run"
        main(tiny(recipe, base_of(recipe), shards, output))
        return output

    return run


@pytest.fixture(params=RECIPES, ids=lambda recipe: recipe.stem)
def recipe(request: pytest.FixtureRequest) -> Path:
    """Every shipped recipe."""
    return Path(request.param)


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Leaves no handler behind."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def forked(tmp_path_factory) -> Callable[[list[dict]], list[list[int]]]:
    """`forked(plan)`: carries out runs as `forking.py` describes them; their exit codes."""

    def carry_out(plan: list[dict]) -> list[list[int]]:
        path = tmp_path_factory.mktemp("plan") / "plan.json"
        path.write_text(json.dumps(plan))
        script = Path(__file__).with_name("forking.py")
        done = subprocess.run(
            [sys.executable, str(script), str(path)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        sys.stderr.write(done.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    return carry_out

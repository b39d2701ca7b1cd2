"""Fixtures for the tests of training: a small folder of shards."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from data_gen.records import EditTriplet, ImagePair, Scores
from data_gen.shards import INDEX_FILE, scan_shard, shard_writer, write_index

GROUPS_PER_SHARD = (5, 4, 3)
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

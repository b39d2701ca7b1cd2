"""Fixtures of data generation's tests: triplets, a painter without a model, a language model."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_gen.judging.config import FilterKnobs, Thresholds
from data_gen.recipe import PairKnobs, Recipe
from data_gen.records import (
    EditTriplet,
    ImageArray,
    ImagePair,
    Rendered,
    Scores,
    Verdict,
    triplet_to_json,
)
from data_gen.rendering.config import RenderKnobs
from data_gen.runs.receipts import Outcome, Receipt, Unit, plan, write_receipt
from data_gen.runs.units import CANDIDATE_SCHEMA, Paint, candidate_row, publish
from data_gen.shards import scan_shard, shard_writer, write_index
from inference.files import file_digest, write_lines
from inference.shapes import MODELS
from tests.endpoints import impatient, knobs_for, provider  # noqa: F401

SHAPES_CLIP = str(MODELS / "clip")


def _triplet(number: int) -> EditTriplet:
    return EditTriplet.of(
        caption=f"a red circle number {number}",
        instruction="make it blue",
        edited_caption=f"a blue circle number {number}",
        edit_type="recolour",
        inverse_instruction="make it red",
    )


@pytest.fixture
def triplets() -> list[EditTriplet]:
    return [_triplet(number) for number in range(10)]


def _noise(*key: object) -> ImageArray:
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big")
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)


def _pair(triplet: EditTriplet, seed_index: int = 0, branch: int = 0) -> ImagePair:
    key = ImagePair.key_of(triplet.id, seed_index, branch)
    directional = int(_noise(key)[0, 0, 0]) / 255
    return ImagePair(
        triplet=triplet,
        key=key,
        source=_noise(triplet.id, seed_index),
        edited=_noise(key),
        seed_index=seed_index,
        branch=branch,
        p=0.1 + 0.2 * branch,
        guidance=4.0,
        scores=Scores(image_image=0.9, text_source=0.5, text_edited=0.5, directional=directional),
    )


@pytest.fixture
def make_pair() -> Callable[..., ImagePair]:
    """`make_pair(triplet, seed_index=0, branch=0)`: a scored pair, a function of its key."""
    return _pair


def _paint(triplets: Sequence[EditTriplet]) -> Iterator[tuple[Rendered, list[Verdict]]]:
    for triplet in triplets:
        pairs = tuple(_pair(triplet, seed, branch) for seed in range(2) for branch in range(2))
        verdicts = [
            Verdict(pair=pair, reason=None if pair.scores.directional > 0.5 else "directional")
            for pair in pairs
        ]
        yield Rendered(triplet=triplet, pairs=pairs), verdicts


@pytest.fixture
def paint() -> Paint:
    """Noise pictures: four candidates a triplet, about half of them kept."""
    return _paint


@pytest.fixture
def published(tmp_path: Path, triplets: list[EditTriplet], paint: Paint) -> Path:
    """A finished data set of two units: shards, rejected pairs, candidates, receipts, index."""
    root = tmp_path / "set"
    receipts = [_unit(root, unit, paint) for unit in plan(triplets, unit_size=5, recipe="none")]
    publish(root, receipts)
    return root


def _unit(root: Path, unit: Unit, paint: Paint) -> Receipt:
    verdicts = [verdict for _, some in paint(unit.triplets) for verdict in some]
    for kind, chosen in (
        ("shards", [one.pair for one in verdicts if one.reason is None]),
        ("rejected", [one.pair for one in verdicts if one.reason][:2]),
    ):
        tar = root / kind / f"{unit.stem}.tar"
        tar.parent.mkdir(parents=True, exist_ok=True)
        with shard_writer(tar, {"clip": SHAPES_CLIP}) as writer:
            writer.write(*chosen)
        if kind == "shards":
            write_index(tar.with_suffix(".parquet"), scan_shard(tar, f"shards/{tar.name}"))
    rows = list(map(candidate_row, verdicts))
    table = root / "candidates" / f"{unit.stem}.parquet"
    table.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=CANDIDATE_SCHEMA), table)
    files = sorted(root.glob(f"*/{unit.stem}.*"))
    receipt = Receipt(
        unit=unit.name,
        fingerprint=unit.fingerprint,
        files={path.relative_to(root).as_posix(): file_digest(path) for path in files},
        prompts={
            triplet.id: Outcome(status="passed", kept=1, reasons={"directional": 1})
            for triplet in unit.triplets
        },
        seconds={"total": 1.0},
        versions={},
    )
    write_receipt(root, receipt)
    return receipt


@pytest.fixture
def recipe(tiny_folder: Path, triplets: list[EditTriplet], tmp_path: Path) -> Recipe:
    """Real models, a random one that draws and a trained CLIP, and ten triplets in five units."""
    write_lines(tmp_path / "data" / "triplets.jsonl", map(triplet_to_json, triplets))
    return Recipe(
        output=tmp_path / "data",
        pairs=PairKnobs(
            model=str(tiny_folder),
            clip=str(MODELS / "clip"),
            render=RenderKnobs(steps=4, seeds=2, branches=2, batch_rows=16),
            # What random weights draw is no good: every other candidate is to pass all the same.
            filter=FilterKnobs(
                thresholds=Thresholds(image_image=-1, text_source=-1, text_edited=-1, directional=0)
            ),
            unit_size=2,
        ),
    )


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """`contents(root)`: every file of a data set but receipts, which hold times, and locks."""

    def read(root: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and path.parent.name != "receipts" and path.suffix != ".lock"
        }

    return read

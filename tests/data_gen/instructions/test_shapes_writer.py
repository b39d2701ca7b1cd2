"""The shipped writer, served by `transformers serve`: quotas against a model that refuses much."""

from collections import Counter
from pathlib import Path

import pytest

from data_gen.captions.config import CaptionKnobs
from data_gen.captions.stage import write_captions
from data_gen.instructions.stage import InstructionKnobs, write_triplets

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_triplets_follow_the_mix(tmp_path: Path) -> None:
    captions = write_captions(CaptionKnobs(count=1040, seed=11), tmp_path / "captions.jsonl")
    knobs = InstructionKnobs(model=str(ROOT / "inference/shapes/models/writer"))
    written = write_triplets(
        captions, knobs, journal=tmp_path / "journal.jsonl", triplets=tmp_path / "triplets.jsonl"
    )
    found = Counter(triplet.edit_type for triplet in written)
    assert len(written) > 1000
    for name in knobs.edit_types:
        assert found[name] / len(written) == pytest.approx(1 / 9, abs=0.03)

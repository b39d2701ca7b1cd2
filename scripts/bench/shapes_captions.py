"""What the shapes benches ask about: captions that nothing was trained or tuned on, and answers."""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from data_gen.instructions.stage import InstructionKnobs, write_triplets
from data_gen.records import Caption, EditTriplet
from inference.endpoints.journal import Journal
from inference.shapes import MODELS
from inference.shapes.captions import caption, describe
from inference.shapes.edits import EDIT_TYPES, EditType
from inference.shapes.scene import random_scene

SEED: Final = 20_000_000


def kinds_of(name: str) -> Sequence[EditType]:
    """The edit types that a row of a table is about: one, some with commas between, or all."""
    return [kind for kind in EDIT_TYPES if name == "all" or kind in name.split(", ")]


def unseen_captions(count: int, detail: float = 0.5) -> list[Caption]:
    """Distinct captions of scenes that nothing else draws; `detail` as in `describe`."""
    texts: dict[str, None] = {}
    index = 0
    while len(texts) < count:
        draw = random.Random(f"bench caption/{SEED}/{index}")
        texts[caption(describe(random_scene(draw), draw, detail=detail))] = None
        index += 1
    return [Caption.of(text) for text in texts]


def asked(
    captions: Sequence[Caption], edits_per_caption: int = 1
) -> tuple[list[EditTriplet], list[dict[str, Any]]]:
    """What the shipped writer's server makes of captions: the triplets, and all its answers."""
    knobs = InstructionKnobs(model=str(MODELS / "writer"), edits_per_caption=edits_per_caption)
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "answers.jsonl"
        triplets = write_triplets(
            captions, knobs, journal=journal, triplets=Path(folder) / "triplets.jsonl"
        )
        with Journal(journal) as answers:
            return triplets, list(answers.entries())

"""What the fuzzed files lie beside: a small model, a small data set, made once."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from data_gen.records import EditTriplet, ImagePair, Scores, Verdict, triplet_to_json
from data_gen.runs.receipts import Outcome, Receipt, write_receipt
from data_gen.runs.units import CANDIDATE_SCHEMA, candidate_row
from data_gen.shards import INDEX_FILE, scan_shard, shard_writer, write_index
from inference.files import file_digest, write_lines
from inference.saving import save_backbone
from inference.shapes import MODELS
from tests import tiny

SHARD = "shards/00000-abcd.tar"
TRIPLET = EditTriplet.of(
    caption="a red circle",
    instruction="make it blue",
    edited_caption="a blue circle",
    edit_type="recolour",
    inverse_instruction="make it red",
)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Folders that are copied, never changed.

    Attributes:
        model: A tiny diffusers folder.
        data: A finished data set of one unit.
        tensors: A small safetensors file.
    """

    model: Path
    data: Path
    tensors: Path

    @classmethod
    def make(cls, folder: Path) -> "Ground":
        """Write all of it into an empty folder."""
        ground = cls(
            model=folder / "model", data=folder / "data", tensors=folder / "tensors.safetensors"
        )
        save_backbone(tiny.build_backbone(), ground.model)
        save_file({"a": torch.zeros(2, 3), "b": torch.ones(4)}, ground.tensors, {"about": "{}"})
        write_data(ground.data)
        return ground

    def copy_of_data(self, folder: Path) -> Path:
        """A copy of the data set that may be damaged."""
        return Path(shutil.copytree(self.data, folder / "data"))

    def copy_of_model(self, folder: Path) -> Path:
        """A copy of the model whose weights are shared with it: replace files, never write."""
        root = folder / "model"
        shutil.copytree(self.model, root, copy_function=link)
        return root


def link(source: str, target: str) -> None:
    """A hard link in the place of a copy."""
    Path(target).hardlink_to(source)


def replace(path: Path, content: bytes) -> None:
    """Put other content in the place of a file that may be a link."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def pair(seed: int) -> ImagePair:
    """A pair of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 16, 16, 3), np.uint8)
    return ImagePair(
        triplet=TRIPLET,
        key=ImagePair.key_of(TRIPLET.id, seed, 0),
        source=pixels[0],
        edited=pixels[1],
        seed_index=seed,
        branch=0,
        p=0.5,
        guidance=4.0,
        scores=Scores(image_image=0.9, text_source=0.5, text_edited=0.5, directional=0.4),
    )


def write_data(root: Path) -> None:
    """Shard, index, candidates, receipt and texts of one unit of two pairs."""
    pairs = [pair(seed) for seed in range(2)]
    tar = root / SHARD
    tar.parent.mkdir(parents=True)
    with shard_writer(tar, {"clip": str(MODELS / "clip")}) as writer:
        writer.write(*pairs)
    rows = scan_shard(tar, SHARD)
    write_index(tar.with_suffix(".parquet"), rows)
    write_index(root / INDEX_FILE, rows)
    candidates = root / "candidates" / "00000-abcd.parquet"
    candidates.parent.mkdir()
    table = [candidate_row(Verdict(pair=one, reason=None)) for one in pairs]
    pq.write_table(pa.Table.from_pylist(table, schema=CANDIDATE_SCHEMA), candidates)
    files = [tar, tar.with_suffix(".parquet"), candidates]
    write_receipt(
        root,
        Receipt(
            unit="00000",
            fingerprint="abcd",
            files={path.relative_to(root).as_posix(): file_digest(path) for path in files},
            prompts={TRIPLET.id: Outcome(status="passed", kept=1, reasons={"directional": 1})},
            seconds={"total": 1.0},
            versions={},
        ),
    )
    write_lines(root / "triplets.jsonl", [triplet_to_json(TRIPLET)])
    write_lines(root / "instructions.jsonl", map(json.dumps, JOURNAL))


JOURNAL = [
    {"form": "json", "endpoint": "e"},
    {"round": 0, "plan": "p"},
    {"reserved": "r", "dollars": "0.5"},
    {
        "request": "r",
        "caption": "a red circle",
        "edit_type": "recolour",
        "answer": {"instruction": "make it blue", "edited_caption": "a blue circle"},
        "rejected": None,
        "usage": {"prompt_tokens": 3, "completion_tokens": 4},
        "dollars": "0.1",
    },
    {"moderated": "m", "flagged": None},
    {"batch": "b", "requests": {"q": "0.2"}},
    {"batch": "b", "remote": "x"},
    {"batch": "b", "ended": "completed", "lost": False},
    {"freed": "q", "dollars": "0"},
]

"""What the contestants of `train.py` train on, in everyone's format."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import webdataset

from inference.files import written_atomically


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all contestants do.

    Attributes:
        base: Diffusers folder of the text-to-image model.
        data: Folder of the shards.
        latents: Folder of the latents that were made of them.
        parquet: The same pairs for `datasets`.
        resolution: Side of the images, in pixels.
        precision: As Lightning calls it.
    """

    base: Path
    data: Path
    latents: Path
    parquet: Path
    script: Path
    resolution: int
    batch: int
    steps: int
    skip: int
    precision: str
    seed: int


def write_parquet(job: Job) -> None:
    """The images of the shards, byte for byte, as `datasets` takes them."""
    shards = sorted(str(path) for path in job.data.rglob("*.tar"))
    features = datasets.Features(
        input_image=datasets.Image(),
        edited_image=datasets.Image(),
        edit_prompt=datasets.Value("string"),
    )
    made = datasets.Dataset.from_list(list(pairs_of(shards)), features=features)
    with written_atomically(job.parquet / "train.parquet") as temporary:
        made.to_parquet(temporary)


def pairs_of(shards: list[str]) -> Iterator[dict[str, Any]]:
    """The pairs of shards as they are stored."""
    for sample in webdataset.WebDataset(shards, shardshuffle=False):
        yield {
            "input_image": {"bytes": sample["input.jpg"]},
            "edited_image": {"bytes": sample["edited.jpg"]},
            "edit_prompt": json.loads(sample["json"])["instruction"],
        }

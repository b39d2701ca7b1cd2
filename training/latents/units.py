"""Units of latents: what a worker must know to make one, and how it is made."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffusers import AutoencoderKL

from data_gen.imports.reading import BadPair, Reader
from data_gen.records import EditTriplet
from data_gen.runs.receipts import Outcome, Receipt, Unit, failure
from data_gen.shards import shard_writer
from inference.devices import device_of
from inference.files import file_digest, written_atomically
from inference.loading import load_model
from inference.memory import keep_memory
from training.data import latent_shards
from training.data.config import PairSet
from training.data.latent_shards import NUMBERS, SCHEMA, About, packed
from training.data.sets import open_set
from training.latents.config import Precision
from training.latents.encoding import Encoded, PairEncoder

_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class PairsUnit(Unit):
    """Pairs of a data set, encoded as a whole.

    Attributes:
        rows: Of the set.
        places: Where the pairs stand, for people.
    """

    triplets: tuple[EditTriplet, ...] = ()
    rows: tuple[int, ...]
    places: tuple[str, ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        """See `Unit`."""
        return self.places


@dataclass(frozen=True, kw_only=True)
class LatentWork:
    """All that a worker must know, on this machine or another: a `Start` that can be pickled.

    Attributes:
        data: What is encoded.
        vae: Folder of the VAE.
        output: Folder of the latents.
        about: What the latents are of.
        batch_size: Images the VAE encodes together.
        precision: What the VAE computes in.
        device: Where, see `device_of`; None takes the GPU, where there is one.
        seed: Of the cuts.
    """

    data: PairSet
    vae: Path
    output: Path
    about: About
    batch_size: int
    precision: Precision
    device: str | None
    seed: int

    def __call__(self) -> "UnitMaker":
        """Open the set and load the VAE."""
        return self.maker(open_set(self.data))

    def maker(self, reader: Reader) -> "UnitMaker":
        """Load the VAE, for the set opened before; on a CPU the process keeps its memory."""
        device = device_of(self.device)
        keep_memory(device)
        vae = load_model(AutoencoderKL, self.vae, _DTYPES[self.precision])
        return UnitMaker(
            output=self.output,
            encoder=PairEncoder(
                vae=vae.to(device).eval().requires_grad_(False),
                reader=reader,
                about=self.about,
                batch_size=self.batch_size,
                seed=self.seed,
            ),
        )


@dataclass(frozen=True, kw_only=True)
class UnitMaker:
    """Makes units in the folder of the latents; making one again gives the same bytes."""

    output: Path
    encoder: PairEncoder

    def __call__(self, unit: Unit) -> Iterator[Outcome | Receipt]:
        """Make a unit: its shard, then its index.

        A RuntimeError or MemoryError (out of memory, a lost device) fails the unit: the receipt
        says so, and the next run makes the unit again.

        Yields:
            The outcome of each pair as it is done, and at the end the receipt, which is for the
            caller to write.
        """
        assert isinstance(unit, PairsUnit)
        begun = time.perf_counter()
        tar = self.output / "shards" / f"{unit.stem}.tar"
        outcomes: dict[str, Outcome] = {}
        try:
            for place, outcome in self._write(unit, tar):
                outcomes[place] = outcome
                yield outcome
        except (RuntimeError, MemoryError) as error:
            yield failure(unit, f"{type(error).__name__}: {error}", _versions())
            return
        files = [tar, tar.with_suffix(".parquet")]
        yield Receipt(
            unit=unit.name,
            fingerprint=unit.fingerprint,
            files={path.relative_to(self.output).as_posix(): file_digest(path) for path in files},
            prompts=outcomes,
            seconds={"total": round(time.perf_counter() - begun, 3)},
            versions=_versions(),
        )

    def _write(self, unit: PairsUnit, tar: Path) -> Iterator[tuple[str, Outcome]]:
        """Write a unit's files, yielding what came of each pair, by its place."""
        place_of = dict(zip(unit.rows, unit.places, strict=True))
        written: dict[str, tuple[int, Encoded]] = {}
        with written_atomically(tar) as temporary, shard_writer(temporary, {}) as writer:
            for row, found in self.encoder.unit(unit.rows):
                if isinstance(found, BadPair):
                    rejected = Outcome(status="rejected", reasons={found.reason: 1})
                    yield place_of[row], rejected
                    continue
                name = f"{unit.name}-{len(written):06d}"
                writer.copy(name, _members(found))
                found.latents.clear()
                written[name] = row, found
                yield place_of[row], Outcome(status="passed", kept=1, reasons={})
        with written_atomically(tar.with_suffix(".parquet")) as temporary:
            pq.write_table(_table(tar, written, self.encoder.reader), temporary)


def _versions() -> dict[str, str]:
    return {library: version(library) for library in ("emend", "torch", "diffusers")}


def _members(found: Encoded) -> dict[str, bytes]:
    tensors = {name: torch.stack(parts) for name, parts in found.latents.items()}
    tensors["sizes"] = torch.tensor([cut.sizes for cut in found.cuts])
    texts = json.dumps(found.description, indent=1).encode()
    return {"safetensors": packed(tensors), "json": texts}


def _table(tar: Path, written: Mapping[str, tuple[int, Encoded]], reader: Reader) -> Any:
    """The index of a unit's shard."""
    places, numbers = latent_shards.scan(tar), reader.numbers()
    rows = []
    for key, (row, found) in written.items():
        known = {name: float(values[row]) for name, values in numbers.items()}
        rows.append(
            {
                "key": key,
                "group": found.description["group"],
                "shard": f"shards/{tar.name}",
                **dict.fromkeys(NUMBERS),
                **{name: None if np.isnan(value) else value for name, value in known.items()},
                **places[key],
                "height": found.cuts[0].target[0],
                "width": found.cuts[0].target[1],
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA)

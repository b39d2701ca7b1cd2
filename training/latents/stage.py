"""The stage `python -m training latents`: encode a data set once, so that training need not.

The VAE takes about half of a training step. What it says of a pair depends on its weights and on
the cut alone, so it is computed here, unit by unit, and read instead of images. A unit is written
to temporary names, renamed, and its receipt comes last: kill the stage anywhere and run it again.

A latents folder:

    shards/<unit>-<fingerprint>.tar        latents and texts, see `latent_shards`
    shards/<unit>-<fingerprint>.parquet    their index
    receipts/<unit>.json                   written last
    index.parquet                          the index of all shards, replaced in one piece
    faulty.jsonl                           pairs that cannot be encoded, where there are any
"""

from collections.abc import Sequence, Set
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from diffusers import AutoencoderKL

from data_gen.imports.config import Columns, LayoutName
from data_gen.imports.reading import Reader
from data_gen.runs.config import ExecutorKnobs
from data_gen.runs.executors import Executor, Partition, executor_of, outcomes
from data_gen.runs.receipts import Receipt, done_receipt, fingerprint, tally
from data_gen.runs.workers import Start
from data_gen.shards import INDEX_FILE
from inference.devices import device_of
from inference.files import (
    folder_digest,
    is_abandoned,
    require_writable_folder,
    written_atomically,
)
from inference.loading import model_config
from inference.locks import locked, owned
from inference.model_names import located
from inference.number_types import PositiveCount, PositiveSmallCount, Seed, checks_numbers
from inference.progress import ProgressBar
from training.data import latent_shards
from training.data.config import Framing, PairSet
from training.data.inspection import (
    FAULTY_FILE,
    FaultyData,
    compare_sizes,
    inspect,
    notes,
    report,
    write_faults,
)
from training.data.latent_shards import About
from training.data.sets import open_set
from training.identity import set_digest
from training.latents.config import Precision
from training.latents.units import LatentWork, PairsUnit

FORMAT: Final = 2
"""Raised when the same call would give other bytes than before."""


@checks_numbers
def latents(
    base: Path,
    output: Path,
    path: str,
    layout: LayoutName = "shards",
    columns: Columns | None = None,
    split: str = "train",
    framing: Framing = Framing(),  # noqa: B008  (frozen)
    variations: PositiveSmallCount = 1,
    faulty: Literal["refuse", "leave_out"] = "refuse",
    batch_size: PositiveSmallCount = 16,
    unit_size: PositiveCount = 1000,
    precision: Precision = "float32",
    device: str | None = None,
    seed: Seed = 0,
    partition: str = "0/1",
    executor: ExecutorKnobs = ExecutorKnobs(),  # noqa: B008
) -> None:
    """Encode a data set once; training reads its latents in place of images.

    The arguments are those of the command, `commands.latents`.

    Raises:
        ValueError: Pairs cannot be used, or a knob is out of its range.
        FileNotFoundError: The base or the data set is not there.
        Unfinished: Units failed.
        WorkerError: There are no workers, or they cannot start.
        Occupied: Another process makes this partition.
    """
    if variations > 1 and not framing.is_random:
        raise ValueError(
            f"variations is {variations}, but the framing has no chance in it: "
            "set framing.enlarge_to or framing.flip, or variations to 1"
        )
    share, make = Partition.parse(partition), executor_of(executor)  # or say now what is wrong
    device_of(device)
    require_writable_folder(output)
    data = PairSet(path=_located(path), layout=layout, columns=columns, split=split)
    reader = open_set(data)
    base = located(base)
    vae = _vae_config(base)
    rows = _sound(reader, framing, faulty, 1 << (len(vae.block_out_channels) - 1), output)
    about = About(
        vae=str(folder_digest(base / "vae")),
        scaling_factor=vae.scaling_factor,
        framing=framing,
        variations=variations,
    )
    work = LatentWork(
        data=data,
        vae=(base / "vae").resolve(),
        output=output.resolve(),
        about=about,
        batch_size=batch_size,
        precision=precision,
        device=device,
        seed=seed,
    )
    units = _units(work, reader, rows, unit_size)
    # other processes open the set anew, which takes a while in some layouts
    start = partial(work.maker, reader) if executor.kind == "in_process" else work
    with owned(output, share.name):
        _make(share.of(units), output, start, make)
        receipts = [receipt for unit in units if (receipt := done_receipt(output, unit))]
        if len(receipts) == len(units):
            _publish(output, receipts, about)
        else:
            print(f"latents: {len(units) - len(receipts)} units are left to other partitions")


def _located(path: str) -> str:
    """A path here as an absolute one; what is none here is a URL or a name on a hub."""
    return str(Path(path).resolve()) if Path(path).exists() else path


def _vae_config(base: Path) -> Any:
    """The VAE's configuration, with diffusers' defaults for what its file leaves out."""
    if not (base / "vae" / "config.json").is_file():
        raise FileNotFoundError(f"there is no VAE in {base / 'vae'}")
    return model_config(AutoencoderKL, base / "vae")


def _sound(
    reader: Reader, framing: Framing, faulty: str, side_multiple: int, output: Path
) -> list[int]:
    """The rows that can be used; raises where others cannot and are not to be left out."""
    found = inspect(reader, np.arange(len(reader)), framing, side_multiple=side_multiple)
    if framing.resolution is None:
        compare_sizes([reader], [found])
    write_faults(output, [found])
    for note in notes([found]):
        print(note)
    if found.faults:
        said = f"{report([found])}\nlisted in {output / FAULTY_FILE}"
        if faulty == "refuse":
            raise FaultyData(f"{said}: mend them, or set faulty to leave_out")
        print(said)
    rows = [row for row in range(len(reader)) if row not in found.faults]
    if not rows:
        raise ValueError(f"{reader.name} holds no pair that can be encoded")
    return rows


def _units(
    work: LatentWork, reader: Reader, rows: Sequence[int], unit_size: int
) -> list[PairsUnit]:
    """Cut the rows into units whose fingerprint covers all that decides their bytes."""
    recipe = {
        "format": FORMAT,
        "about": work.about.to_json(),
        "seed": work.seed,
        "precision": work.precision,
        "set": set_digest(work.data.path),
        "batch_size": work.batch_size,
    }
    units = []
    for number, start in enumerate(range(0, len(rows), unit_size)):
        some = rows[start : start + unit_size]
        keys = [reader.key(row) for row in some]
        units.append(
            PairsUnit(
                name=f"{number:05d}",
                fingerprint=fingerprint(recipe | {"keys": keys}, []),
                rows=tuple(some),
                places=tuple(reader.where(row) for row in some),
            )
        )
    return units


def _make(units: Sequence[PairsUnit], output: Path, start: Start, executor: Executor) -> None:
    """Have those units made that are not done."""
    todo = [unit for unit in units if done_receipt(output, unit) is None]
    if not todo:
        return
    count, left = (sum(len(unit.rows) for unit in some) for some in (units, todo))
    with (
        ProgressBar(total=count, initial=count - left, desc="encoding", unit="pair") as bar,
        closing(outcomes(executor, start, todo, output)) as told,
    ):
        for _ in told:
            bar.update()


def _publish(output: Path, receipts: Sequence[Receipt], about: About) -> None:
    """Replace the index, drop what no receipt names, and say what was made."""
    named = {name: digest for receipt in receipts for name, digest in receipt.files.items()}
    parts = [pq.read_table(output / name) for name in named if name.endswith(".parquet")]
    table = pa.concat_tables(parts)
    if not table.num_rows:
        raise ValueError("not one pair could be encoded")
    with locked(output / ".lock"):  # the last two partitions may come here together
        with written_atomically(output / INDEX_FILE) as temporary:
            tars = {name: digest for name, digest in named.items() if name.endswith(".tar")}
            latent_shards.write_index(temporary, table, about, tars)
        _prune(output, named.keys(), {receipt.unit for receipt in receipts})
    _, lost = tally(receipts)
    print(
        f"{output}: latents of {table.num_rows:,} pairs, {about.variations} cuts each"
        + (f"; left out: {dict(lost)}" if lost else "")
    )


def _prune(output: Path, named: Set[str], units: Set[str]) -> None:
    """Delete what other calls left."""
    for path in output.glob("shards/*"):
        # What has an unfinished name may be another process's, who writes it at this moment.
        if path.relative_to(output).as_posix() not in named and (
            path.suffix != ".tmp" or is_abandoned(path)
        ):
            path.unlink(missing_ok=True)
    for path in output.glob("receipts/*.json"):
        if path.stem not in units:
            path.unlink(missing_ok=True)

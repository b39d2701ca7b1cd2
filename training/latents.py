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

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from data_gen.imports.reading import BadPair, Columns, LayoutName, Reader, open_pairs
from data_gen.records import ImagePair
from data_gen.runs.receipts import Outcome, Receipt, Unit, done_receipt, fingerprint, write_receipt
from data_gen.shards import INDEX_FILE, shard_writer
from inference.files import file_digest, folder_digest, written_atomically
from inference.noise import keyed_seed
from training.data import latent_shards
from training.data.framing import Cut, Framing, nearest, plan_cut, survives_a_mirror
from training.data.inspection import (
    FAULTY_FILE,
    FaultyData,
    compare_sizes,
    inspect,
    report,
    write_faults,
)
from training.data.latent_shards import NUMBERS, SCHEMA, TEXTS, About, packed
from training.identity import set_digest

FORMAT: Final = 2
"""Raised when the same call would give other bytes than before."""
_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class _Framed:
    """A cut pair that waits to be encoded."""

    row: int
    source: Tensor
    edited: Tensor


@dataclass(kw_only=True)
class _Gathered:
    """What is known of a pair while its cuts are encoded.

    Attributes:
        description: Its texts.
        cuts: One a variation.
        latents: Means and deviations of the cuts done, by name.
    """

    description: dict[str, Any]
    cuts: list[Cut]
    latents: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))


def latents(
    base: Path,
    output: Path,
    path: str,
    layout: LayoutName = "shards",
    columns: Columns | None = None,
    split: str = "train",
    framing: Framing = Framing(),  # noqa: B008  (frozen)
    variations: int = 1,
    faulty: Literal["refuse", "leave_out"] = "refuse",
    batch_size: int = 16,
    unit_size: int = 1000,
    precision: Literal["float32", "bfloat16"] = "float32",
    device: str | None = None,
    seed: int = 0,
) -> None:
    """Encode a data set once; training reads its latents in place of images.

    For example, four random cuts of each pair:

        python -m training latents --base models/stable-diffusion-v1-5 --path out/data
            --output out/latents --framing.resolution 256 --framing.enlarge_to 288 --variations 4

    and then `python -m training fit ... --data.shards out/latents`, with the same base.

    Args:
        base: The model whose VAE encodes, a diffusers folder.
        output: The folder of the latents.
        path: The data set, as `data.sets` of a training recipe names it.
        layout: How it comes.
        columns: Names of its columns or keys, where they are not the layout's usual ones.
        split: Which split of what `datasets` loads.
        framing: How images are cut; that of training.
        variations: Cuts of each pair, of which training draws one at every visit; more than one
            needs a framing with chance.
        faulty: Whether pairs that cannot be used are a reason to stop, or are left out.
        batch_size: Images the VAE encodes together.
        unit_size: Pairs a shard: what is lost, at most, when the stage is killed.
        precision: What the VAE computes in. SDXL's needs float32, or bfloat16 with a loss.
        device: Where; null takes the GPU, where there is one.
        seed: Of the cuts.

    Raises:
        ValueError: Pairs cannot be used, or a knob is out of its range.
        FileNotFoundError: The base or the data set is not there.
    """
    if variations < 1 or batch_size < 1 or unit_size < 1:
        raise ValueError(
            f"variations, batch_size and unit_size are {variations}, {batch_size} and {unit_size}; "
            "expected at least 1"
        )
    if variations > 1 and not framing.is_random:
        raise ValueError(
            f"variations is {variations}, but the framing has no chance in it: "
            "set framing.enlarge_to or framing.flip, or variations to 1"
        )
    reader = open_pairs(path, layout=layout, columns=columns, split=split)
    vae = _loaded(base, _DTYPES[precision], device)
    side_multiple = 1 << (len(vae.config.block_out_channels) - 1)
    rows = _sound(reader, framing, faulty, side_multiple, output)
    about = About(
        vae=str(folder_digest(base / "vae")),
        scaling_factor=vae.config.scaling_factor,
        framing=framing,
        variations=variations,
    )
    recipe = {"format": FORMAT, "about": about.to_json(), "seed": seed, "precision": precision}
    recipe |= {"set": set_digest(path), "batch_size": batch_size}
    encoder = _Encoder(vae=vae, reader=reader, about=about, batch_size=batch_size, seed=seed)
    receipts: list[Receipt] = []
    with tqdm(total=len(rows), desc="encoding", unit="pair") as bar:
        for number, start in enumerate(range(0, len(rows), unit_size)):
            some = rows[start : start + unit_size]
            keys = [reader.key(row) for row in some]
            mark = fingerprint(recipe | {"keys": keys}, [])
            unit = Unit(name=f"{number:05d}", fingerprint=mark, triplets=())
            receipts.append(done_receipt(output, unit) or _make(output, unit, some, encoder))
            bar.update(len(some))
    _publish(output, receipts, about)


def _sound(
    reader: Reader, framing: Framing, faulty: str, side_multiple: int, output: Path
) -> list[int]:
    """The rows that can be used; raises where others cannot and are not to be left out."""
    found = inspect(reader, np.arange(len(reader)), framing, side_multiple=side_multiple)
    if framing.resolution is None:
        compare_sizes([reader], [found])
    write_faults(output, [found])
    if found.faults:
        said = f"{report([found])}\nlisted in {output / FAULTY_FILE}"
        if faulty == "refuse":
            raise FaultyData(f"{said}: mend them, or set faulty to leave_out")
        print(said)
    rows = [row for row in range(len(reader)) if row not in found.faults]
    if not rows:
        raise ValueError(f"{reader.name} holds no pair that can be encoded")
    return rows


def _loaded(base: Path, dtype: torch.dtype, device: str | None) -> Any:
    if not (base / "vae" / "config.json").is_file():
        raise FileNotFoundError(f"there is no VAE in {base / 'vae'}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    vae: Any = AutoencoderKL.from_pretrained(
        base / "vae", local_files_only=True, use_safetensors=True, torch_dtype=dtype
    )
    return vae.to(device).eval().requires_grad_(False)


# ---------------------------------------------------------------- encoding


@dataclass(frozen=True, kw_only=True)
class _Encoder:
    """Encodes pairs; the same ones in the same unit give the same bytes."""

    vae: Any
    reader: Reader
    about: About
    batch_size: int
    seed: int

    def unit(self, rows: Sequence[int]) -> Iterator[tuple[int, _Gathered | BadPair]]:
        """Encode the pairs of a unit, in batches of one size, and yield each when it is whole."""
        waiting: dict[tuple[int, ...], list[_Framed]] = defaultdict(list)
        gathered: dict[int, _Gathered] = {}
        for row in rows:
            try:
                pair = self.reader.read(row)
            except BadPair as error:
                yield row, error
                continue
            gathered[row] = _Gathered(description=_description(pair), cuts=self._cuts(row, pair))
            for cut in gathered[row].cuts:
                source, edited = (_normalised(cut.of(one)) for one in (pair.source, pair.edited))
                queue = waiting[cut.target]
                queue.append(_Framed(row=row, source=source, edited=edited))
                if len(queue) * 2 >= self.batch_size:
                    self._encode(waiting.pop(cut.target), gathered)
            yield from self._whole(gathered)
        for queue in waiting.values():
            self._encode(queue, gathered)
        yield from self._whole(gathered)

    def _cuts(self, row: int, pair: ImagePair) -> list[Cut]:
        """A pair's cuts, functions of its key."""
        framing, sides = self.about.framing, pair.source.shape[:2]
        texts = (pair.triplet.instruction, pair.triplet.inverse_instruction)
        rng = np.random.default_rng(keyed_seed("latents", self.seed, self.reader.key(row)))
        return [
            plan_cut(
                (sides[0], sides[1]),
                framing,
                rng,
                bucket=nearest(framing.buckets, *sides) if framing.buckets else 0,
                may_mirror=framing.flip_all or all(map(survives_a_mirror, texts)),
            )
            for _ in range(self.about.variations)
        ]

    @torch.no_grad()
    def _encode(self, queue: Sequence[_Framed], gathered: Mapping[int, _Gathered]) -> None:
        images = torch.stack([one.source for one in queue] + [one.edited for one in queue])
        posterior = self.vae.encode(images.to(self.vae.device, self.vae.dtype)).latent_dist
        means, deviations = (
            part.to("cpu", torch.float16) for part in (posterior.mean, posterior.std)
        )
        for number, one in enumerate(queue):
            found = gathered[one.row].latents
            for name, place in (("source", number), ("edited", number + len(queue))):
                found[f"{name}.mean"].append(means[place])
                found[f"{name}.deviation"].append(deviations[place])

    def _whole(self, gathered: dict[int, _Gathered]) -> Iterator[tuple[int, _Gathered]]:
        """Yield and forget the pairs whose cuts are all encoded, in their order."""
        for row in list(gathered):
            if len(gathered[row].latents["source.mean"]) < self.about.variations:
                return
            yield row, gathered.pop(row)


def _normalised(image: Any) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1


def _description(pair: ImagePair) -> dict[str, Any]:
    texts = {name: getattr(pair.triplet, name) for name in TEXTS}
    return {"key": pair.key, "group": pair.triplet.id, **texts}


# ---------------------------------------------------------------- units


def _make(output: Path, unit: Unit, rows: Sequence[int], encoder: _Encoder) -> Receipt:
    """Make a unit: its shard, its index, then its receipt."""
    begun = time.perf_counter()
    tar = output / "shards" / f"{unit.stem}.tar"
    outcomes: dict[str, Outcome] = {}
    written: dict[str, tuple[int, _Gathered]] = {}
    with written_atomically(tar) as temporary, shard_writer(temporary, {}) as writer:
        for row, found in encoder.unit(rows):
            where = encoder.reader.where(row)
            if isinstance(found, BadPair):
                outcomes[where] = Outcome(status="rejected", reasons={found.reason: 1})
                continue
            name = f"{unit.name}-{len(written):06d}"
            writer.copy(name, _members(found))
            found.latents.clear()
            written[name] = row, found
            outcomes[where] = Outcome(status="passed", kept=1, reasons={})
    with written_atomically(tar.with_suffix(".parquet")) as temporary:
        pq.write_table(_table(tar, written, encoder.reader), temporary)
    files = [tar, tar.with_suffix(".parquet")]
    receipt = Receipt(
        unit=unit.name,
        fingerprint=unit.fingerprint,
        files={path.relative_to(output).as_posix(): file_digest(path) for path in files},
        prompts=outcomes,
        seconds={"total": round(time.perf_counter() - begun, 3)},
        versions={library: version(library) for library in ("emend", "torch", "diffusers")},
    )
    write_receipt(output, receipt)
    return receipt


def _members(found: _Gathered) -> dict[str, bytes]:
    tensors = {name: torch.stack(parts) for name, parts in found.latents.items()}
    tensors["sizes"] = torch.tensor([cut.sizes for cut in found.cuts])
    texts = json.dumps(found.description, indent=1).encode()
    return {"safetensors": packed(tensors), "json": texts}


def _table(tar: Path, written: Mapping[str, tuple[int, _Gathered]], reader: Reader) -> Any:
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


def _publish(output: Path, receipts: Sequence[Receipt], about: About) -> None:
    """Replace the index, drop what no receipt names, and say what was made."""
    named = {name: digest for receipt in receipts for name, digest in receipt.files.items()}
    parts = [pq.read_table(output / name) for name in named if name.endswith(".parquet")]
    table = pa.concat_tables(parts)
    if not table.num_rows:
        raise ValueError("not one pair could be encoded")
    with written_atomically(output / INDEX_FILE) as temporary:
        tars = {name: digest for name, digest in named.items() if name.endswith(".tar")}
        latent_shards.write_index(temporary, table, about, tars)
    for path in output.glob("shards/*"):
        if path.relative_to(output).as_posix() not in named:
            path.unlink()
    kept = {receipt.unit for receipt in receipts}
    for path in output.glob("receipts/*.json"):
        if path.stem not in kept:
            path.unlink()
    outcomes = [one for receipt in receipts for one in receipt.prompts.values()]
    lost = sum((Counter(one.reasons) for one in outcomes), Counter[str]())
    print(
        f"{output}: latents of {table.num_rows:,} pairs, {about.variations} cuts each"
        + (f"; left out: {dict(lost)}" if lost else "")
    )

"""Latents that were computed before training: how they are written, and read.

A shard of latents is a tar as other shards are, two members a pair: ``<key>.safetensors`` and
``<key>.json`` with the texts. Of both images it keeps what the VAE said, mean and deviation, not
scaled: the target is drawn from them anew at every visit, and the condition is the mode, which is
the mean. Reading trusts as little as with images: sizes and tar headers are checked, and
safetensors hold no code.
"""

import io
import json
import math
import tarfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from data_gen.imports.reading import BadPair, Look, Size
from data_gen.records import EditTriplet, ImagePair
from data_gen.shards import INDEX_FILE, ShardError, described_texts, read_index, with_digests
from data_gen.shards.cache import Cache
from data_gen.shards.places import read_places, require_sizes
from data_gen.shards.stores import Remote, Store, open_store
from inference.images import to_numpy
from inference.number_types import Finite, PositiveCount, checks_numbers, require
from inference.outside import parse_object
from inference.tensors import parse_tensors
from training.data.config import Framing
from training.data.framing import Sizes
from training.data.samples import SCORES, Draw, Sample

NUMBERS: Final = ("p", "guidance", *SCORES)
TEXTS: Final = ("instruction", "inverse_instruction", "caption", "edited_caption")
"""Of a pair; those that are not known are empty."""
_ABOUT: Final = b"latents"
_ENDS: Final = ("offset", "size")
_PLACES: Final = ("latents_offset", "latents_size", "json_offset", "json_size")
SCHEMA: Final = pa.schema(
    [
        *((name, pa.string()) for name in ("key", "group", "shard")),
        *((name, pa.float64()) for name in NUMBERS),
        *((name, pa.int64()) for name in (*_PLACES, "height", "width")),
    ]
)
"""The index: a pair's numbers, where its members lie, and the sides of what the VAE saw."""
_NEEDED: Final = frozenset(SCHEMA.names) - {*NUMBERS}
_TENSORS: Final = frozenset(
    {"source.mean", "source.deviation", "edited.mean", "edited.deviation", "sizes"}
)


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class About:
    """What latents are of.

    Attributes:
        vae: Hash of the VAE's weights and configuration.
        scaling_factor: The VAE's.
        framing: How the images were cut before.
        variations: How many cuts there are of each pair.
    """

    vae: str
    scaling_factor: Finite
    framing: Framing
    variations: PositiveCount

    def to_json(self) -> str:
        """As it stands in an index."""
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: bytes) -> "About":
        """Read what `to_json` wrote."""
        found = parse_object(text, "the description of an index of latents")
        try:
            about = cls(**found | {"framing": Framing(**found["framing"])})
            require("vae", about.vae, str)
        except (KeyError, TypeError, ValueError) as error:
            raise ShardError(
                f"an index of latents is described by {text!r:.200}: {error}"
            ) from error
        return about


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """A pair's latents, each (V, C, h, w), and its sizes, (V, 6), as the bytes of a member."""
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def scan(path: Path) -> dict[str, dict[str, int]]:
    """Where the members of a shard of latents lie: key -> the index's columns of places."""
    found: dict[str, dict[str, int]] = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            name = "latents" if extension == "safetensors" else "json"
            places = {f"{name}_offset": member.offset_data, f"{name}_size": member.size}
            found[key] = found.get(key, {}) | places
    return found


def write_index(path: Path, table: "pa.Table", about: About, digests: Mapping[str, str]) -> None:
    """Write the index of all shards, with what they are of and their SHA-256."""
    described = table.replace_schema_metadata({_ABOUT: about.to_json()})
    pq.write_table(with_digests(described, digests), path)


def holds_latents(store: Store) -> bool:
    """Whether a data set is one of latents, by its index; False where there is none."""
    try:
        schema = pq.read_schema(io.BytesIO(store.whole(INDEX_FILE)))
    except (FileNotFoundError, pa.ArrowException):
        return False
    return _ABOUT in (schema.metadata or {})


class LatentPairs:
    """The pairs of a set of latents by row, see `data_gen.imports.reading.Reader`.

    Args:
        root: Folder or URL.
        cache: Where shards behind a URL are kept.

    Raises:
        FileNotFoundError: It, or a shard of it, is not there.
        ShardError: It is damaged.
    """

    def __init__(self, root: str, cache: Cache | None = None) -> None:
        self.name, self.store = root, open_store(root, cache)
        table, digests = read_index(self.store, SCHEMA, _NEEDED)
        _require_sides(table, self.store.where(INDEX_FILE))
        self.about = About.of_json(table.schema.metadata.get(_ABOUT, b""))
        if isinstance(self.store, Remote):
            self.store.expect(digests)
        self._columns = {name: table[name].combine_chunks() for name in SCHEMA.names}
        self.groups = [str(group) for group in table["group"].to_pylist()]
        self.shards = [str(shard) for shard in table["shard"].to_pylist()]
        self.looks_within = self.store.is_local
        self._require_complete()

    def __len__(self) -> int:
        return len(self.groups)

    def where(self, row: int) -> str:
        """Shard and key, and of which pair it is, where that can be read."""
        place = f"{self.shards[row]}, {self.key(row)}"
        with suppress(BadPair, OSError):
            place += f" of {self._texts(self._members(row, 'json')['json'])['key']}"
        return place

    def key(self, row: int) -> str:
        """Of its members."""
        return str(self._columns["key"][row].as_py())

    def look(self, row: int) -> Look:
        """Read its texts; behind a URL, the index alone."""
        size = Size(*(self._columns[name][row].as_py() for name in ("height", "width")))
        if not self.looks_within:
            return Look(source=size, edited=size)
        texts = self._texts(self._members(row, "json")["json"])
        return Look(
            source=size,
            edited=size,
            instruction=texts["instruction"],
            inverse_instruction=texts["inverse_instruction"],
        )

    def numbers(self) -> Mapping[str, NDArray[np.float64]]:
        """The scores of the set that they were made of."""
        return {
            name: np.asarray(self._columns[name].to_numpy(zero_copy_only=False), np.float64)
            for name in NUMBERS
        }

    def scores(self, row: int) -> tuple[float, ...]:
        """Those of a pair, in the order of `Scores`; NaN where one is not known."""
        found = [self._columns[name][row].as_py() for name in SCORES]
        return tuple(math.nan if score is None else score for score in found)

    def latents(self, row: int) -> tuple[dict[str, str], dict[str, Tensor]]:
        """Key and texts of a pair, and its tensors, see `packed`; raises `BadPair`."""
        members = self._members(row, "json", "latents")
        try:
            tensors = parse_tensors(members["safetensors"], "its member of latents")
        except ValueError as error:
            raise BadPair("it is damaged", f"{self.where(row)}: {error}") from error
        if fault := _fault(tensors):
            raise BadPair("it is damaged", f"{self.where(row)}: {fault}")
        return self._texts(members["json"]), tensors

    def require_framing(self, framing: Framing) -> None:
        """Require that the recipe's framing is that of the latents, or says nothing.

        Raises:
            ValueError: It is another.
        """
        if framing not in (self.about.framing, Framing()):
            raise ValueError(
                f"{self.name} holds latents of images cut as {self.about.framing}, "
                f"and data.framing is {framing}: compute them anew, or leave data.framing out"
            )

    def require_vae(self, digest: str | None) -> None:
        """Require that the VAE is the one that made them.

        Raises:
            ValueError: It is another.
        """
        if digest != self.about.vae:
            raise ValueError(
                f"{self.name} holds latents of another VAE ({self.about.vae[:12]}) than that of "
                f"model.base ({str(digest)[:12]}): compute them anew with it"
            )

    def _members(self, row: int, *names: str) -> dict[str, bytes]:
        extensions = {"latents": "safetensors", "json": "json"}
        places = {
            extensions[name]: (
                self._columns[f"{name}_offset"][row].as_py(),
                self._columns[f"{name}_size"][row].as_py(),
            )
            for name in names
        }
        try:
            return read_places(self.store, self.shards[row], self.key(row), places)
        except ShardError as error:
            raise BadPair("it is damaged", str(error)) from error

    def _texts(self, content: bytes) -> dict[str, str]:
        try:
            found = described_texts(content, "it", TEXTS)
        except ShardError as error:
            raise BadPair("it is damaged", str(error)) from error
        return {name: found[name] or "" for name in ("key", *TEXTS)}

    def _require_complete(self) -> None:
        ends: dict[str, int] = {}
        lasts = [self._columns[f"{name}_{what}"] for name in ("latents", "json") for what in _ENDS]
        for shard, *places in zip(self.shards, *(last.to_pylist() for last in lasts), strict=True):
            end = max(places[0] + places[1], places[2] + places[3])
            ends[shard] = max(end, ends.get(shard, 0))
        require_sizes(self.store, ends)


def _require_sides(table: "pa.Table", path: str) -> None:
    """Require that the index gives pictures sides in pixels."""
    for name in ("height", "width"):
        sides = table[name].to_numpy()
        if len(wrong := np.flatnonzero(sides < 1)):
            row = int(wrong[0])
            raise ShardError(f"{path}, row {row}: {name} is {sides[row]}, expected at least 1")


def _fault(tensors: Mapping[str, Tensor]) -> str | None:
    """Why a pair's tensors are none of `packed`; None where they are."""
    if set(tensors) != _TENSORS:
        return f"it holds {sorted(tensors)}, expected {sorted(_TENSORS)}"
    sizes, latents = tensors["sizes"], [tensors[name] for name in _TENSORS - {"sizes"}]
    shapes = sorted({tuple(one.shape) for one in latents})
    if len(shapes) > 1 or len(shapes[0]) != 4 or not all(map(torch.is_floating_point, latents)):
        return f"its latents are {shapes}, expected floats of one shape (V, C, h, w)"
    if not shapes[0][0] or sizes.is_floating_point() or sizes.shape != (shapes[0][0], 6):
        return f"its sizes are {tuple(sizes.shape)} beside latents {shapes[0]}, expected (V, 6)"
    return None


class Latents:
    """Pairs as latents, not scaled; see `samples.Source`."""

    def __init__(self, reader: LatentPairs) -> None:
        self.reader = reader

    def where(self, row: int) -> str:
        """See `Source`."""
        return f"{self.reader.name}: {self.reader.where(row)}"

    def pair(self, row: int, decode: Callable[[Tensor], Tensor]) -> ImagePair:
        """The pair's first cut as images again, by the decoder of the VAE."""
        texts, tensors = self.reader.latents(row)
        means = torch.stack([tensors[f"{name}.mean"][0].float() for name in ("source", "edited")])
        source, edited = map(to_numpy, decode(means * self.reader.about.scaling_factor))
        key, group = self.reader.key(row), self.reader.groups[row]
        return ImagePair(
            triplet=EditTriplet(id=group, edit_type="", **{name: texts[name] for name in TEXTS}),
            key=key,
            source=source,
            edited=edited,
            seed_index=0,
            branch=0,
            p=None,
            guidance=None,
        )

    def fetch(self, row: int, draw: Draw) -> Callable[[], Sample]:
        """See `Source`: a cut of the pair, its target drawn from what the VAE said of it."""
        texts, tensors = self.reader.latents(row)
        return lambda: self._drawn(row, texts, tensors, draw)

    def _drawn(
        self, row: int, texts: Mapping[str, str], tensors: Mapping[str, Tensor], draw: Draw
    ) -> Sample:
        back = draw.back and bool(texts["inverse_instruction"])
        number = int(draw.rng.random() * len(tensors["sizes"]))
        found = {name: tensor[number] for name, tensor in tensors.items()}
        target, condition = ("source", "edited") if back else ("edited", "source")
        mean = found[f"{target}.mean"].float()
        edited = mean + found[f"{target}.deviation"].float() * draw.noise(mean.shape)
        return Sample(
            -1,
            -1,
            texts["inverse_instruction" if back else "instruction"],
            edited,
            found[f"{condition}.mean"].float(),
            Sizes(*found["sizes"].tolist()),
            self.reader.scores(row),
        )

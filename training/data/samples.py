"""From a position to a sample, and from samples to a batch: what a worker does.

A `Source` gives the contents of a pair, cut images or stored latents; `Pairs` knows which pair
stands at a position, and takes another where one turns out to be damaged.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Final, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_gen.imports.reading import BadPair, Listing, Reader
from data_gen.records import ImagePair, Scores
from inference.noise import keyed_noise, keyed_seed
from inference.progress import ProgressBar
from training.data import order
from training.data.config import Framing
from training.data.framing import Pixels, Sizes, plan_cut, survives_a_mirror

Encode = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_Key = tuple[int, int, bool]
"""Number of a data set, row of it, and whether it leads back."""

SCORES: Final = tuple(item.name for item in fields(Scores))

_NOTHING: Final = torch.empty(0)

ATTEMPTS: Final = 20
"""Damaged pairs in a row, one standing in for the other, after which the set counts as damaged."""


class Sample(NamedTuple):
    """One pair at one position of the endless line; images or latents as in `Batch`."""

    position: int
    epoch: int
    instruction: str
    edited: Tensor
    source: Tensor
    sizes: Sizes
    scores: tuple[float, ...]
    passed_over: tuple[str, ...] = ()


class Batch(NamedTuple):
    """Samples side by side.

    The images are (B, 3, H, W) uint8, or, where they were encoded before, latents (B, 4, h, w).

    Attributes:
        sizes: (B, 6) int64, a row as in `framing.Sizes`, in pixels: what SDXL is told.
        scores: (B, 5), a column a field of `Scores`, NaN where one is not known.
        passed_over: Damaged pairs that others stand in for, with what is wrong with them.
    """

    positions: list[int]
    epochs: list[int]
    instructions: list[str]
    edited: Tensor
    source: Tensor
    sizes: Tensor
    scores: Tensor
    passed_over: list[str]

    def score(self, name: str) -> Tensor:
        """One score of each pair, (B,)."""
        return self.scores[:, SCORES.index(name)]

    @property
    def is_encoded(self) -> bool:
        """Whether it holds latents."""
        return self.edited.is_floating_point()


def collate(samples: Iterable[Sample], count: int) -> Batch:
    """Put samples side by side, each as it comes: what was just decoded is still in the cache.

    Args:
        samples: One or more; they may be made while they are taken.
        count: How many they are.

    Raises:
        ValueError: Their images differ in size.
    """
    remaining = iter(samples)
    first = next(remaining)
    edited, source = (_rows(count, first.edited) for _ in range(2))
    said = []
    for number, sample in enumerate(itertools.chain([first], remaining)):
        _put(edited, number, sample.edited)
        _put(source, number, sample.source)
        said.append(sample._replace(edited=_NOTHING, source=_NOTHING))
    positions, epochs, instructions, _, _, sizes, scores, passed = zip(*said, strict=True)
    return Batch(
        list(positions),
        list(epochs),
        list(instructions),
        edited,
        source,
        torch.tensor(sizes),
        torch.tensor(scores),
        [pair for some in passed for pair in some],
    )


def _rows(count: int, like: Tensor) -> Tensor:
    """(count, C, H, W), each in memory as one is: images channels last, as decoders write them."""
    if like.is_contiguous():
        return like.new_empty((count, *like.shape))
    channels, height, width = like.shape
    return like.new_empty((count, height, width, channels)).permute(0, 3, 1, 2)


def _put(rows: Tensor, number: int, image: Tensor) -> None:
    if rows.shape[1:] != image.shape:
        raise ValueError(
            f"the images of a batch have the shapes {[tuple(rows.shape[1:]), tuple(image.shape)]}, "
            "expected one: set data.framing.resolution"
        )
    rows[number] = image


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What is random about a sample, a function of seed, epoch and position alone.

    Nothing is drawn before it is asked for: a generator costs as much as reading a pair's texts.

    Attributes:
        key: Seed of the run, epoch and position.
        backwards: How likely it is to lead from the edited image back, in [0, 1].
        bucket: The shape it is cut to, where there are several.
    """

    key: tuple[str | int, ...] = ()
    backwards: float = 0.0
    bucket: int = 0

    @property
    def back(self) -> bool:
        """Whether it is to lead from the edited image back, if its pair knows how."""
        return self.backwards > 0 and self._drawn[0] < self.backwards

    @property
    def rng(self) -> np.random.Generator:
        """For the framing; draws are taken in a fixed order."""
        return self._drawn[1]

    @functools.cached_property
    def _drawn(self) -> tuple[float, np.random.Generator]:
        rng = np.random.default_rng(keyed_seed("framing", *self.key))
        return float(rng.random()), rng

    def noise(self, shape: Sequence[int]) -> Tensor:
        """See `posterior_noise`."""
        return posterior_noise(*self.key, shape=shape)


def posterior_noise(*sample: str | int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise by which a target is drawn from what the VAE says of its image.

    Args:
        sample: Seed of the run, epoch and position.
        shape: Of one sample's latents.
    """
    return keyed_noise("posterior", *sample, shape=shape)


class Source(Protocol):
    """The pairs of one data set as samples."""

    @property
    def reader(self) -> Listing:
        """The set."""

    def where(self, row: int) -> str:
        """A pair's place, for people."""

    def fetch(self, row: int, draw: Draw) -> Callable[[], Sample]:
        """Read a pair; what comes back makes the sample, its position and epoch left open.

        Both raise `BadPair`.
        """


class Images:
    """Pairs as cut images."""

    def __init__(self, reader: Reader, framing: Framing) -> None:
        self.reader, self.framing = reader, framing

    def where(self, row: int) -> str:
        """See `Source`."""
        return f"{self.reader.name}: {self.reader.where(row)}"

    def fetch(self, row: int, draw: Draw) -> Callable[[], Sample]:
        """See `Source`."""
        decode = self.reader.fetch(row)
        return lambda: self._cut(decode(), draw)

    def _cut(self, pair: ImagePair, draw: Draw) -> Sample:
        back = draw.back and bool(pair.triplet.inverse_instruction)
        text = pair.triplet.inverse_instruction if back else pair.triplet.instruction
        if not text:
            raise BadPair("its instruction is empty")
        cut = plan_cut(
            pair.source.shape[:2],
            self.framing,
            draw.rng if self.framing.is_random else None,
            bucket=draw.bucket,
            may_mirror=self.framing.flip and (self.framing.flip_all or survives_a_mirror(text)),
        )
        source, edited = _tensor(cut.of(pair.source)), _tensor(cut.of(pair.edited))
        if back:
            source, edited = edited, source
        known = [getattr(pair.scores, name, None) for name in SCORES]
        scores = tuple(math.nan if score is None else score for score in known)
        return Sample(-1, -1, text, edited, source, cut.sizes, scores)


def _tensor(image: Pixels) -> Tensor:
    """(H, W, 3) to (3, H, W), the memory left as it is."""
    pixels = image if image.flags.writeable else image.copy()  # torch warns of read-only memory
    return torch.from_numpy(pixels).permute(2, 0, 1)


class Pairs(Dataset[Sample]):
    """The training pairs as an endless sequence: `pairs[position]`.

    Args:
        line: Which pair stands where.
        sources: The data sets, by their number on the line.
        seed: Seed of the run.
        backwards: Share of the samples that are to lead back.
    """

    def __init__(
        self, line: order.Line, sources: Sequence[Source], *, seed: int, backwards: float
    ) -> None:
        self.line, self.sources = line, sources
        self.seed, self.backwards = seed, backwards
        self._latents: dict[tuple[int, int, bool], Sample] = {}

    def __getitem__(self, position: int) -> Sample:
        return self._fetched(position)()

    def __getitems__(self, positions: list[int]) -> Batch:
        """The batch of some positions; what torch's `DataLoader` asks for where it is defined.

        All are read before the first is decoded: after a decoder everything else starts cold.
        """
        fetched = [self._fetched(position) for position in positions]
        return collate((sample() for sample in fetched), len(positions))

    def _fetched(self, position: int) -> Callable[[], Sample]:
        """Read what stands at a position; what comes back makes `self[position]` of it."""
        line, own = self.line.find(position)
        place = line.at(own)
        try:
            fetched = self._fetch(place, position)
        except BadPair as error:
            return functools.partial(self._stand_in, position, error)

        def sample() -> Sample:
            try:
                return fetched()._replace(position=position, epoch=place.epoch)
            except BadPair as error:
                return self._stand_in(position, error)

        return sample

    def _stand_in(self, position: int, error: BadPair) -> Sample:
        """The first pair that can be used in the place of the one that cannot."""
        line, own = self.line.find(position)
        place, passed = line.at(own), list[str]()
        for attempt in range(ATTEMPTS - 1):
            passed.append(self._said(place, error))
            place = line.instead(own, attempt)
            try:
                sample = self._fetch(place, position)()
            except BadPair as another:
                error = another
            else:
                return sample._replace(
                    position=position, epoch=place.epoch, passed_over=tuple(passed)
                )
        raise ValueError(
            f"{ATTEMPTS} pairs in a row cannot be used, the last as {self._said(place, error)}: "
            "mend the set"
        )

    def _said(self, place: order.Place, error: BadPair) -> str:
        return f"{self.sources[place.part].where(place.row)}: {error}"

    def where(self, position: int) -> str:
        """The place of the pair at a position, for people."""
        line, own = self.line.find(position)
        place = line.at(own)
        return self.sources[place.part].where(place.row)

    def _fetch(self, place: order.Place, position: int) -> Callable[[], Sample]:
        draw = Draw(
            key=(self.seed, place.epoch, position), backwards=self.backwards, bucket=place.bucket
        )
        cached = self._latents.get((place.part, place.row, draw.back))
        if cached is not None:
            return lambda: cached
        return self.sources[place.part].fetch(place.row, draw)

    def cache(self, encode: Encode, batch_size: int) -> None:
        """Read and encode every pair once and keep its latents in memory.

        A damaged pair is left out, and passed over when its turn comes.
        """
        directions = (False, True) if self.backwards else (False,)
        keys = [
            (line.part, row, back)
            for back in directions
            for line, _ in self.line.leaves()
            for row in line.groups.rows.tolist()
        ]
        with ProgressBar(total=len(keys), desc="encoding", unit="pair") as bar:
            for start in range(0, len(keys), batch_size):
                some = self._readable(keys[start : start + batch_size])
                if some:
                    batch = collate(some.values(), len(some))
                    parts = [part.cpu() for part in encode(batch.edited, batch.source)]
                    for number, (key, sample) in enumerate(some.items()):
                        edited, source = (part[number] for part in parts)
                        self._latents[key] = sample._replace(edited=edited, source=source)
                bar.update(min(batch_size, len(keys) - start))

    def _readable(self, keys: Sequence[_Key]) -> dict[_Key, Sample]:
        found: dict[_Key, Sample] = {}
        for part, row, back in keys:
            draw = Draw(backwards=float(back))
            with suppress(BadPair):
                found[part, row, back] = self.sources[part].fetch(row, draw)()
        return found

"""The LightningDataModule: from a folder of shards to batches.

Pairs are read one by one through the shards' index, in the order of `order.epoch_rows`; what is
saved for a resume is the position alone.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from data_gen.records import ImagePair, Scores
from data_gen.shards import ShardIndex
from inference.noise import keyed_seed
from training import order
from training.framing import Framing, Pixels, framed

Encode = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Sample(NamedTuple):
    """One pair at one position of the endless line; images or latents as in `Batch`."""

    position: int
    epoch: int
    instruction: str
    edited: Tensor
    source: Tensor
    sizes: tuple[int, ...]
    scores: tuple[float, ...]


class Batch(NamedTuple):
    """Samples side by side.

    The images are (B, 3, H, W) uint8, or, where the whole set was encoded at the start, latents
    (B, 4, h, w). `sizes` is (B, 6), see `framing.Framed`; `scores` is (B, 5), a column a field of
    `Scores`, NaN where one is not known.
    """

    positions: list[int]
    epochs: list[int]
    instructions: list[str]
    edited: Tensor
    source: Tensor
    sizes: Tensor
    scores: Tensor

    def score(self, name: str) -> Tensor:
        """One score of each pair, (B,)."""
        return self.scores[:, [field.name for field in fields(Scores)].index(name)]


def collate(samples: list[Sample]) -> Batch:
    """Put samples side by side.

    Raises:
        ValueError: Their images differ in size.
    """
    shapes = {tuple(image.shape) for s in samples for image in (s.edited, s.source)}
    if len(shapes) > 1:
        raise ValueError(
            f"the images of a batch have the shapes {sorted(shapes)}, expected one: "
            "set data.framing.resolution"
        )
    positions, epochs, instructions, edited, source, sizes, scores = zip(*samples, strict=True)
    return Batch(
        list(positions),
        list(epochs),
        list(instructions),
        torch.stack(edited),
        torch.stack(source),
        torch.tensor(sizes),
        torch.tensor(scores),
    )


class Pairs(Dataset[Sample]):
    """The training pairs as an endless sequence: `pairs[position]`."""

    def __init__(
        self,
        index: ShardIndex,
        groups: order.Groups,
        *,
        seed: int,
        window: int,
        framing: Framing,
        backwards: float,
    ) -> None:
        self.index, self.groups, self.framing = index, groups, framing
        self.seed, self.window, self.backwards = seed, window, backwards
        self._latest: tuple[int, order.Rows] | None = None
        self._latents: dict[tuple[int, bool], Sample] = {}

    def __getitem__(self, position: int) -> Sample:
        epoch, place = divmod(position, len(self.groups))
        row = int(self._rows(epoch)[place])
        rng = np.random.default_rng(keyed_seed("framing", self.seed, epoch, position))
        back = bool(rng.random() < self.backwards)
        sample = self._latents.get((row, back)) or self._read(row, back, rng)
        return sample._replace(position=position, epoch=epoch)

    def key(self, position: int) -> str:
        """Key of the pair at a position."""
        epoch, place = divmod(position, len(self.groups))
        return self.index[int(self._rows(epoch)[place])].key

    def _rows(self, epoch: int) -> order.Rows:
        if self._latest is None or self._latest[0] != epoch:
            rows = order.epoch_rows(self.groups, seed=self.seed, epoch=epoch, window=self.window)
            self._latest = epoch, rows
        return self._latest[1]

    def _read(self, row: int, back: bool, rng: np.random.Generator) -> Sample:
        pair = self.index.read(row)
        cut = framed((pair.source, pair.edited), self.framing, rng)
        source, edited = _tensor(cut.source), _tensor(cut.edited)
        if back and not pair.triplet.inverse_instruction:
            raise ValueError(
                f"{pair.key} has no inverse instruction, so it cannot be learned backwards: "
                "set data.backwards to 0"
            )
        instruction = pair.triplet.instruction
        if back:
            instruction, source, edited = pair.triplet.inverse_instruction, edited, source
        return Sample(-1, -1, instruction, edited, source, cut.sizes, _numbers(pair.scores))

    def cache(self, encode: Encode, batch_size: int) -> None:
        """Read and encode every pair once and keep its latents in memory."""
        rng = np.random.default_rng(0)
        directions = (False, True) if self.backwards else (False,)
        keys = [(row, back) for back in directions for row in self.groups.rows.tolist()]
        with tqdm(total=len(keys), desc="encoding", unit="pair") as bar:
            for start in range(0, len(keys), batch_size):
                some = keys[start : start + batch_size]
                samples = [self._read(row, back, rng) for row, back in some]
                images = collate(samples)
                edited, source = (part.cpu() for part in encode(images.edited, images.source))
                for number, key in enumerate(some):
                    self._latents[key] = samples[number]._replace(
                        edited=edited[number], source=source[number]
                    )
                bar.update(len(some))


def _numbers(scores: Scores | None) -> tuple[float, ...]:
    found = [getattr(scores, field.name, None) for field in fields(Scores)]
    return tuple(math.nan if score is None else score for score in found)


def _tensor(image: Pixels) -> Tensor:
    return torch.tensor(image).permute(2, 0, 1).contiguous()


class PairData(pl.LightningDataModule):
    """Batches of pairs from a folder of shards.

    Attributes:
        position: Global position of the next sample; all there is to save.
        encode: Turns edited and source images into latents; the module gives it before training.
    """

    def __init__(
        self,
        shards: Path,
        batch_size: int = 64,
        framing: Framing = Framing(),  # noqa: B008  (frozen)
        cache_latents: bool = False,
        held_out: float = 0.02,
        backwards: float = 0.0,
        window: int = 4,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        """Take the knobs; nothing is read before `setup`.

        Args:
            shards: Folder of the shards' `index.parquet`; the shards lie below it.
            batch_size: Pairs in a batch over all ranks.
            framing: How images are cut to size.
            cache_latents: Encode the whole set once at the start and keep it in memory. Needs a
                framing without chance.
            held_out: Share of the groups, chosen by hash, that is never trained on.
            backwards: Share of the samples that lead from the edited image back to the source, by
                the inverse instruction.
            window: Number of shards among which the order is mixed.
            num_workers: Processes that read; the order does not depend on it.
            seed: Seed of the run, of which order and framing are functions.

        Raises:
            ValueError: A knob is out of its range, or two exclude each other.
        """
        super().__init__()
        if batch_size < 1 or window < 1 or not 0 <= held_out < 1:
            raise ValueError(
                f"data.batch_size, window and held_out are {batch_size}, {window} and {held_out}; "
                "expected at least 1, at least 1 and 0 to 1"
            )
        if not 0 <= backwards <= 1:
            raise ValueError(f"data.backwards is {backwards}, expected 0 to 1")
        if cache_latents and framing.is_random:
            raise ValueError(
                "data.cache_latents is true, but framing.flip or framing.enlarge_to makes every "
                "epoch's images differ: turn one off"
            )
        self.shards, self.batch_size, self.framing = shards, batch_size, framing
        self.cache_latents, self.held_out, self.backwards = cache_latents, held_out, backwards
        self.window, self.num_workers, self.seed = window, num_workers, seed
        self.position = 0
        self.encode: Encode

    def setup(self, stage: str) -> None:
        """Open the index and split it by group.

        Raises:
            FileNotFoundError: There is no such folder, or no index in it.
            ValueError: A shard is shorter than its index says, or no pair is left to train on.
        """
        self.index = ShardIndex(self.shards)
        self.index.require_complete()
        names, shards = self.index.groups, self.index.shards
        held = [order.is_held_out(name, self.held_out) for name in names]
        rows = [row for row, out in enumerate(held) if not out]
        if not rows:
            raise ValueError(f"{self.shards} holds no pair to train on, of {len(held)} in all")
        groups = order.grouped(rows, [names[row] for row in rows], [shards[row] for row in rows])
        self.pairs = Pairs(
            self.index,
            groups,
            seed=self.seed,
            window=self.window,
            framing=self.framing,
            backwards=self.backwards,
        )
        self._held_out_rows = {names[row]: row for row, out in enumerate(held) if out}

    def held_out_pairs(self, count: int) -> list[ImagePair]:
        """A pair of each of `count` held-out groups, the same ones every time."""
        chosen = sorted(self._held_out_rows)[:count]
        return [self.index.read(self._held_out_rows[group]) for group in chosen]

    def scores(self, name: str) -> tuple[Tensor, Tensor]:
        """A score of all training pairs, and the share of the samples that each pair makes up.

        Returns:
            Twice (N,) float64; the shares sum to 1.

        Raises:
            ValueError: A pair has no such score.
        """
        groups, column = self.pairs.groups, self.index.scores(name)
        found = [column[row] for row in groups.rows.tolist()]
        if missing := found.count(None):
            raise ValueError(
                f"{missing} of the {len(found)} pairs of {self.shards} have no score {name!r}, "
                "expected one for each: leave objective.score out"
            )
        shares = np.repeat(1 / (len(groups) * groups.counts), groups.counts)
        return torch.tensor(found, dtype=torch.float64), torch.from_numpy(shares)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Batches from `position` on, without end.

        Where the knob asks for it and there is something left to train, the set is encoded now.

        Raises:
            ValueError: The batch cannot be shared equally among the ranks.
        """
        trainer = cast(pl.Trainer, self.trainer)
        if self.batch_size % trainer.world_size:
            raise ValueError(
                f"data.batch_size is {self.batch_size}, expected a multiple of the "
                f"{trainer.world_size} ranks"
            )
        if self.cache_latents and trainer.global_step < trainer.max_steps:
            self.pairs.cache(self.encode, self.batch_size)
        return DataLoader(
            self.pairs,
            batch_sampler=_Batches(self, trainer.global_rank, trainer.world_size),
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
        )

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Count a batch when it is trained on, not when a worker has read it ahead."""
        self.position += self.batch_size
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The position, one integer."""
        return {"position": self.position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the position of a checkpoint."""
        self.position = int(state_dict["position"])


class _Batches:
    """What `DataLoader` asks of a batch sampler; without a length, as it never ends."""

    def __init__(self, data: PairData, rank: int, world: int) -> None:
        self.data, self.rank, self.world = data, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        return order.batches(
            self.data.position, size=self.data.batch_size, rank=self.rank, world=self.world
        )

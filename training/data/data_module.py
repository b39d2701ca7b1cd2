"""The LightningDataModule: from data sets to batches.

Pairs are read one by one, in an order that is a function of the seed and the position; what is
saved for a resume is the position alone. `assembly` puts the sets together, `samples` reads.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from data_gen.records import ImagePair
from data_gen.shards.cache import Cache
from inference.backbone import Backbone
from inference.files import folder_digest
from inference.model_names import located
from inference.number_types import (
    Fraction,
    FractionBelowOne,
    Positive,
    PositiveCount,
    Seed,
    SmallCount,
    checks_numbers,
)
from inference.outside import read_text, split_lines
from inference.progress import ProgressBar
from training.data import order
from training.data.assembly import Plan, assemble
from training.data.config import Faulty, Framing, PairSet
from training.data.inspection import SHOWN
from training.data.latent_shards import Latents
from training.data.samples import SCORES, Batch, Encode, Images, Pairs, Sample
from training.data.workers import end_for_parent_alone

PASSED_OVER_FILE: Final = "passed-over.jsonl"


@checks_numbers
class PairData(pl.LightningDataModule):
    """Batches of pairs from one data set or several.

    Attributes:
        position: Global position of the next sample; all there is to save.
        encode: Turns edited and source images into latents; the module gives it before training.
        backbone: The model, whose VAE latents of before training belong to; given likewise.
        heed_requests: Ends the run where it was asked to end; the callback that listens gives it.
    """

    def __init__(
        self,
        shards: str | None = None,
        sets: list[PairSet] | None = None,
        batch_size: PositiveCount = 64,
        framing: Framing = Framing(),  # noqa: B008  (frozen)
        cache_latents: bool = False,
        held_out: FractionBelowOne = 0.02,
        backwards: Fraction = 0.0,
        window: PositiveCount = 4,
        num_workers: SmallCount = 0,
        faulty: Faulty = "refuse",
        cache: Path | None = None,
        cache_gib: Positive = 100.0,
        seed: Seed = 0,
        base: Path | None = None,
    ) -> None:
        """Take the knobs; nothing is read before `setup`.

        The arguments are those of `training.signatures.pair_data`.

        Raises:
            ValueError: A knob is out of its range, or two exclude each other.
        """
        super().__init__()
        _require(
            (shards is None) != (sets is None or not sets),
            "expected data.shards, or data.sets, and not both",
        )
        _require(
            not (cache_latents and framing.is_random),
            "data.cache_latents is true, but framing.flip or framing.enlarge_to makes every "
            "epoch's images differ: turn one off",
        )
        _require(
            not (cache_latents and framing.buckets),
            "data.cache_latents is true, but framing.bucket_multiple makes images of several "
            "sizes: turn one off",
        )
        self.sets = sets or [PairSet(path=str(shards))]
        self.batch_size, self.framing, self.seed = batch_size, framing, seed
        self.cache_latents, self.held_out, self.backwards = cache_latents, held_out, backwards
        self.window, self.num_workers, self.faulty, self.base = window, num_workers, faulty, base
        self.cache = None if cache is None else Cache(folder=cache, limit=int(cache_gib * 2**30))
        self.position = 0
        self._said: set[str] = set()
        self.encode: Encode
        self.backbone: Backbone
        self.heed_requests: Callable[[], None] = lambda: None

    def setup(self, stage: str) -> None:
        """Open the sets, look at every pair, and split them by group.

        Raises:
            FileNotFoundError: There is no such folder, or no index in it.
            ValueError: Pairs or sets cannot be used, each of which is listed, or none is left.
        """
        self.assembled = assemble(self.sets, self._plan())
        for source in self.assembled.sources:
            if isinstance(source, Latents):
                self._require_own(source)
        self.pairs = Pairs(
            self.assembled.line,
            self.assembled.sources,
            seed=self.seed,
            backwards=self.backwards,
        )

    def _plan(self) -> Plan:
        trainer = cast(pl.Trainer, self.trainer)
        backbone = getattr(trainer.lightning_module, "backbone", None)
        return Plan(
            framing=self.framing,
            batch_size=self.batch_size,
            held_out=self.held_out,
            backwards=self.backwards,
            window=self.window,
            seed=self.seed,
            faulty=self.faulty,
            cache=self.cache,
            text_fault=_length_test(backbone),
            side_multiple=1 if backbone is None else backbone.latent_factor,
            output=Path(trainer.default_root_dir),
            quiet=not trainer.is_global_zero,
        )

    def _require_own(self, source: Latents) -> None:
        """Require latents of the VAE of this run's base model, and no second encoding."""
        if self.cache_latents:
            raise ValueError(f"{source.reader.name} holds latents: set data.cache_latents to false")
        if self.base is not None:
            source.reader.require_vae(folder_digest(located(self.base) / "vae"))

    def held_out_pairs(self, count: int) -> list[ImagePair]:
        """A pair of each of `count` held-out groups, the same ones every time."""
        chosen = sorted(self.assembled.held_out)[:count]
        return [self._pair(*self.assembled.held_out[group]) for group in chosen]

    def _pair(self, part: int, row: int) -> ImagePair:
        source = self.assembled.sources[part]
        if isinstance(source, Latents):
            return source.pair(row, self.backbone.decode)
        return cast(Images, source).reader.read(row)

    def scores(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A score of all training pairs, and the share of the samples that each pair makes up.

        Returns:
            Twice (N,) float64; the shares sum to 1.

        Raises:
            ValueError: There is no such score, or pairs do not have it.
        """
        if name not in SCORES:
            raise ValueError(f"objective.score is {name!r}; expected one of {', '.join(SCORES)}")
        found, shares = list[Any](), list[Any]()
        for line, share in self.assembled.line.leaves():
            known = self.assembled.sources[line.part].reader.numbers()
            missing = np.full(int(line.groups.rows.max()) + 1, np.nan)
            found.append(known.get(name, missing)[line.groups.rows])
            counts = line.groups.counts
            shares.append(np.repeat(share / (len(counts) * counts), counts))
        scores = np.concatenate(found)
        if lost := int(np.isnan(scores).sum()):
            raise ValueError(
                f"{lost} of the {len(scores)} pairs have no score {name!r}, expected one for each: "
                "leave objective.score out"
            )
        return torch.from_numpy(scores), torch.from_numpy(np.concatenate(shares))

    def train_dataloader(self) -> DataLoader[Sample]:
        """Batches from `position` on, without end.

        Where the knob asks for it and there is something left to train, the set is encoded now.

        Raises:
            ValueError: The batch cannot be shared equally among the ranks.
            SystemExit: The run was asked to end.
        """
        self.heed_requests()
        trainer = cast(pl.Trainer, self.trainer)
        if self.batch_size % trainer.world_size:
            raise ValueError(
                f"data.batch_size is {self.batch_size}, expected a multiple of the "
                f"{trainer.world_size} ranks"
            )
        if self.cache_latents and trainer.global_step < trainer.max_steps:
            self.pairs.cache(self._encode_unless_asked_to_end, self.batch_size)
        return DataLoader(
            self.pairs,
            batch_sampler=_Batches(self, trainer.global_rank, trainer.world_size),
            num_workers=self.num_workers,
            collate_fn=_as_it_is,  # `Pairs` gives whole batches
            worker_init_fn=end_for_parent_alone,
            pin_memory=torch.cuda.is_available(),
        )

    def _encode_unless_asked_to_end(
        self, edited: torch.Tensor, source: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.heed_requests()
        return self.encode(edited, source)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Count a batch when it is trained on, not when a worker has read it ahead."""
        self.position += self.batch_size
        if batch.passed_over:
            self._note(batch.passed_over)
        if isinstance(self.assembled.sources[0], Latents):
            scale, image_scale = self.backbone.vae.config.scaling_factor, self._image_scale
            return batch._replace(edited=batch.edited * scale, source=batch.source * image_scale)
        return batch

    @property
    def _image_scale(self) -> float:
        return self.backbone.settings.image_latent_scale

    def _note(self, passed_over: Sequence[str]) -> None:
        """Say that a damaged pair was passed over, and write it down for the end."""
        root = Path(cast(pl.Trainer, self.trainer).default_root_dir)
        with (root / PASSED_OVER_FILE).open("a") as file:
            for said in passed_over:
                file.write(json.dumps({"pair": said}) + "\n")
                if said not in self._said:
                    ProgressBar.write(f"passed over: {said}", file=sys.stderr)
        self._said.update(passed_over)

    def teardown(self, stage: str) -> None:
        """Say once more, at the end, what was passed over, in this run or before it was resumed."""
        trainer = cast(pl.Trainer, self.trainer)
        path = Path(trainer.default_root_dir) / PASSED_OVER_FILE
        if not trainer.is_global_zero or not path.is_file():
            return
        pairs = sorted({json.loads(line)["pair"] for line in split_lines(read_text(path))})
        print(f"{len(pairs):,} damaged pairs were passed over, see {path}:")
        for pair in pairs[:SHOWN]:
            print(f"  {pair}")

    def state_dict(self) -> dict[str, Any]:
        """The position, one integer; and which pairs were left out, where some were."""
        left_out = self._left_out
        return {"position": self.position} | ({"left_out": left_out} if left_out else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the position of a checkpoint.

        Raises:
            ValueError: Other pairs are left out now, so that another pair stands at a position.
        """
        if state_dict.get("left_out", "") != self._left_out:
            raise ValueError(
                f"{len(self.assembled.left_out):,} pairs are left out as faulty, expected those "
                "that were left out when this run began: put the data back as they were, or choose "
                "another output folder"
            )
        self.position = int(state_dict["position"])

    @property
    def _left_out(self) -> str:
        """A hash of the pairs left out; empty where there are none."""
        left_out = self.assembled.left_out
        return hashlib.sha256(json.dumps(left_out).encode()).hexdigest() if left_out else ""


def _as_it_is(batch: Any) -> Any:
    return batch


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _length_test(backbone: Backbone | None) -> Callable[[str], str | None]:
    """A test that instructions are not longer than the text encoder reads."""
    if backbone is None:
        return lambda text: None
    limit = backbone.text_length

    def fault(text: str) -> str | None:
        if len(text.encode()) + 2 <= limit:  # a token has at least a byte
            return None
        try:
            backbone.check_lengths([text])
        except ValueError:
            return f"an instruction has more than the {limit} tokens that the text encoder reads"
        return None

    return fault


class _Batches:
    """What `DataLoader` asks of a batch sampler; without a length, as it never ends."""

    def __init__(self, data: PairData, rank: int, world: int) -> None:
        self.data, self.rank, self.world = data, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        return order.batches(
            self.data.position, size=self.data.batch_size, rank=self.rank, world=self.world
        )

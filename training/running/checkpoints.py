"""The checkpoints of a run: written whole or not at all, the latest and the best kept.

They lie in `checkpoints/step-<n>.ckpt` of the run's folder; `last.ckpt` and `best.ckpt` beside it
point to two of them. One is the same file whatever the number of ranks, and whether they shared
the weights among them. It is read with `weights_only`, so that nothing in it is run.
"""

import os
import sys
import zipfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, cast

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback

from inference.files import written_atomically
from inference.number_types import PositiveCount, checks_numbers
from inference.progress import ProgressBar
from training.data.data_module import PairData
from training.running.held_out import HeldOutEdits, HeldOutLoss
from training.running.stopping import Request, StopRequests, exit_code, requeue_job
from training.steps import ends_a_step

FOLDER: Final = "checkpoints"
LAST: Final = "last.ckpt"
BEST: Final = "best.ckpt"
_PIECE: Final = 2**24
"""Bytes read at a time."""


def path_of(run: Path, step: int) -> Path:
    """The checkpoint of a step."""
    return run / FOLDER / f"step-{step:08d}.ckpt"


def found(run: Path) -> list[Path]:
    """All checkpoints of a run, the newest first."""
    last = run / LAST
    old = [last] if last.is_file() and not last.is_symlink() else []  # from when there was but one
    return old + sorted((run / FOLDER).glob("step-*.ckpt"), reverse=True)


def newest_undamaged(run: Path) -> Path:
    """The checkpoint to go on from; damaged ones are named on the way.

    Raises:
        ValueError: All are damaged.
    """
    for path in found(run):
        if (fault := damage(path)) is None:
            return path
        sys.stderr.write(f"warning: {path} is damaged ({fault}): trying the one before\n")
    raise ValueError(f"all checkpoints of {run} are damaged: delete them to start anew")


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint; None where every byte is as it was written.

    `torch.load` looks at no checksum: a flipped bit would be trained on.
    """
    try:
        with (
            zipfile.ZipFile(path) as archive,
            ProgressBar(
                desc=f"checking {path.name}",
                total=sum(member.file_size for member in archive.infolist()),
                unit="B",
                unit_scale=True,
                leave=False,
                delay=2,
            ) as bar,
        ):
            for member in archive.infolist():
                with archive.open(member) as file:
                    while piece := file.read(_PIECE):
                        bar.update(len(piece))
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError) as error:
        return str(error)
    return None


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all.

    Attributes:
        failure: Why the latest could not be written. It is not raised, as the other ranks would
            then wait for this one.
    """

    failure: OSError | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write to a temporary name, fsync, rename."""
        self.failure = None
        try:
            with written_atomically(Path(path)) as temporary, temporary.open("wb") as file:
                _save(checkpoint, file)
        except OSError as error:
            self.failure = error


def _save(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:  # how torch says that a write fell short
        if not isinstance(error.__context__, OSError):
            raise
        raise error.__context__ from error


@checks_numbers
class Checkpoints(Callback):
    """Saves every so often, at a new best held-out loss, on request, and at the end of a run.

    On SIGTERM the step is finished and saved, and the process exits with 143; on Ctrl-C likewise,
    with 130, and at once on a second one. On SIGUSR1 in a SLURM job the job is also requeued. Where
    a disk is full, the checkpoints before stay and the run goes on. Lightning's ModelCheckpoint is
    not used because after a resume it may save in the middle of an accumulated step, whose
    gradients are then lost.
    """

    def __init__(self, every: PositiveCount = 100, keep: PositiveCount = 2) -> None:
        """Take the knobs.

        The arguments are those of `training.signatures.checkpoints`.

        Raises:
            ValueError: One is less than 1.
        """
        self.every, self.keep = every, keep
        self._best: HeldOutLoss | None = None
        self._saved = 0
        self._requests = StopRequests()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """See to how files are written and what ranks are asked, before anything is restored."""
        trainer.strategy.checkpoint_io = WholeFiles()
        self._requests.prepare()
        data = cast(PairData, cast(Any, trainer).datamodule)
        data.heed_requests = partial(self._heed_requests, trainer)

    def _heed_requests(self, trainer: pl.Trainer) -> None:
        """Listen, and leave if any rank was asked to; before the first step nothing is lost."""
        self._requests.listen()
        if request := self._requests.agreed():
            self._leave(trainer, request)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Listen no more: a Ctrl-C while the editor is exported ends the run."""
        self._requests.close()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what is saved already: the step that a run goes on from, or that it starts at."""
        self._saved = trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save where a run ends before its last step, by `trainer.max_time`.

        Raises:
            OSError: The checkpoint cannot be written.
        """
        if trainer.global_step != self._saved:
            self._save(trainer, None, must=True)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save where it is time to, at the last step, or where any rank was asked to end.

        Raises:
            OSError: A checkpoint that the run must not end without cannot be written.
            SystemExit: The run was asked to end, and is saved.
        """
        if not ends_a_step(trainer, batch_idx):
            return
        request = self._requests.agreed()
        must = bool(request) or trainer.global_step == trainer.max_steps
        better = self._better(trainer)
        if must or better or trainer.global_step % self.every == 0:
            self._save(trainer, better, must=must)
        if request:
            self._leave(trainer, request)

    def _leave(self, trainer: pl.Trainer, request: Request) -> NoReturn:
        if request == Request.REQUEUE and trainer.is_global_zero:
            requeue_job()
        if request == Request.INTERRUPT and trainer.is_global_zero:
            step = (
                f"step {trainer.global_step:,} is saved" if self._saved else "no step is done yet"
            )
            ProgressBar.write(f"{step}; run the same command to go on", file=sys.stderr)
        raise SystemExit(exit_code(trainer, request))

    def _better(self, trainer: pl.Trainer) -> HeldOutLoss | None:
        """The held-out loss of this step, if it was looked at and is the lowest so far."""
        latest = next(
            (each.latest for each in _callbacks(trainer) if isinstance(each, HeldOutEdits)), None
        )
        if latest is None or latest.step != trainer.global_step:
            return None
        return latest if self._best is None or latest.loss < self._best.loss else None

    def _save(self, trainer: pl.Trainer, better: HeldOutLoss | None, *, must: bool) -> None:
        run = Path(trainer.default_root_dir)
        before, self._best = self._best, better or self._best
        trainer.save_checkpoint(path_of(run, trainer.global_step))
        failure = cast(WholeFiles, trainer.strategy.checkpoint_io).failure
        reason = trainer.strategy.broadcast("" if failure is None else str(failure))
        if reason:
            self._best = before
            said = f"step {trainer.global_step} is not saved, {reason}"
            if must:
                raise OSError(said)
            if trainer.is_global_zero:
                ProgressBar.write(f"warning: {said}; those before stay", file=sys.stderr)
            return
        self._saved = trainer.global_step
        if trainer.is_global_zero:
            self._tidy(run, trainer.global_step)

    def _tidy(self, run: Path, step: int) -> None:
        """Point to the last and to the best, and delete what is neither nor among the latest."""
        _point(run / LAST, path_of(run, step))
        kept = set(sorted((run / FOLDER).glob("step-*.ckpt"))[-self.keep :])
        kept.add(path_of(run, step))
        if self._best is not None and path_of(run, self._best.step).exists():
            _point(run / BEST, path_of(run, self._best.step))
            kept.add(path_of(run, self._best.step))
        torn = (run / FOLDER).glob(".*.tmp")  # of a process killed as it wrote
        for path in {*(run / FOLDER).glob("step-*.ckpt"), *torn} - kept:
            path.unlink()

    def state_dict(self) -> dict[str, Any]:
        """The best held-out loss so far, and its step."""
        return {} if self._best is None else asdict(self._best)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the best of a checkpoint."""
        self._best = HeldOutLoss(**state_dict) if state_dict else None


def _callbacks(trainer: pl.Trainer) -> list[Callback]:
    return cast(Any, trainer).callbacks  # type: ignore[no-any-return]


def _point(link: Path, target: Path) -> None:
    """Let a link point to a file of its own folder or one below, from one moment to the next."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.relative_to(link.parent))
    temporary.replace(link)

"""Requests to end a run: signals that are looked at between steps, never acted upon within one.

Lightning's own handlers save or talk to other ranks from inside the signal handler, in the middle
of whatever the process is doing, and leave with exit code 0.
"""

import os
import signal
import subprocess
import sys
import time
from enum import IntEnum
from types import FrameType
from typing import Any, Final

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.utilities import rank_zero_only
from torch import distributed

TERMINATED: Final = 128 + signal.SIGTERM
"""Exit code of a process that ends because it was asked to."""
INTERRUPTED: Final = 128 + signal.SIGINT
"""Exit code of a process that ends because of Ctrl-C."""

_SAME_PRESS_S: Final = 1.0
"""Seconds in which a second SIGINT is the same Ctrl-C: torchrun passes on what a terminal sends."""


class Request(IntEnum):
    """What was asked for; the greater one counts."""

    NONE = 0
    INTERRUPT = 1
    STOP = 2
    REQUEUE = 3


class StopRequests:
    """Listens for SIGTERM and Ctrl-C, and in a SLURM job for SIGUSR1, which asks to be requeued.

    A second Ctrl-C ends the process at once.
    """

    def __init__(self) -> None:
        self._asked = Request.NONE
        self._interrupted: float | None = None
        self._former: Any = None

    def prepare(self) -> None:
        """Take SIGUSR1 before Lightning does, and open a line to the other ranks.

        The line is one of CPUs: asking a GPU would wait for all that it still has to do.
        """
        if "SLURM_JOB_ID" in os.environ:
            signal.signal(signal.SIGUSR1, self._ask)
        if distributed.is_initialized():
            self._ranks = distributed.new_group(backend="gloo")

    def listen(self) -> None:
        """Take SIGTERM over from Lightning, which restores the original handler at the end."""
        signal.signal(signal.SIGTERM, self._ask)
        former = signal.signal(signal.SIGINT, self._interrupt)
        if former != self._interrupt:
            self._former = former

    def close(self) -> None:
        """Let Ctrl-C do again what it did."""
        if self._former is not None:
            signal.signal(signal.SIGINT, self._former)

    def _ask(self, number: int, where: FrameType | None) -> None:
        asked = Request.STOP if number == signal.SIGTERM else Request.REQUEUE
        self._asked = max(self._asked, asked)

    def _interrupt(self, number: int, where: FrameType | None) -> None:
        now = time.monotonic()
        if self._interrupted is None:
            self._interrupted = now
            self._asked = max(self._asked, Request.INTERRUPT)
            _say("interrupted: ending after this step; press Ctrl-C again to end at once")
        elif now - self._interrupted > _SAME_PRESS_S:
            _say("interrupted again: what was done since the last checkpoint is lost")
            os._exit(INTERRUPTED)  # a politer exit would wait for the device and for other ranks

    def agreed(self) -> Request:
        """What any rank was asked for; all ranks call this together."""
        if not distributed.is_initialized():
            return self._asked
        asked = torch.tensor(int(self._asked))
        distributed.all_reduce(asked, distributed.ReduceOp.MAX, group=self._ranks)
        return Request(int(asked))


def _say(sentence: str) -> None:
    """Write from a signal handler, which may have come in the middle of a write to a stream."""
    if getattr(rank_zero_only, "rank", 0) == 0:  # set when Lightning is imported
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{sentence}\n".encode())


def requeue_job() -> None:
    """Ask SLURM to put this job back into its queue; say so where it will not."""
    environment = os.environ
    job = environment["SLURM_JOB_ID"]
    if array := environment.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{environment['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        sys.stderr.write(
            f"warning: job {job} could not be requeued ({str(reason).strip()}): submit it again, "
            "and it goes on from its last checkpoint\n"
        )


def exit_code(trainer: pl.Trainer, request: Request) -> int:
    """143, or 130 after Ctrl-C; 0 for processes that Lightning's own launcher started.

    Of those, one that leaves with another code makes the launcher kill the first process.
    """
    own = isinstance(getattr(trainer.strategy, "cluster_environment", None), LightningEnvironment)
    if own and trainer.local_rank:
        return 0
    return INTERRUPTED if request == Request.INTERRUPT else TERMINATED

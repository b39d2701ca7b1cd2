"""Requests to end a run: signals that are looked at between steps, never acted upon within one.

Lightning's own handlers save or talk to other ranks from inside the signal handler, in the middle
of whatever the process is doing, and leave with exit code 0.
"""

import os
import signal
import subprocess
import sys
from enum import IntEnum
from types import FrameType
from typing import Final

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch import distributed

TERMINATED: Final = 128 + signal.SIGTERM
"""Exit code of a process that ends because it was asked to."""


class Request(IntEnum):
    """What was asked for; the greater one counts."""

    NONE = 0
    STOP = 1
    REQUEUE = 2


class StopRequests:
    """Listens for SIGTERM, and in a SLURM job for SIGUSR1, which asks to be requeued."""

    def __init__(self) -> None:
        self._asked = Request.NONE

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

    def _ask(self, number: int, where: FrameType | None) -> None:
        asked = Request.STOP if number == signal.SIGTERM else Request.REQUEUE
        self._asked = max(self._asked, asked)

    def agreed(self) -> Request:
        """What any rank was asked for; all ranks call this together."""
        if not distributed.is_initialized():
            return self._asked
        asked = torch.tensor(int(self._asked))
        distributed.all_reduce(asked, distributed.ReduceOp.MAX, group=self._ranks)
        return Request(int(asked))


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


def exit_code(trainer: pl.Trainer) -> int:
    """143; 0 for processes that Lightning's own launcher started.

    Of those, one that leaves with another code makes the launcher kill the first process.
    """
    own = isinstance(getattr(trainer.strategy, "cluster_environment", None), LightningEnvironment)
    return 0 if own and trainer.local_rank else TERMINATED

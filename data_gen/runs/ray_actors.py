"""Workers that are actors of a Ray cluster, one a GPU or one for some CPUs.

It attaches to a cluster that runs and starts none; nothing of it opens a dashboard. All nodes see
the output folder, and local model folders, under the paths they have here: a shared file system.
The package is installed on every node. Ray itself replaces nothing here and repeats nothing: the
driver does.
"""

import logging
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from data_gen.runs.receipts import Outcome, Receipt, Unit
from data_gen.runs.workers import Crew, Died, Made, Make, Message, Raised, Ready, Start, WorkerError
from inference.progress import ProgressBar

PATIENCE_S = 60.0
"""Seconds after which one is told, again and again, that no worker has started."""


@dataclass(frozen=True, kw_only=True)
class RayActors:
    """The executor of a cluster.

    Attributes:
        address: Of the cluster; ``auto`` takes RAY_ADDRESS, or the one that runs on this machine.
        workers: Actors; None for one a GPU, in a cluster without GPUs as many as its CPUs allow.
        threads: Threads an actor computes with, which are the CPUs that it asks for.
    """

    address: str = "auto"
    workers: int | None = None
    threads: int | None = None

    def __call__(self, start: Start, units: Sequence[Unit]) -> Made:
        """Make the units; see `Crew.work` for what it raises.

        Raises:
            ConnectionError: There is no cluster at the address.
            WorkerError: The cluster has neither a GPU nor the CPUs of one actor.
        """
        with _attached(self.address):
            resources: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            gpus, threads = int(resources.get("GPU", 0)), self.threads or 1
            workers = self.workers or gpus or int(resources.get("CPU", 0)) // threads
            if not workers:
                raise WorkerError(
                    f"the Ray cluster at {self.address} has neither a GPU nor {threads} CPUs for "
                    f"an actor; it has {dict(resources)}"
                )
            wanted = {"num_cpus": threads, "num_gpus": 1 if gpus else 0}
            yield from Crew(staff=_Recruiter(start, threads, wanted), size=workers).work(units)


@contextmanager
def _attached(address: str) -> Iterator[None]:
    """Be connected to a cluster, unless the program is already."""
    if ray.is_initialized():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    with suppress(ValueError):  # only the main thread has handlers, and only there Ray sets its own
        signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


class _Recruiter:
    """Starts actors, wherever Ray finds room."""

    def __init__(self, start: Start, threads: int, wanted: Mapping[str, float]) -> None:
        # Ray is to restart and repeat nothing: a unit must not be made by two at a time.
        self._kind: Any = ray.remote(_Actor).options(**wanted, max_restarts=0, max_task_retries=0)
        self._start, self._threads = start, threads

    def hire(self, place: int) -> "_Hired":
        return _Hired(self._kind.remote(self._start, self._threads))

    def listen(self, workers: Sequence["_Hired"]) -> list[tuple["_Hired", Message]]:
        by_stream = {worker.stream: worker for worker in workers if worker.stream is not None}
        spoke, _ = ray.wait(list(by_stream), timeout=PATIENCE_S)
        if not spoke and not any(worker.started for worker in workers):
            ProgressBar.write(
                f"none of {len(workers)} workers has started yet; `ray status` says whether the "
                "cluster has room for them",
                file=sys.stderr,
            )
        heard = [(by_stream[stream], by_stream[stream].hear()) for stream in spoke]
        return [(worker, message) for worker, message in heard if message is not None]


class _Actor:
    """A worker, on some node of the cluster."""

    def __init__(self, start: Start, threads: int) -> None:
        self._start, self._threads = start, threads
        self._make: Make | None = None

    def start(self) -> Iterator[Ready]:
        # Ray sets OMP_NUM_THREADS by rules of its own, and bytes move with the number of threads.
        torch.set_num_threads(self._threads)
        self._make = self._start()
        yield Ready()

    def make(self, unit: Unit) -> Iterator[Outcome | Receipt]:
        assert self._make is not None
        yield from self._make(unit)


class _Hired:
    """The driver's end of a worker.

    Attributes:
        stream: What it is saying at present; None while it has nothing to do.
        started: Whether it has ever been given a unit.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self.stream: Any = actor.start.remote()
        self.started = False

    def make(self, unit: Unit) -> None:
        self.started = True
        self.stream = self._actor.make.remote(unit)

    def hear(self) -> Message | None:
        """Its next message; None at the end of a unit."""
        try:
            message: Message = ray.get(next(self.stream))
        except StopIteration:
            self.stream = None
            return None
        except RayTaskError as error:
            return Raised(error.cause)
        except RayError as error:
            return Died(" ".join(str(error).split())[:300])
        return message

    def end(self) -> None:
        ray.kill(self._actor)

"""Workers that are processes of this machine, one a GPU or several that share the processor.

They are spawned, not forked: CUDA does not survive a fork. Each watches its driver and ends with
it, also where the driver is killed.
"""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

import torch

from data_gen.runs.receipts import Unit
from data_gen.runs.workers import Crew, Died, Made, Message, Start, messages

ENDING_S = 5.0
"""Seconds that a worker has to end before it is killed."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The executor of one machine.

    Attributes:
        workers: Processes; None for one a GPU, without GPUs one a thread.
        threads: Threads a process computes with; None for an equal share of those that this
            process would use.
    """

    workers: int | None = None
    threads: int | None = None

    def __call__(self, start: Start, units: Sequence[Unit]) -> Made:
        """Make the units; see `Crew.work` for what it raises."""
        gpus = _visible_gpus()
        workers = self.workers or len(gpus) or torch.get_num_threads()
        threads = self.threads or max(1, torch.get_num_threads() // workers)
        return Crew(staff=_Spawner(start, threads, gpus), size=workers).work(units)


def _visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name][: torch.cuda.device_count()]
    return [str(number) for number in range(torch.cuda.device_count())]


class _Spawner:
    """Starts processes; worker n gets GPU n, counting round."""

    def __init__(self, start: Start, threads: int, gpus: Sequence[str]) -> None:
        self._start, self._threads, self._gpus = start, threads, gpus

    def hire(self, place: int) -> "_Process":
        gpu = self._gpus[place % len(self._gpus)] if self._gpus else None
        return _Process(self._start, self._threads, gpu)

    def listen(self, workers: Sequence["_Process"]) -> list[tuple["_Process", Message]]:
        by_pipe = {worker.pipe: worker for worker in workers}
        heard = connection.wait(list(by_pipe))
        return [(worker, worker.hear()) for pipe, worker in by_pipe.items() if pipe in heard]


class _Process:
    """The driver's end of a worker."""

    def __init__(self, start: Start, threads: int, gpu: str | None) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_work, args=(theirs, start, threads, gpu), daemon=True
        )
        self._process.start()
        theirs.close()  # so that the pipe ends with the worker

    def make(self, unit: Unit) -> None:
        with suppress(OSError):  # it has died, which the next message will say
            self.pipe.send(unit)

    def hear(self) -> Message:
        try:
            message: Message = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            return Died(_last_words(self._process.exitcode))
        return message

    def end(self) -> None:
        self.pipe.close()
        self._process.terminate()
        self._process.join(ENDING_S)
        self._process.kill()
        self._process.join()


def _last_words(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"its process was ended by {signal.Signals(-exit_code).name}"
    return f"its process ended with exit code {exit_code}"


def _work(pipe: "Connection[Message, Unit]", start: Start, threads: int, gpu: str | None) -> None:
    """Be a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the driver ends us
    threading.Thread(target=_end_with_driver, daemon=True).start()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    for message in messages(start, threads, _received(pipe)):
        pipe.send(message)


def _received(pipe: "Connection[Message, Unit]") -> Iterator[Unit]:
    while True:
        try:
            yield pipe.recv()
        except EOFError:
            return


def _end_with_driver() -> None:
    driver = parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)  # the models' threads would keep a politer exit waiting

"""Runs of `python -m training` in processes of their own, without importing everything anew.

    python forking.py PLAN.json

The plan is a list of runs, one after the other; each has the keys of `Run`. Prints the exit
statuses of each run's processes, as JSON.
"""

import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import training.fit
import training.module
from training.__main__ import main


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of the command.

    Attributes:
        arguments: Of the command line.
        order: A file to which the positions of each batch are appended; of rank 1 in `<order>.1`.
        ranks: Number of processes, as torchrun would start them.
        kill_at: SIGKILL takes a process in the step on this position.
        kill_at_save: SIGKILL takes the process when half of its so-manyth checkpoint is written.
        stop_at: The process in the step on this position and those it started get `stop_by`.
        stop_by: Name of a signal.
    """

    arguments: list[str]
    order: str
    ranks: int = 1
    kill_at: int | None = None
    kill_at_save: int | None = None
    stop_at: int | None = None
    stop_by: str = "TERM"


def spy_on_draws(run: Run, rank: int) -> None:
    """Every batch is drawn for: there its positions are written down, and it is killed."""
    original: Callable = training.module.draw
    path = Path(f"{run.order}.{rank}" if rank else run.order)

    def spying(**named):
        with path.open("a") as file:
            file.write(json.dumps(named["positions"]) + "\n")
        if run.kill_at in named["positions"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if run.stop_at in named["positions"]:
            signal_group(run.stop_by)
        return original(**named)

    training.module.draw = spying


def kill_in_save(number: int) -> None:
    """Let SIGKILL take this process in the middle of its `number`-th checkpoint."""
    original, calls = torch.save, iter(range(1, number + 1))

    def dying(content, file):
        if next(calls) < number:
            original(content, file)
            return
        whole = io.BytesIO()
        original(content, whole)
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    torch.save = dying


def signal_group(name: str) -> None:
    """As SLURM and a terminal do: all processes of the group get the signal, from outside."""
    kill = ["kill", f"-{name}", "--", f"-{os.getpgrp()}"]
    subprocess.run(kill, check=True, start_new_session=True)


def torchrun_variables(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun would say to a rank."""
    return {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def carry_out(run: Run) -> list[int]:
    """Fork a process a rank; returns their exit codes, negative for signals."""
    port = free_port()
    processes = [os.fork() or become(run, rank, port) for rank in range(run.ranks)]
    statuses = [os.waitpid(process, 0)[1] for process in processes]
    return [os.waitstatus_to_exitcode(status) for status in statuses]


def become(run: Run, rank: int, port: int) -> int:
    """Be a rank, and never return."""
    code = 1
    os.setpgid(0, 0)
    try:
        if run.ranks > 1:
            os.environ.update(torchrun_variables(rank, run.ranks, port))
            training.fit.rank_zero_only.rank = rank  # Lightning asked when it was imported
        spy_on_draws(run, rank)
        if run.kill_at_save is not None:
            kill_in_save(run.kill_at_save)
        sys.stdout = sys.stderr
        main(run.arguments)
        code = 0
    except SystemExit as ending:
        code = int(ending.code or 0)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.argv[1:], (path,) = [], sys.argv[1:]  # Lightning warns of two command lines
    plan = [Run(**run) for run in json.loads(Path(path).read_text())]
    print(json.dumps([carry_out(run) for run in plan]))

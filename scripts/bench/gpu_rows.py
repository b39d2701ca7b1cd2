"""Rows of `gpu.py`: what a case found, written to a file as it is found, and the table of them.

The file is replaced as a whole after every row, so that it is valid JSON with all finished rows
whenever the process ends.
"""

import gc
import importlib.metadata
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from inference.files import written_atomically

Status = Literal["right", "wrong", "failed", "not run"]

OWN = frozenset({"inference", "data_gen", "training"})
"""A module of these that is missing is a fault, not a package that is not installed."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and how large the cases run.

    Attributes:
        device: Of what is tested; the reference is always the CPU's.
        rehearse: Whether all is tiny, to be tried without a GPU.
        script: diffusers' `train_instruct_pix2pix.py`, if it is at hand.
    """

    device: torch.device
    rehearse: bool
    script: Path | None = None

    @property
    def accelerator(self) -> str:
        """As Lightning calls it."""
        return "gpu" if self.device.type == "cuda" else "cpu"

    def synchronise(self) -> None:
        """Wait for all that the device was given to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """How long some work takes, to its end on the device."""
        self.synchronise()
        begun = time.perf_counter()
        work()
        self.synchronise()
        return time.perf_counter() - begun


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a case found.

    Attributes:
        value: The number.
        unit: What it is a number of.
        bound: What it may be at most; None where any number is right.
        note: What else there is to say.
    """

    value: float
    unit: str
    bound: float | None = None
    note: str = ""

    @property
    def is_right(self) -> bool:
        """Within the bound; a number that is none is not."""
        if self.bound is None:
            return self.value == self.value
        return self.value <= self.bound


class NotRun(Exception):
    """A case lacks something; the message says what."""


class Case(NamedTuple):
    """A row to be: its name, and what finds it out."""

    name: str
    run: Callable[[], Found]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table."""

    name: str
    status: Status
    value: float | None = None
    unit: str = ""
    bound: float | None = None
    note: str = ""
    seconds: float = 0.0
    peak_gib: float | None = None


class Report:
    """The rows of one part and their file.

    Args:
        path: The file.
        part: Name of the part.
        machine: What runs it.
        minutes: After so many no further case is begun.
    """

    def __init__(self, path: Path, part: str, machine: Machine, minutes: float) -> None:
        self.path, self.part, self.machine = path, part, machine
        self.end = time.monotonic() + 60 * minutes
        self.rows: list[Row] = []
        self.write()

    def take(self, cases: Iterable[Case]) -> None:
        """Run cases one after the other."""
        for case in cases:
            if time.monotonic() > self.end:
                row = Row(name=case.name, status="not run", note="no time was left")
            else:
                row = run(case, self.machine)
            self.rows.append(row)
            self.write()
            print(markdown(row), file=sys.stderr, flush=True)

    @property
    def is_right(self) -> bool:
        """Whether all that ran was right."""
        return all(row.status in ("right", "not run") for row in self.rows)

    def write(self) -> None:
        """Replace the file by one with all rows so far."""
        content = {
            "part": self.part,
            "machine": about(self.machine),
            "rows": [asdict(row) for row in self.rows],
        }
        with written_atomically(self.path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def run(case: Case, machine: Machine) -> Row:
    """A case's row, whatever becomes of it."""
    release(machine)
    begun = time.monotonic()
    try:
        found = case.run()
        row = Row(
            name=case.name,
            status="right" if found.is_right else "wrong",
            value=found.value if found.value == found.value else None,
            unit=found.unit,
            bound=found.bound,
            note=found.note,
        )
    except NotRun as error:
        row = Row(name=case.name, status="not run", note=str(error))
    except Exception as error:  # one row's fault is no reason to lose the others
        if name := missing_package(error):
            row = Row(name=case.name, status="not run", note=f"no {name}")
        else:
            traceback.print_exc()
            said = str(error).strip().splitlines() or [""]
            row = Row(name=case.name, status="failed", note=f"{type(error).__name__}: {said[0]}")
    return Row(
        **asdict(row) | {"seconds": round(time.monotonic() - begun, 2), "peak_gib": peak(machine)}
    )


def missing_package(error: BaseException) -> str | None:
    """The package that is not installed, where this is why something failed."""
    for cause in chain(error):
        if isinstance(cause, ImportError) and cause.name:
            package = cause.name.partition(".")[0]
            if package not in OWN and not is_installed(package):
                return package
    return None


def is_installed(package: str) -> bool:
    """Whether a package can be imported."""
    try:
        __import__(package)
    except ImportError:
        return False
    return True


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def release(machine: Machine) -> None:
    """Let go of what the last case left, and count memory anew."""
    gc.collect()
    if machine.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(machine.device)


def peak(machine: Machine) -> float | None:
    """GiB of the device's memory that tensors took at most."""
    if machine.device.type != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated(machine.device) / 2**30, 2)


def about(machine: Machine) -> dict[str, Any]:
    """What the rows were measured on."""
    packages = ("torch", "diffusers", "transformers", "pytorch-lightning", "peft")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": device_name(machine.device),
        "rehearsal": machine.rehearse,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def device_name(device: torch.device) -> str:
    """The card, or the processor and its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} threads, {platform.machine()}"


def version(package: str) -> str | None:
    """The installed version of a package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def table(content: dict[str, Any]) -> str:
    """The Markdown table of a file of rows."""
    known = ", ".join(f"{name} {value}" for name, value in content["machine"].items() if value)
    lines = [
        f"{content['part']}: {known}",
        "",
        "| row | | found | at most | peak GiB | s | note |",
        "|---|---|---|---|---|---|---|",
        *(markdown(Row(**row)) for row in content["rows"]),
    ]
    return "\n".join(lines)


def markdown(row: Row) -> str:
    """One line of the table."""
    found = "" if row.value is None else f"{row.value:.4g} {row.unit}".strip()
    bound = "" if row.bound is None else f"{row.bound:g}"
    memory = "" if row.peak_gib is None else f"{row.peak_gib:.1f}"
    cells = (row.name, row.status, found, bound, memory, f"{row.seconds:.1f}", row.note)
    return f"| {' | '.join(cells)} |"

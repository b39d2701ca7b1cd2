"""Does the project work on this GPU, in all its parts, and how fast?

    python scripts/bench/gpu.py --part equality     # GPU against CPU
    python scripts/bench/gpu.py --part features     # each feature against the plain way
    python scripts/bench/gpu.py --part speed        # at Stable Diffusion 1.5's shape
    python scripts/bench/gpu.py --part all --rehearse   # the same code on a CPU, in tiny shapes

For a machine with a CUDA GPU and PyTorch on which nothing can be fetched, and where the project
need not be installed: a row that needs a package which is missing says so, and the others run. A
part takes at most some eight minutes. Its rows are in `OUTPUT/gpu-PART.json` as soon as they are
known, and at the end in a table for `RESULTS.md`. The exit code is 0 where all that ran was right.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts" / "bench")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic runs ask for it

import inference  # noqa: E402, F401  # isort: skip  the torchvision guard, before all else

import json  # noqa: E402

import torch  # noqa: E402
from gpu_rows import Case, Found, Machine, Report, table  # noqa: E402

PARTS = ("equality", "features", "speed")
MINUTES = 7.0
"""After which a part begins no further row; one may take a minute."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts asked for; 0 where all that ran was right, else 1."""
    options = parse(arguments)
    device = torch.device("cpu" if options.rehearse else "cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        print("error: there is no CUDA GPU; --rehearse runs on a CPU", file=sys.stderr)
        return 1
    machine = Machine(device=device, rehearse=options.rehearse, script=options.script)
    parts = PARTS if options.part == "all" else (options.part,)
    options.output.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)  # models and recipes are named from here
    reports = []
    for part in parts:
        path = options.output / f"gpu-{part}.json"
        report = Report(path, part, machine, options.minutes)
        report.take(case for case in cases_of(part, machine) if is_wanted(case, options.only))
        print(table(json.loads(path.read_text(encoding="utf-8"))), end="\n\n")
        reports.append(report)
    return 0 if all(report.is_right for report in reports) else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; by the standard library, as nothing else may be installed."""
    about, _, more = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all", help="what to run")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, in tiny shapes")
    parser.add_argument("--output", type=Path, default=Path("out/gpu"), help="folder of the rows")
    parser.add_argument("--only", default="", help="rows with one of these, a;b, in their name")
    parser.add_argument("--script", type=Path, help="diffusers' train_instruct_pix2pix.py")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="a part begins no row after these"
    )
    options = parser.parse_args(arguments)
    options.output = options.output.absolute()
    return options


def is_wanted(case: Case, only: str) -> bool:
    """Whether a row's name has one of some parts in it."""
    return any(part in case.name for part in only.split(";"))


def cases_of(part: str, machine: Machine) -> Iterator[Case]:
    """The rows of a part; where it cannot even be imported, one that says why."""
    try:
        cases: Callable[[Machine], Iterator[Case]] = import_module(f"gpu_{part}").cases
    except ImportError as error:
        yield Case(part, raising(error))
    else:
        yield from cases(machine)


def raising(error: ImportError) -> Callable[[], Found]:
    """A case that fails as its import did."""

    def fail() -> Found:
        raise error

    return fail


if __name__ == "__main__":
    sys.exit(main())

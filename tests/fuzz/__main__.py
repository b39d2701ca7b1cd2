"""Read thousands of inputs of each kind and print what it took.

    python -m tests.fuzz --count 2000
    python -m tests.fuzz --count 2000 --only pairs --seed 7

A reader's fault ends a kind with the smallest input that shows it; the exit code is then 1.
"""

import inference  # noqa: F401  # isort: skip (first: it repairs torchvision)

import argparse
import sys
import tempfile
import traceback
from pathlib import Path

from tests.fuzz.ground import Ground
from tests.fuzz.kinds import kinds
from tests.fuzz.running import fuzz


def main() -> int:
    """Run all kinds, or one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=2000, help="inputs a kind")
    parser.add_argument("--only", default="", help="the kinds whose names have this in them")
    parser.add_argument("--seed", type=int, default=0, help="other inputs; 0 gives the tests' own")
    options = parser.parse_args()
    faults = 0
    print("| kind | inputs | slowest, CPU s | grown by, MiB |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        ground = Ground.make(Path(name) / "ground")
        for kind in kinds(ground):
            if options.only not in kind.name:
                continue
            try:
                found = fuzz(kind, ground, options.count, Path(name), start=options.seed)
            except Exception:
                traceback.print_exc()
                faults += 1
                print(f"| {kind.name} | a fault | | |", flush=True)
            else:
                grown = found.grown_kib / 1024
                print(f"| {kind.name} | {found.count} | {found.slowest:.2f} | {grown:.0f} |")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())

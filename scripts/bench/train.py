"""How fast is training beside diffusers' own script, and beside the network alone?

    python scripts/bench/train.py --script train_instruct_pix2pix.py --data out/shapes/data
    python scripts/bench/train.py --script train_instruct_pix2pix.py --base sd15 --batch 1

`train_instruct_pix2pix.py` is the file of that name in `examples/` of diffusers, downloaded by you.
Everyone gets the same base, the same JPEG files, batch, learning rate, clipping, dropout and moving
average, and takes turns, a process a turn. Both trainers log every step to TensorBoard, and the
times in those files are what is compared, from the step on that `--skip` says. The ceilings do in a
bare loop what cannot be left out: forward, backward and fused AdamW of the UNet, and the same with
the encoders. Prints tables for `RESULTS.md`. A quarter of an hour on 2 cores for either base.
"""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

import numpy as np
import torch
from jsonargparse import auto_cli
from loader import write_set
from stable_diffusion import save_sd15
from tables import header, row
from train_contestants import CONTESTANTS, Turn, make_latents
from train_set import Job, write_parquet

from inference.shapes import MODELS


def main(
    script: Path,
    base: Path = MODELS / "stable-diffusion",
    data: Path | None = None,
    resolution: int | None = None,
    batch: int = 32,
    steps: int = 60,
    skip: int = 10,
    rounds: int = 3,
    precision: str = "32-true",
    only: str = "",
) -> None:
    """Let everyone train in turn.

    Args:
        script: diffusers' trainer.
        base: Diffusers folder, or `sd15` for Stable Diffusion 1.5's shape with random weights.
        data: Folder of shards; by default photographs' spectra at `resolution`.
        resolution: Side of the images; by default 64 for the shapes and 256 otherwise.
        batch: Pairs a step.
        steps: Steps a turn, of which the last is not counted: it holds the checkpoint.
        skip: Of those, steps at the start that are not counted.
        rounds: Turns of each.
        precision: `32-true` or `bf16-mixed`.
        only: Contestants to run, with semicolons between; empty runs all.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if str(base) == "sd15":
            save_sd15(folder / "base")
            base = folder / "base"
        side = resolution or (64 if base == MODELS / "stable-diffusion" else 256)
        if data is None:
            data = folder / "data"
            data.mkdir()
            write_set(data, side, 8 * batch)
        job = Job(
            base=base.absolute(),
            data=data.absolute(),
            latents=folder / "latents",
            parquet=folder / "parquet",
            script=script.absolute(),
            resolution=side,
            batch=batch,
            steps=steps,
            skip=skip,
            precision=precision,
            seed=0,
        )
        write_parquet(job)
        make_latents(job)
        found: dict[str, list[Turn]] = defaultdict(list)
        names = only.split(";") if only else list(CONTESTANTS)
        for number in range(rounds):
            for who in names:
                with tempfile.TemporaryDirectory(dir=folder) as output:
                    turn = CONTESTANTS[who](job, Path(output), number)
                found[who].append(turn)
                print(f"round {number + 1}, {who}: {turn.seconds:.3f} s a step", file=sys.stderr)
        report(found, job)


def report(found: dict[str, list[Turn]], job: Job) -> None:
    """Print the table: medians, and ratios within a round."""
    threads = torch.get_num_threads()
    print(f"batch {job.batch}, {job.resolution} px, {job.precision}, {threads} threads\n")
    known = found.get("diffusers")
    header("who", "s a step", "pairs a second", "beside diffusers", "loss, by thirds", "GiB")
    for who, turns in found.items():
        seconds = median(turn.seconds for turn in turns)
        beside = "" if known is None else ratio(known, turns)
        row(
            who,
            f"{seconds:.3f}",
            f"{job.batch / seconds:.2f}",
            beside,
            losses_by_thirds(turns),
            f"{max(turn.memory for turn in turns):.1f}",
        )
    print()
    for who, limit in (
        ("Emend", "ceiling with encoders"),
        ("Emend, latents made before", "ceiling"),
    ):
        if who in found and limit in found:
            print(f"{who}: {ratio(found[limit], found[who])} of {limit}")


def ratio(slow: list[Turn], fast: list[Turn]) -> str:
    """How many times as fast, median and range over the rounds."""
    values = [a.seconds / b.seconds for a, b in zip(slow, fast, strict=True)]
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def losses_by_thirds(turns: list[Turn]) -> str:
    """Mean loss of each third of the steps measured, with its standard error."""
    losses = np.array([turn.losses for turn in turns])
    thirds = np.array_split(losses, 3, axis=1) if losses.size else []
    return ", ".join(
        f"{third.mean():.4f} ± {third.std() / np.sqrt(third.size):.4f}" for third in thirds
    )


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

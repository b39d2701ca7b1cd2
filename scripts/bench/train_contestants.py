"""Who trains in `train.py`: diffusers' script, `python -m training fit`, and bare networks."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from train_ceiling import LEARNING_RATE, pace
from train_set import Job

from inference.files import write_lines

THEIRS: Final = (
    "import inference, runpy, sys; sys.argv.pop(0); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
"""Runs their script behind the torchvision guard."""
DROPOUT: Final = 0.05
EMA_DECAY: Final = 0.9999


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Seconds a step, losses of the steps measured, and the highest resident memory in GiB."""

    seconds: float
    losses: list[float]
    memory: float


def theirs(job: Job, output: Path, number: int) -> Turn:
    """A turn of diffusers' script."""
    options = {
        "pretrained_model_name_or_path": job.base,
        "dataset_name": job.parquet,
        "output_dir": output,
        "cache_dir": job.parquet.parent / "cache",
        "resolution": job.resolution,
        "train_batch_size": job.batch,
        "max_train_steps": job.steps,
        "learning_rate": LEARNING_RATE,
        "lr_warmup_steps": 0,
        "conditioning_dropout_prob": DROPOUT,
        "checkpointing_steps": 10 * job.steps,
        "mixed_precision": "no" if job.precision == "32-true" else "bf16",
        "seed": job.seed + number,
    }
    line = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    _, memory = finished([sys.executable, "-c", THEIRS, str(job.script), *line, "--use_ema"])
    return logged(output / "logs", "train_loss", job.skip, memory)


def ours(job: Job, output: Path, number: int) -> Turn:
    """A turn of `python -m training fit`."""
    return fitted(job, output, number, job.data)


def ours_from_latents(job: Job, output: Path, number: int) -> Turn:
    """The same on latents that were made before."""
    return fitted(job, output, number, job.latents)


def fitted(job: Job, output: Path, number: int, data: Path) -> Turn:
    """A turn of `python -m training fit` on a data set."""
    recipe = {
        "seed_everything": job.seed + number,
        "output": str(output),
        "model": {
            "base": str(job.base),
            "objective": {"dropout": DROPOUT},
            "optimizer": {"learning_rate": LEARNING_RATE, "clip_norm": 1.0},
            "ema_decay": EMA_DECAY,
        },
        "data": {
            "shards": str(data),
            "batch_size": job.batch,
            "held_out": 0.0,
            "framing": {"flip": False},
        },
        "trainer": {
            "max_steps": job.steps,
            "precision": job.precision,
            "log_every_n_steps": 1,
        },
        "checkpoints": {"every": 10 * job.steps},
        "held_out_edits": {"every": 10 * job.steps},
    }
    path = output / "recipe.yaml"
    write_lines(path, [yaml.safe_dump(recipe)])
    line = [sys.executable, "-m", "training", "fit", "--config", str(path)]
    _, memory = finished(line)
    return logged(output / "tensorboard", "train/loss", job.skip, memory)


def network(job: Job, output: Path, number: int) -> Turn:
    """The UNet alone."""
    return bare(job, encode=False)


def network_and_encoders(job: Job, output: Path, number: int) -> Turn:
    """The UNet and what encodes its conditions."""
    return bare(job, encode=True)


def bare(job: Job, *, encode: bool) -> Turn:
    """A turn of `train_ceiling.py`."""
    options = {
        "base": job.base,
        "resolution": job.resolution,
        "batch": job.batch,
        "steps": job.steps,
        "skip": job.skip,
        "encode": str(encode).lower(),
        "precision": job.precision,
    }
    line = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    output, memory = finished(
        [sys.executable, str(Path(__file__).with_name("train_ceiling.py")), *line]
    )
    return Turn(seconds=json.loads(output.splitlines()[-1]), losses=[], memory=memory)


CONTESTANTS: Final = {
    "diffusers": theirs,
    "Emend": ours,
    "ceiling with encoders": network_and_encoders,
    "Emend, latents made before": ours_from_latents,
    "ceiling": network,
}


def finished(line: list[str]) -> tuple[str, float]:
    """What a command prints, and its highest resident memory in GiB.

    Raises:
        RuntimeError: It failed; with the end of what it said.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path.cwd())}
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(line, stdout=said, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{' '.join(line)} failed:\n{log.read()[-3000:]}")
        said.seek(0)
        return said.read(), usage.ru_maxrss / 2**20


def logged(folder: Path, tag: str, skip: int, memory: float) -> Turn:
    """The turn whose TensorBoard files lie below a folder.

    The last step does not count: some write their checkpoint before they log it.
    """
    (file,) = (path for path in folder.rglob("events.out.tfevents.*") if tag in tags(path))
    reader = EventAccumulator(str(file), size_guidance={"scalars": 0})
    reader.Reload()
    events = reader.Scalars(tag)[:-1]
    seconds = pace([event.wall_time for event in events], skip)
    return Turn(seconds=seconds, losses=[event.value for event in events[skip:]], memory=memory)


def tags(file: Path) -> list[str]:
    """The names of the scalars in a TensorBoard file."""
    reader = EventAccumulator(str(file))
    reader.Reload()
    found: list[str] = reader.Tags()["scalars"]
    return found


def make_latents(job: Job) -> None:
    """Let `python -m training latents` encode the set."""
    line = ["latents", "--base", job.base, "--output", job.latents, "--path", job.data]
    finished([sys.executable, "-m", "training", *map(str, line)])

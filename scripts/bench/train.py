"""How fast is training beside diffusers' own script, and beside the network alone?

    python scripts/bench/train.py compare --script train_instruct_pix2pix.py --data out/shapes/data
    python scripts/bench/train.py compare --script train_instruct_pix2pix.py --base sd15 --batch 1

`train_instruct_pix2pix.py` is the file of that name in `examples/` of diffusers, downloaded by you.
Everyone gets the same base, the same JPEG files, batch, learning rate, clipping, dropout and moving
average, and takes turns, a process a turn. Both trainers log every step to TensorBoard, and the
times in those files are what is compared, from the step on that `--skip` says. The ceilings do in a
bare loop what cannot be left out: forward, backward and fused AdamW of the UNet, and the same with
the encoders. Prints tables for `RESULTS.md`. A quarter of an hour on 2 cores for either base.
"""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import datasets
import numpy as np
import torch
import webdataset
import yaml
from jsonargparse import auto_cli
from loader import write_set
from stable_diffusion import save_sd15
from tables import header, row
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from inference.backbone import load_backbone
from inference.shapes import MODELS
from training.optimizer import OptimizerKnobs, adamw
from training.unet import widen

THEIRS: Final = (
    "import inference, runpy, sys; sys.argv.pop(0); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
"""Runs their script behind the torchvision guard."""
LEARNING_RATE: Final = 1e-4
DROPOUT: Final = 0.05
EMA_DECAY: Final = 0.9999


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all contestants do.

    Attributes:
        base: Diffusers folder of the text-to-image model.
        data: Folder of the shards.
        latents: Folder of the latents that were made of them.
        parquet: The same pairs for `datasets`.
        resolution: Side of the images, in pixels.
        precision: As Lightning calls it.
    """

    base: Path
    data: Path
    latents: Path
    parquet: Path
    script: Path
    resolution: int
    batch: int
    steps: int
    skip: int
    precision: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Seconds a step, losses of the steps measured, and the highest resident memory in GiB."""

    seconds: float
    losses: list[float]
    memory: float


def compare(
    script: Path,
    base: Path | str = MODELS / "stable-diffusion",
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
        steps: Steps a turn.
        skip: Of those, steps at the start that are not counted.
        rounds: Turns of each.
        precision: `32-true` or `bf16-mixed`.
        only: Contestants to run, with commas between; empty runs all.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if base == "sd15":
            save_sd15(folder / "base")
            base = folder / "base"
        side = resolution or (64 if Path(base) == MODELS / "stable-diffusion" else 256)
        if data is None:
            data = folder / "data"
            data.mkdir()
            write_set(data, side, 8 * batch)
        job = Job(
            base=Path(base).absolute(),
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
        names = only.split(",") if only else list(CONTESTANTS)
        for number in range(rounds):
            for who in names:
                with tempfile.TemporaryDirectory(dir=folder) as output:
                    turn = CONTESTANTS[who](job, Path(output), number)
                found[who].append(turn)
                print(f"round {number + 1}, {who}: {turn.seconds:.3f} s a step", file=sys.stderr)
        report(found, job)


def ceiling(base: Path, resolution: int, batch: int, steps: int, skip: int, encode: bool) -> None:
    """Train on nothing, as fast as the network goes; prints seconds a step as JSON.

    Args:
        encode: Let the VAE encode both images of each pair and the text encoder a prompt each.
    """
    torch.manual_seed(0)
    backbone = load_backbone(base)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    unet = widen(backbone.unet).train().requires_grad_(True).to(device)
    for module in (backbone.vae, backbone.text_encoder):
        module.to(device)
    images = torch.rand(batch, 3, resolution, resolution, device=device) * 2 - 1
    optimizer = adamw(unet, OptimizerKnobs(learning_rate=LEARNING_RATE))

    def encoded() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            edited, source = backbone.encode_image(images), backbone.encode_condition(images)
            return edited, source, backbone.encode_text(["turn it upside down"] * batch).states

    edited, source, text = encoded()
    times = []
    for _ in range(steps):
        times.append(time.time())
        if encode:
            edited, source, text = encoded()
        noise = torch.randn_like(edited)
        timesteps = torch.randint(0, 1000, (batch,), device=device)
        predicted = unet(torch.cat((edited + noise, source), 1), timesteps, text).sample
        torch.nn.functional.mse_loss(predicted, noise).backward()
        optimizer.step()
        optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()
    print(json.dumps(pace(times, skip)))


# --- contestants ---------------------------------------------------------------------------------


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
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    line = [sys.executable, "-m", "training", "fit", "--config", str(path)]
    _, memory = finished(line)
    return logged(output / "tensorboard", "loss", job.skip, memory)


def network(job: Job, output: Path, number: int) -> Turn:
    """The UNet alone."""
    return bare(job, encode=False)


def network_and_encoders(job: Job, output: Path, number: int) -> Turn:
    """The UNet and what encodes its conditions."""
    return bare(job, encode=True)


def bare(job: Job, *, encode: bool) -> Turn:
    """A turn of `ceiling`."""
    options = {
        "base": job.base,
        "resolution": job.resolution,
        "batch": job.batch,
        "steps": job.steps,
        "skip": job.skip,
        "encode": str(encode).lower(),
    }
    line = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    output, memory = finished([sys.executable, __file__, "ceiling", *line])
    return Turn(seconds=json.loads(output.splitlines()[-1]), losses=[], memory=memory)


CONTESTANTS: Final = {
    "diffusers": theirs,
    "Emend": ours,
    "ceiling with encoders": network_and_encoders,
    "Emend, latents made before": ours_from_latents,
    "ceiling": network,
}


# --- running and reading -------------------------------------------------------------------------


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
    """The turn whose TensorBoard files lie below a folder."""
    (file,) = (path for path in folder.rglob("events.out.tfevents.*") if tag in tags(path))
    reader = EventAccumulator(str(file), size_guidance={"scalars": 0})
    reader.Reload()
    events = reader.Scalars(tag)
    seconds = pace([event.wall_time for event in events], skip)
    return Turn(seconds=seconds, losses=[event.value for event in events[skip:]], memory=memory)


def tags(file: Path) -> list[str]:
    """The names of the scalars in a TensorBoard file."""
    reader = EventAccumulator(str(file))
    reader.Reload()
    found: list[str] = reader.Tags()["scalars"]
    return found


def pace(times: list[float], skip: int) -> float:
    """Mean seconds between the moments of all steps but the first ones."""
    return (times[-1] - times[skip]) / (len(times) - 1 - skip)


def report(found: dict[str, list[Turn]], job: Job) -> None:
    """Print the table: medians, and ratios within a round."""
    threads = torch.get_num_threads()
    print(f"batch {job.batch}, {job.resolution} px, {job.precision}, {threads} threads\n")
    known = found.get("diffusers")
    header("who", "s a step", "pairs a second", "beside diffusers", "loss", "GiB")
    for who, turns in found.items():
        seconds = median(turn.seconds for turn in turns)
        beside = "" if known is None else ratio(known, turns)
        row(
            who,
            f"{seconds:.3f}",
            f"{job.batch / seconds:.2f}",
            beside,
            mean_loss(turns),
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


def mean_loss(turns: list[Turn]) -> str:
    """Mean loss of the steps measured, with its standard error."""
    losses = np.array([loss for turn in turns for loss in turn.losses])
    if not len(losses):
        return ""
    return f"{losses.mean():.4f} ± {losses.std() / np.sqrt(len(losses)):.4f}"


# --- what they train on --------------------------------------------------------------------------


def write_parquet(job: Job) -> None:
    """The images of the shards, byte for byte, as `datasets` takes them."""
    shards = sorted(str(path) for path in job.data.rglob("*.tar"))
    features = datasets.Features(
        input_image=datasets.Image(),
        edited_image=datasets.Image(),
        edit_prompt=datasets.Value("string"),
    )
    made = datasets.Dataset.from_list(list(pairs_of(shards)), features=features)
    job.parquet.mkdir()
    made.to_parquet(job.parquet / "train.parquet")


def pairs_of(shards: list[str]) -> Iterator[dict[str, Any]]:
    """The pairs of shards as they are stored."""
    for sample in webdataset.WebDataset(shards, shardshuffle=False):
        yield {
            "input_image": {"bytes": sample["input.jpg"]},
            "edited_image": {"bytes": sample["edited.jpg"]},
            "edit_prompt": json.loads(sample["json"])["instruction"],
        }


def make_latents(job: Job) -> None:
    """Let `python -m training latents` encode the set."""
    line = ["latents", "--base", job.base, "--output", job.latents, "--path", job.data]
    finished([sys.executable, "-m", "training", *map(str, line)])


if __name__ == "__main__":
    auto_cli({"compare": compare, "ceiling": ceiling}, as_positional=False)

"""Training for `gpu.py`: steps on a batch in memory, and whole runs of `python -m training fit`."""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pytorch_lightning as pl
import torch
from gpu_rows import Machine
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

import training.module
from inference.backbone import Backbone
from inference.images import from_numpy, to_numpy
from inference.noise import keyed_noise
from inference.shapes.evaluation import draw_trials
from inference.shapes.render import render
from inference.shapes.scene import Scene
from training.__main__ import main
from training.config import Lora, OptimizerKnobs, Speed
from training.data.samples import Batch
from training.module import EditorTraining
from training.running.stopping import TERMINATED


class MemoryData(pl.LightningDataModule):
    """One batch, again and again: what reading data costs is measured elsewhere."""

    def __init__(self, batch: Batch, steps: int) -> None:
        super().__init__()
        self.batch, self.steps = batch, steps
        self.encode: Any = None
        self.backbone: Any = None

    def train_dataloader(self) -> DataLoader[Batch]:
        """As many batches as there are steps."""
        return DataLoader([self.batch] * self.steps, batch_size=None, shuffle=False)  # type: ignore[arg-type]


def latent_batch(backbone: Backbone, count: int, side: int) -> Batch:
    """Latents at random of pictures of some side, in pixels."""
    height = side // backbone.latent_factor
    shape = (count, backbone.vae.config.latent_channels, height, height)
    return batch_of(
        edited=keyed_noise("gpu", "edited", shape=shape),
        source=keyed_noise("gpu", "source", shape=shape),
        instructions=["turn it upside down"] * count,
        side=side,
    )


def shapes_batch(count: int) -> Batch:
    """Pairs of the shapes world, as uint8 images."""
    trials = draw_trials(("recolour",), count)
    edited, source = (
        torch.stack([torch.from_numpy(pixels(scene)).permute(2, 0, 1) for scene in scenes])
        for scenes in ([one.expected for one in trials], [one.before for one in trials])
    )
    instructions = [trial.instruction for trial in trials]
    return batch_of(edited=edited, source=source, instructions=instructions, side=source.shape[-1])


def pixels(scene: Scene) -> NDArray[np.uint8]:
    """A scene, (H, W, 3)."""
    return to_numpy(from_numpy(render(scene)))


def batch_of(*, edited: Tensor, source: Tensor, instructions: Sequence[str], side: int) -> Batch:
    """A batch of pictures that are not cropped."""
    count = len(edited)
    return Batch(
        positions=list(range(count)),
        epochs=[0] * count,
        instructions=list(instructions),
        edited=edited,
        source=source,
        sizes=torch.tensor([[side, side, 0, 0, side, side]] * count),
        scores=torch.full((count, 5), float("nan")),
        passed_over=[],
    )


def editor_training(
    backbone: Backbone,
    *,
    speed: Speed = Speed(),  # noqa: B008  (frozen)
    lora: Lora | None = None,
    kind: str = "adamw",
    rate: float = 1e-4,
) -> EditorTraining:
    """The module on a model that lies in memory, not in a folder."""
    with patch.object(training.module, "load_backbone", lambda _: backbone):
        return EditorTraining(
            Path("in memory"),
            speed=speed,
            lora=lora,
            optimizer=OptimizerKnobs(kind=cast(Any, kind), learning_rate=rate),
        )


@dataclass
class Recorder(pl.Callback):
    """Keeps the loss and the gradient of every step.

    Attributes:
        losses: A number a step.
        gradients: Of all that is trained, in float32 on the CPU, a step.
    """

    losses: list[float] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *rest: Any
    ) -> None:
        """Keep the loss."""
        self.losses.append(float(outputs["loss"]))

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        """Keep the gradient."""
        found = [
            p.grad.float().flatten().cpu() for p in pl_module.parameters() if p.grad is not None
        ]
        self.gradients.append(torch.cat(found))


def fit(
    module: EditorTraining,
    batch: Batch,
    *,
    machine: Machine,
    steps: int,
    precision: str = "32-true",
    callbacks: Sequence[pl.Callback] = (),
    data: pl.LightningDataModule | None = None,
) -> None:
    """Train some steps on one batch, or on a data module, and write nothing."""
    trainer = pl.Trainer(
        accelerator=machine.accelerator,
        devices=1,
        max_steps=steps,
        precision=cast(Any, precision),
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data or MemoryData(batch, steps))


def step_of(
    backbone: Backbone, batch: Batch, machine: Machine, precision: str = "32-true", **options: Any
) -> tuple[float, Tensor]:
    """Loss and gradient of one training step."""
    recorder = Recorder()
    module = editor_training(backbone, **options)
    fit(module, batch, machine=machine, steps=1, precision=precision, callbacks=[recorder])
    return recorder.losses[0], recorder.gradients[0]


# ---------------------------------------------------------------- whole runs


def write_pairs(folder: Path, count: int) -> Path:
    """Pairs of the shapes world as a jsonl beside PNGs, which any machine can read."""
    folder.mkdir(parents=True)
    lines = []
    for number, trial in enumerate(draw_trials(("recolour",), count)):
        scenes = {"source": trial.before, "target": trial.expected}
        names = {what: f"{number}-{what}.png" for what in scenes}
        for what, scene in scenes.items():
            Image.fromarray(pixels(scene)).save(folder / names[what])
        lines.append(json.dumps({**names, "instruction": trial.instruction}))
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of `python -m training fit` in this process.

    Attributes:
        base: The model.
        pairs: A jsonl of pairs.
        output: The run's folder.
        machine: Where it runs.
        steps: How many.
        more: Further options.
    """

    base: Path
    pairs: Path
    output: Path
    machine: Machine
    steps: int = 4
    more: tuple[str, ...] = ()

    def __call__(self) -> dict[str, Tensor]:
        """Carry it out, or go on with it; the weights and averages of its last checkpoint."""
        try:
            self.carry_out()
        except SystemExit as error:
            if error.code == TERMINATED:
                raise
            raise RuntimeError(f"fit exited with {error.code}") from error.__cause__
        saved = torch.load(self.output / "last.ckpt", weights_only=True, map_location="cpu")
        weights: dict[str, Tensor] = saved["state_dict"]
        return weights

    def carry_out(self) -> None:
        """Call the command."""
        sets = json.dumps([{"path": str(self.pairs), "layout": "jsonl"}])
        warnings.filterwarnings("ignore", "LightningCLI's args parameter")
        main(
            [
                "fit",
                f"--output={self.output}",
                f"--model.base={self.base}",
                f"--data.sets={sets}",
                "--data.batch_size=4",
                "--data.held_out=0",
                f"--trainer.max_steps={self.steps}",
                f"--trainer.accelerator={self.machine.accelerator}",
                "--trainer.devices=1",
                "--trainer.logger=false",
                "--checkpoints.every=2",
                f"--held_out_edits.every={10 * self.steps}",
                *self.more,
            ]
        )

    def killed_at(self, call: int) -> None:
        """Begin it, and let it die in the middle of a step, counted from 1."""
        with dying_at(call):
            try:
                self()
            except Killed:
                return
        raise RuntimeError("the run was to be killed, and ended")

    @property
    def model(self) -> Path:
        """The exported editor."""
        return self.output / "model"


class Killed(BaseException):
    """Stands for a power cut."""


@contextmanager
def dying_at(call: int) -> Iterator[None]:
    """A power cut in the call-th loss."""
    original: Callable[..., Tensor] = training.module.edit_loss
    calls = iter(range(1, call + 1))

    def dying(*given: Any, **named: Any) -> Tensor:
        if next(calls) == call:
            raise Killed
        return original(*given, **named)

    with patch.object(training.module, "edit_loss", dying):
        yield


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> int:
    """How many numbers of two sets of weights are not bit for bit the same."""
    if one.keys() != other.keys():
        raise ValueError(f"{len(one.keys() ^ other.keys())} weights are in one run alone")
    return sum(int((one[name] != other[name]).sum()) for name in one)

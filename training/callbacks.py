"""What accompanies the training loop: the progress bar, checkpoints, and held-out edits."""

import signal
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytorch_lightning as pl
import torch
from PIL import Image, ImageDraw
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from tqdm import tqdm

from inference.editors.editor import EditRequest
from inference.editors.instruct import Instruct
from inference.images import from_numpy, to_pil
from training.data import PairData
from training.module import EditorTraining

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a process that ends because it was asked to."""


def data_of(trainer: pl.Trainer) -> PairData:
    """The data module of a trainer."""
    return cast(PairData, cast(Any, trainer).datamodule)


def ends_a_step(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether a batch is the last that an optimiser step accumulates."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class Progress(Callback):
    """A progress bar in images: how far, images a second, time left, step and loss."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where the run stands, also after a resume."""
        a_step = data_of(trainer).batch_size * trainer.accumulate_grad_batches
        self._bar = tqdm(
            total=trainer.max_steps * a_step,
            initial=trainer.global_step * a_step,
            desc="training",
            unit="image",
            disable=not trainer.is_global_zero,
        )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar by one batch."""
        loss = trainer.callback_metrics["loss"].item()
        self._bar.set_postfix(step=trainer.global_step, loss=f"{loss:.4f}", refresh=False)
        self._bar.update(data_of(trainer).batch_size)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar."""
        if hasattr(self, "_bar"):
            self._bar.close()


class Checkpoints(Callback):
    """Saves `last.ckpt` into the folder of the run: every so often, and at its end.

    On SIGTERM the step is finished and saved, and the process exits with 143; Lightning's own
    handler leaves without saving, and with exit code 0. Its ModelCheckpoint is not used because
    after a resume it may save in the middle of an accumulated step, whose gradients are then lost.
    """

    def __init__(self, every: int = 100) -> None:
        """Take the knob.

        Args:
            every: Optimiser steps from one checkpoint to the next.

        Raises:
            ValueError: It is less than 1.
        """
        if every < 1:
            raise ValueError(f"checkpoints.every is {every}, expected at least 1")
        self.every = every
        self._asked = False

    @staticmethod
    def path(folder: Path) -> Path:
        """The checkpoint of a run."""
        return folder / "last.ckpt"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signal over from Lightning, which restores the original handler at the end."""
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, where: FrameType | None) -> None:
        self._asked = True

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save where it is time to, at the last step, or where any rank was asked to end."""
        if not ends_a_step(trainer, batch_idx):
            return
        asked = trainer.strategy.reduce_boolean_decision(self._asked, all=False)
        ends = trainer.global_step == trainer.max_steps
        if asked or ends or trainer.global_step % self.every == 0:
            trainer.save_checkpoint(self.path(Path(trainer.default_root_dir)))
        if asked:
            raise SystemExit(TERMINATED)


class HeldOutEdits(Callback):
    """Edits the same held-out images every so often, with the averaged weights.

    Writes `held-out/step-<n>.png` into the folder of the run, a row a sample (instruction, source,
    output, expected), and logs `held_out/l1`, the mean L1 distance of output and expected image on
    [-1, 1], beside `held_out/l1_of_copying`, the same for the source left as it is.
    """

    def __init__(self, every: int = 500, samples: int = 8) -> None:
        """Take the knobs.

        Args:
            every: Optimiser steps from one time to the next.
            samples: Number of held-out pairs, the same ones every time; 0 edits none.

        Raises:
            ValueError: A knob is out of its range.
        """
        if every < 1 or samples < 0:
            raise ValueError(
                f"held_out_edits.every and samples are {every} and {samples}; "
                "expected at least 1 and at least 0"
            )
        self.every, self.samples = every, samples

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Edit where it is time to."""
        due = ends_a_step(trainer, batch_idx) and trainer.global_step % self.every == 0
        if due and trainer.is_global_zero:
            self._edit(trainer, cast(EditorTraining, pl_module))

    def _edit(self, trainer: pl.Trainer, module: EditorTraining) -> None:
        data = data_of(trainer)
        pairs = data.held_out_pairs(self.samples)
        if not pairs:
            return
        cut = [data.framing.steady(pair.source, pair.edited) for pair in pairs]
        sources, expected = (
            [from_numpy(image) for image in side] for side in zip(*cut, strict=True)
        )
        labels = [pair.triplet.instruction for pair in pairs]
        requests = [
            EditRequest(image=image, instruction=label, seed=number)
            for number, (image, label) in enumerate(zip(sources, labels, strict=True))
        ]
        editor = Instruct(backbone=module.backbone, resolution=max(sources[0].shape[1:]))
        outputs = editor.edit(requests)
        distances = {
            "held_out/l1": _distance(outputs, expected),
            "held_out/l1_of_copying": _distance(sources, expected),
        }
        for logger in trainer.loggers:
            logger.log_metrics(distances, step=trainer.global_step)
        folder = Path(trainer.default_root_dir) / "held-out"
        folder.mkdir(exist_ok=True)
        picture = contact_sheet(labels, sources, outputs, expected)
        picture.save(folder / f"step-{trainer.global_step:06d}.png")


def _distance(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    return (torch.stack(list(left)) - torch.stack(list(right))).abs().mean().item()


def contact_sheet(
    labels: Sequence[str], *columns: Sequence[Tensor], side: int = 128, label_width: int = 256
) -> Image.Image:
    """A picture with a row a sample: its label, then one image of each column.

    Args:
        labels: B texts.
        columns: Each B images, (3, H, W) in [-1, 1].
        side: Side of an image in the picture, in pixels.
        label_width: Room for the label, in pixels.
    """
    sheet = Image.new("RGB", (label_width + side * len(columns), side * len(labels)), "white")
    writer = ImageDraw.Draw(sheet)
    for row, label in enumerate(labels):
        text = "\n".join(textwrap.wrap(label, 36))
        writer.multiline_text((8, row * side + 8), text, fill="black")
        for column, images in enumerate(columns):
            image = to_pil(images[row]).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(image, (label_width + column * side, row * side))
    return sheet

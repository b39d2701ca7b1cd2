"""Edits of held-out pairs while training goes on, and what is measured on them."""

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
from PIL import Image, ImageDraw
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from inference.clip import load_clip
from inference.editors.editor import EditRequest
from inference.editors.instruct import Instruct
from inference.files import written_atomically
from inference.images import from_numpy, to_pil
from inference.number_types import Count, PositiveCount, checks_numbers
from inference.progress import ProgressBar
from training.data.data_module import PairData
from training.module import EditorTraining
from training.running.measures import (
    HeldOut,
    carried_out_share,
    distance,
    losses_by_timestep,
    similarities,
)
from training.steps import ends_a_step


@dataclass(frozen=True, kw_only=True)
class HeldOutLoss:
    """The held-out loss at a step."""

    step: int
    loss: float


@checks_numbers
class HeldOutEdits(Callback):
    """Edits the same held-out images every so often, with the averaged weights.

    Writes `held-out/step-<n>.png` into the folder of the run, a row a sample (instruction, source,
    output, expected), gives it to the loggers, and logs:

    - `held_out/loss` and `held_out/loss_at_<t>`: of all timesteps, and of each quarter of them.
    - `held_out/l1`: mean L1 distance of output and expected image on [-1, 1], and
      `held_out/l1_of_copying`, the same for the source left as it is.
    - with `clip`: `held_out/image_similarity` against `held_out/directional_similarity`, the two
      axes of the paper's figure 8; the latter of the pairs whose captions are known.
    - with `shapes`: `held_out/accuracy`, the share of the outputs that read back as asked.

    Attributes:
        latest: The held-out loss that was last measured.
    """

    def __init__(
        self,
        every: PositiveCount = 500,
        samples: Count = 8,
        loss_samples: PositiveCount = 64,
        clip: str | None = None,
        shapes: bool = False,
    ) -> None:
        """Take the knobs.

        The arguments are those of `training.signatures.held_out_edits`.

        Raises:
            ValueError: A knob is out of its range.
        """
        self.every, self.samples, self.loss_samples = every, samples, loss_samples
        self.shapes = shapes
        self.scorer = None if clip is None else load_clip(clip)
        self.latest: HeldOutLoss | None = None
        self._pairs: HeldOut | None = None
        self._said = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where there is nothing to edit."""
        data = cast(PairData, cast(Any, trainer).datamodule)
        if trainer.is_global_zero and self.samples and not data.assembled.held_out:
            print(
                f"note: data.held_out is {data.held_out:g}, which holds out no pair: there will be "
                "no held_out/loss and no best.ckpt"
            )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Edit where it is time to.

        All ranks do the same, since weights that are shared among them are put together by all.
        """
        now = ends_a_step(trainer, batch_idx) and trainer.global_step % self.every == 0
        if not now or not self.samples:
            return
        if self._pairs is None:  # read once: they are the same ones every time
            data = cast(PairData, cast(Any, trainer).datamodule)
            found = data.held_out_pairs(max(self.samples, self.loss_samples))
            self._pairs = HeldOut.of(found, data.framing)
        if self._pairs.instructions:
            self._look(trainer, cast(EditorTraining, pl_module), self._pairs)

    def _look(self, trainer: pl.Trainer, module: EditorTraining, pairs: HeldOut) -> None:
        step, held = trainer.global_step, pairs.first(self.samples)
        editor = Instruct(backbone=module.backbone, resolution=max(held.sources[0].shape[:2]))
        requests = [
            EditRequest(image=from_numpy(image), instruction=text, seed=number)
            for number, (image, text) in enumerate(
                zip(held.sources, held.instructions, strict=True)
            )
        ]
        outputs = editor.edit(requests)
        losses = losses_by_timestep(module, pairs.first(self.loss_samples))
        # one number for all ranks, whose arithmetic may differ in the last bit
        loss = trainer.strategy.broadcast(float(np.mean(list(losses.values()))))
        self.latest = HeldOutLoss(step=step, loss=loss)
        if not trainer.is_global_zero:
            return
        found = {"loss": loss} | {f"loss_at_{t:03d}": each for t, each in losses.items()}
        found |= {
            "l1": distance(outputs, held.edited),
            "l1_of_copying": distance([from_numpy(image) for image in held.sources], held.edited),
        }
        if self.scorer is not None:
            found |= similarities(self.scorer, held, outputs)
            self._note_captions(held)
        if self.shapes:
            found["accuracy"] = carried_out_share(held, outputs)
        sources, expected = ([from_numpy(i) for i in side] for side in (held.sources, held.edited))
        picture = contact_sheet(held.instructions, sources, outputs, expected)
        _publish(trainer, {f"held_out/{name}": value for name, value in found.items()}, picture)

    def _note_captions(self, held: HeldOut) -> None:
        """Say once of how many pairs the directional similarity is."""
        known, count = sum(held.captioned), len(held.captioned)
        if known < count and not self._said:
            ProgressBar.write(
                f"note: {count - known} of {count} held-out pairs have no captions: "
                f"held_out/directional_similarity is {'of the others' if known else 'left out'}",
                file=sys.stderr,
            )
        self._said = True


def _publish(trainer: pl.Trainer, figures: dict[str, float], picture: Image.Image) -> None:
    """Give figures and picture to the loggers, and write the picture."""
    step = trainer.global_step
    for logger in trainer.loggers:
        logger.log_metrics(figures, step=step)
        if isinstance(logger, TensorBoardLogger):
            pixels = np.asarray(picture)
            logger.experiment.add_image("held_out/edits", pixels, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image("held_out/edits", [picture], step=step)
    path = Path(trainer.default_root_dir) / "held-out" / f"step-{step:06d}.png"
    with written_atomically(path) as temporary:
        picture.save(temporary, format="PNG")


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

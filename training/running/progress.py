"""The progress bar of training, and how fast it goes."""

import time
from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from inference.number_types import Positive, checks_numbers
from inference.progress import ProgressBar
from training.data.data_module import PairData
from training.data.samples import Batch
from training.module import EditorTraining
from training.running.flops import peak_of, training_flops
from training.steps import ends_a_step


@checks_numbers
class Progress(Callback):
    """A progress bar in images: how far, images a second, time left, step, loss and MFU.

    `images_per_second` and, on devices whose peak is known, `mfu` are logged as well: the share of
    the peak that the UNet's own arithmetic makes up (Chowdhery et al. 2022, appendix B), without
    what encodes images and text.
    """

    def __init__(self, peak_tflops: Positive | None = None) -> None:
        """Take the knob.

        The arguments are those of `training.signatures.progress`.

        Raises:
            ValueError: It is not above 0.
        """
        self.peak = peak_tflops
        self._flops: dict[tuple[int, int], float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where the run stands, also after a resume."""
        self.peak = self.peak or peak_of(pl_module.device)
        self._batch_size = cast(PairData, cast(Any, trainer).datamodule).batch_size
        a_step = self._batch_size * trainer.accumulate_grad_batches
        self._bar = ProgressBar(
            total=trainer.max_steps * a_step,
            initial=trainer.global_step * a_step,
            desc="training",
            unit="image",
            disable=not trainer.is_global_zero,
        )
        self._since, self._images, self._work = time.perf_counter(), 0, 0.0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar by one batch; look at the loss, which waits for the device, now and then."""
        self._images += self._batch_size
        if self.peak is not None:
            self._work += self._batch_size * self._flops_of(cast(EditorTraining, pl_module), batch)
        step, often = trainer.global_step, cast(Any, trainer).log_every_n_steps
        if ends_a_step(trainer, batch_idx) and (step % often == 0 or step == trainer.max_steps):
            loss = trainer.callback_metrics["train/loss"].item()
            said = {"step": step, "loss": f"{loss:.4f}"} | self._rates(trainer)
            self._bar.set_postfix(said, refresh=False)
        self._bar.update(self._batch_size)

    def _rates(self, trainer: pl.Trainer) -> dict[str, str]:
        """Log how fast it went since the last time, and say the MFU for the bar."""
        seconds = time.perf_counter() - self._since
        rates = {"images_per_second": self._images / seconds}
        if self.peak is not None:
            rates["mfu"] = self._work / seconds / (self.peak * 1e12 * trainer.world_size)
        for logger in trainer.loggers:
            logger.log_metrics(rates, step=trainer.global_step)
        self._since, self._images, self._work = time.perf_counter(), 0, 0.0
        return {"mfu": f"{rates['mfu']:.1%}"} if "mfu" in rates else {}

    def _flops_of(self, module: EditorTraining, batch: Batch) -> float:
        """Of one sample; counted once for every size of images."""
        height, width = batch.edited.shape[-2:]
        if not batch.edited.is_floating_point():
            factor = module.backbone.latent_factor
            height, width = height // factor, width // factor
        if (height, width) not in self._flops:
            began = time.perf_counter()
            self._flops[height, width] = training_flops(
                module.blank_unet(),
                height=height,
                width=width,
                text_length=module.backbone.text_length,
            )
            self._since += time.perf_counter() - began
        return self._flops[height, width]

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar."""
        if hasattr(self, "_bar"):
            self._bar.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar, so that what is wrong stands on a line of its own."""
        self.teardown(trainer, pl_module, "fit")

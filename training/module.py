"""The LightningModule: a frozen base model, its widened UNet in training, and their average.

Only the two UNets are registered as submodules, so checkpoints hold them and nothing frozen. All
randomness comes from `objective.draw`; there is no generator state to save.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from inference.backbone import Settings, load_backbone
from inference.sampling import PredictionType
from training import ema
from training.data import PairData
from training.objective import Objective, draw, edit_loss, latent_weights
from training.precision import bf16_with_float32_attention
from training.samples import Batch
from training.unet import widen


@dataclass(frozen=True, kw_only=True)
class OptimizerKnobs:
    """Knobs of AdamW and of the learning rate.

    Attributes:
        learning_rate: Of every layer but the first.
        first_layer_factor: Learning rate of the widened first convolution, as a multiple; its new
            channels start at zero and have the furthest to go.
        weight_decay: Decoupled weight decay.
        betas: Decay of the first and the second moment.
        warmup_steps: Steps over which the rate climbs linearly to its full value.
        schedule: What follows: the same rate, or a cosine to zero at `trainer.max_steps`.
        clip_norm: Largest norm of the gradient of the whole UNet; None does not clip.
    """

    learning_rate: float = 1e-4
    first_layer_factor: float = 1.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    clip_norm: float | None = 1.0


def learning_rate_factor(step: int, knobs: OptimizerKnobs, steps: int) -> float:
    """Multiple of the full learning rate at `step`, counted from 0, of `steps`; in [0, 1]."""
    if step < knobs.warmup_steps:
        return (step + 1) / (knobs.warmup_steps + 1)
    if knobs.schedule == "constant":
        return 1.0
    progress = (step - knobs.warmup_steps) / max(1, steps - knobs.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class EditorTraining(pl.LightningModule):
    """Trains an instruction-following editor from a text-to-image model (InstructPix2Pix).

    Attributes:
        unet: The widened UNet in training.
        average: The moving average of its weights.
        backbone: The frozen rest of the base model around `average`: the editor as it stands.
    """

    def __init__(
        self,
        base: Path,
        objective: Objective = Objective(),  # noqa: B008  (frozen)
        optimizer: OptimizerKnobs = OptimizerKnobs(),
        ema_decay: float = 0.9999,
        settings: Settings | None = None,
        seed: int = 0,
    ) -> None:
        """Load the base model and widen its UNet.

        Args:
            base: A Stable-Diffusion-shaped diffusers folder: a text-to-image model, or an editor
                to be trained further.
            objective: What is predicted and what an error costs.
            optimizer: AdamW and its learning rate.
            ema_decay: Highest decay of the moving average, which ramps up to it.
            settings: What the exported editor records beyond diffusers' configuration, such as its
                default scales and the factor on the latents of its image condition; None keeps
                the base's.
            seed: Seed of the run, of which every draw is a function.

        Raises:
            ValueError: The base is an SDXL, or takes more channels than an editor does.
        """
        super().__init__()
        self.objective, self.optimizer_knobs = objective, optimizer
        self.ema_decay, self.seed = ema_decay, seed
        parent = load_backbone(base)
        if parent.text_encoder_2 is not None:
            raise ValueError(f"base {base} has two text encoders; expected a model with one")
        self.unet = widen(parent.unet).train().requires_grad_(True)
        self.average = widen(parent.unet).eval().requires_grad_(False)
        self.prediction_type: PredictionType = (
            objective.prediction_type or parent.scheduler.config.prediction_type
        )
        scheduler = type(parent.scheduler).from_config(
            parent.scheduler.config, prediction_type=self.prediction_type
        )
        self.backbone = replace(
            parent,
            unet=self.average,
            scheduler=scheduler,
            settings=settings or parent.settings,
        )
        alphas = scheduler.alphas_cumprod.float()
        self.register_buffer("alphas", alphas, persistent=False)
        self.alphas: Tensor

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on from another model's weights.

        Raises:
            ValueError: The weights of the checkpoint have other names or shapes.
        """
        found, own = (
            {name: weights.shape for name, weights in state.items()}
            for state in (checkpoint["state_dict"], self.state_dict())
        )
        if found != own:
            raise ValueError(
                "the checkpoint to go on from holds another model than that of `base`: "
                "choose another output folder"
            )

    def on_fit_start(self) -> None:
        """Bring the frozen parts to the device, and let the data module encode with them."""
        self.backbone.vae.to(self.device)
        self.backbone.text_encoder.to(self.device)
        self._data.encode, self._data.backbone = self.encode, self.backbone

    @torch.no_grad()
    def encode(self, edited: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of the edited images (the target) and of the source images (the condition).

        Args:
            edited: (B, 3, H, W) uint8.
            source: (B, 3, H, W) uint8.

        Returns:
            Twice (B, 4, H/f, W/f) for a VAE that shrinks f times.
        """
        return (
            self.backbone.encode_image(self._normalised(edited)),
            self.backbone.encode_condition(self._normalised(source)),
        )

    def _normalised(self, images: Tensor) -> Tensor:
        return images.to(self.device, torch.float32) / 127.5 - 1

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch; see `objective.edit_loss`."""
        edited, condition = batch.edited, batch.source
        if not batch.is_encoded:
            edited, condition = self.encode(edited, condition)
        draws = draw(
            seed=self.seed,
            epochs=batch.epochs,
            positions=batch.positions,
            shape=edited.shape[1:],
            timesteps=len(self.alphas),
            knobs=self.objective,
        )
        kept = zip(batch.instructions, draws.keep_text.tolist(), strict=True)
        with torch.no_grad():
            texts = self.backbone.encode_text([prompt if keep else "" for prompt, keep in kept])
        with self._precision():
            loss = edit_loss(
                self.unet,
                edited=edited,
                condition=condition,
                text=texts.states,
                weights=self._weights(edited, condition),
                draws=type(draws)(*(part.to(self.device) for part in draws)),
                alphas=self.alphas,
                prediction_type=self.prediction_type,
                knobs=self.objective,
            )
        self.log("loss", loss, batch_size=len(batch.positions))
        return loss

    def _weights(self, edited: Tensor, condition: Tensor) -> Tensor:
        scale = self.backbone.vae.config.scaling_factor / self.backbone.settings.image_latent_scale
        return latent_weights(edited, condition * scale, self.objective)

    def _precision(self) -> AbstractContextManager[None]:
        """On a CPU, what Lightning's bf16 autocast lacks there: see `training.precision`."""
        if self.trainer.precision == "bf16-mixed":
            return bf16_with_float32_attention(self.device.type)
        return nullcontext()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient here: Lightning's own clipping refuses a fused optimiser under AMP.

        Raises:
            ValueError: The gradient is not finite; the weights are still those of the last step.
        """
        limit = self.optimizer_knobs.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(
            self.unet.parameters(), math.inf if limit is None else limit
        )
        if not torch.isfinite(norm):
            raise ValueError(
                f"the gradient of step {self.global_step} is {norm.item()}, expected a finite one: "
                "lower optimizer.learning_rate or clip_norm"
            )
        self.log("gradient_norm", norm, batch_size=1)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then let the average follow."""
        super().optimizer_step(*args, **kwargs)
        decay = ema.ramped_decay(self.global_step + 1, self.ema_decay)
        ema.update(self.average, self.unet, decay=decay)

    def configure_optimizers(self) -> Any:
        """AdamW in two groups, the widened first convolution at a rate of its own."""
        knobs = self.optimizer_knobs
        first = list(self.unet.conv_in.parameters())
        rest = [p for name, p in self.unet.named_parameters() if not name.startswith("conv_in.")]
        optimizer = AdamW(
            [
                {"params": rest, "lr": knobs.learning_rate},
                {"params": first, "lr": knobs.learning_rate * knobs.first_layer_factor},
            ],
            betas=knobs.betas,
            weight_decay=knobs.weight_decay,
        )
        steps = self.trainer.max_steps
        schedule = LambdaLR(optimizer, lambda step: learning_rate_factor(step, knobs, steps))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    @property
    def _data(self) -> PairData:
        return cast(PairData, cast(Any, self.trainer).datamodule)

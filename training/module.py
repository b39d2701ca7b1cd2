"""The LightningModule: a frozen base model, its widened UNet in training, and their average.

Only the two UNets are registered as submodules, and checkpoints hold what is trained of them and
nothing frozen. All randomness comes from `objective.draw`; there is no generator state to save.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from inference.backbone import Backbone, load_backbone
from inference.choices import PredictionType
from inference.model_names import located
from inference.number_types import FractionBelowOne, Seed, checks_numbers
from inference.settings import Settings
from inference.text import Text
from training import ema, sharding
from training.config import Lora, Objective, OptimizerKnobs, Speed
from training.data.data_module import PairData
from training.data.samples import Batch, posterior_noise
from training.lora import add_adapters, merged
from training.noise_schedule import cumulative_alphas, trained_scheduler
from training.objective import (
    Draws,
    draw,
    edit_loss,
    latent_weights,
    log_mean_weight,
    score_weights,
)
from training.optimizer import adamw, clip, learning_rate_factor, use_own_rates
from training.precision import bf16_with_float32_attention
from training.speed import lay_out, speed_up
from training.steps import StepRecord, ends_a_step
from training.unet import widen


@checks_numbers
class EditorTraining(pl.LightningModule):
    """Trains an instruction-following editor from a text-to-image model (InstructPix2Pix).

    Attributes:
        unet: The widened UNet in training, all of it or its adapters and its input layer.
        average: The moving average of its weights.
        backbone: The frozen rest of the base model around `average`: the editor as it stands.
    """

    def __init__(
        self,
        base: Path,
        objective: Objective = Objective(),  # noqa: B008  (frozen)
        optimizer: OptimizerKnobs = OptimizerKnobs(),  # noqa: B008
        lora: Lora | None = None,
        ema_decay: FractionBelowOne = 0.9999,
        settings: Settings | None = None,
        speed: Speed = Speed(),  # noqa: B008
        seed: Seed = 0,
    ) -> None:
        """Load the base model and widen its UNet.

        The arguments are those of `training.signatures.editor_training`.

        Raises:
            ValueError: A knob is out of its range, or the base takes more channels than an editor
                does, or does not predict what it is to.
        """
        super().__init__()
        self.objective, self.optimizer_knobs, self.lora = objective, optimizer, lora
        self.ema_decay, self.speed, self.seed = ema_decay, speed, seed
        parent = load_backbone(located(base))
        self.unet = widen(parent.unet).train().requires_grad_(True)
        if lora is not None:
            torch.manual_seed(seed)  # adapters begin at random
            add_adapters(self.unet, lora)
        lay_out(self.unet, speed)
        self.average = ema.average_of(self.unet)
        speed_up(self.unet, speed)
        self._step = StepRecord()
        scheduler = trained_scheduler(parent.scheduler, objective)
        self.prediction_type: PredictionType = scheduler.config.prediction_type
        self.backbone = replace(
            parent,
            unet=self.average,
            scheduler=scheduler,
            settings=settings or parent.settings,
        )
        self.register_buffer("alphas", cumulative_alphas(scheduler), persistent=False)
        self.alphas: Tensor
        self.strict_loading = False  # what is frozen is not in checkpoints; see on_load_checkpoint

    def editor(self) -> Backbone:
        """The editor as it stands, adapters worked into its weights."""
        return replace(self.backbone, unet=merged(self.average))

    def configure_model(self) -> None:
        """Share both UNets among the ranks where the strategy is to.

        Raises:
            ValueError: The optimiser's moments or the weights cannot be shared.
        """
        if self.device_mesh is not None:
            if self.optimizer_knobs.kind == "adamw_8bit":
                raise ValueError(
                    f"optimizer.kind is adamw_8bit, which strategy {sharding.STRATEGY} cannot "
                    "share among the ranks, expected adamw"
                )
            mesh, mixed = self.device_mesh["data_parallel"], self.trainer.precision == "bf16-mixed"
            sharding.shard(self.unet, mesh, torch.bfloat16 if mixed else torch.float32)
            sharding.shard(self.average, mesh)

    def put_together(self) -> None:
        """After training: the average as a plain network on rank 0; all ranks call this."""
        if self.device_mesh is not None:
            average = sharding.put_together(self.average, self.blank_unet(), self.global_rank)
            self.average = average
            self.backbone = replace(self.backbone, unet=average)
        self.average.to(memory_format=torch.contiguous_format)  # as files have it

    def blank_unet(self) -> UNet2DConditionModel:
        """A UNet like the one in training, without memory behind it."""
        with torch.device("meta"):
            blank = UNet2DConditionModel.from_config(self.unet.config)
            if self.lora is not None:
                add_adapters(blank, self.lora)
        return blank

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What is trained, and its average."""
        trained = {name for name, p in self.unet.named_parameters() if p.requires_grad}
        whole = super().state_dict(*args, **kwargs)
        return {name: v for name, v in whole.items() if name.partition(".")[2] in trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on from another model's weights, and keep to the recipe's learning rate.

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
        use_own_rates(checkpoint, self.optimizer_knobs, self.trainer.max_steps)

    def on_fit_start(self) -> None:
        """Bring the frozen parts to the device, and let the data module encode with them.

        From here on float32 is multiplied as `speed.tf32` says, in the whole process.

        Raises:
            ValueError: The loss is to be weighted by a score that a pair lacks.
        """
        for module in self.backbone.modules.values():
            module.to(self.device)
        torch.set_float32_matmul_precision("high" if self.speed.tf32 else "highest")
        self._data.encode, self._data.backbone = self.encode, self.backbone
        if self.objective.score is not None:
            scores, shares = self._data.scores(self.objective.score)
            self._log_mean = log_mean_weight(scores, shares, self.objective.score_beta)

    @torch.no_grad()
    def encode(
        self, edited: Tensor, source: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Latents of the edited images (the target) and of the source images (the condition).

        Args:
            edited: (B, 3, H, W) uint8.
            source: (B, 3, H, W) uint8.
            noise: Draws the target from the VAE's posterior; None takes the mean.

        Returns:
            Twice (B, 4, H/f, W/f) for a VAE that shrinks f times.
        """
        return (
            self.backbone.encode_image(self._normalised(edited), noise, check=False),
            self.backbone.encode_condition(self._normalised(source), check=False),
        )

    def _normalised(self, images: Tensor) -> Tensor:
        return images.to(self.device, torch.float32) / 127.5 - 1

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch; see `objective.edit_loss`."""
        edited, condition = batch.edited, batch.source
        if not batch.is_encoded:
            edited, condition = self.encode(edited, condition, self._posterior_noise(batch))
        draws = draw(
            seed=self.seed,
            epochs=batch.epochs,
            positions=batch.positions,
            shape=edited.shape[1:],
            timesteps=len(self.alphas),
            knobs=self.objective,
        )
        text = self._encoded(batch.instructions, draws)
        with self._precision():
            loss = edit_loss(
                self.unet,
                edited=edited,
                condition=condition,
                text=text,
                sizes=batch.sizes,
                weights=self._weights(edited, condition, batch),
                draws=Draws(*(part.to(self.device) for part in draws)),
                alphas=self.alphas,
                prediction_type=self.prediction_type,
                knobs=self.objective,
            )
        self._step.add(batch.positions, loss)
        return loss

    def _posterior_noise(self, batch: Batch) -> Tensor:
        """What draws the targets: the same for images as for latents that were made before."""
        height, width = (side // self.backbone.latent_factor for side in batch.edited.shape[-2:])
        shape = (self.backbone.vae.config.latent_channels, height, width)
        places = zip(batch.epochs, batch.positions, strict=True)
        return torch.stack([posterior_noise(self.seed, *place, shape=shape) for place in places])

    @torch.no_grad()
    def _encoded(self, instructions: list[str], draws: Draws) -> Text:
        """With the text an SDXL loses its pooled summary, both as its null text is."""
        kept = zip(instructions, draws.keep_text.tolist(), strict=True)
        return self.backbone.encode_text([prompt if keep else "" for prompt, keep in kept])

    def _weights(self, edited: Tensor, condition: Tensor, batch: Batch) -> Tensor:
        scale = self.backbone.vae.config.scaling_factor / self.backbone.settings.image_latent_scale
        weights = latent_weights(edited, condition * scale, self.objective)
        name, beta = self.objective.score, self.objective.score_beta
        if name is None:
            return weights
        each = score_weights(batch.score(name), beta, self._log_mean)
        return weights * each.to(weights)[:, None, None, None]

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
        norm = clip(self.unet.parameters(), self.optimizer_knobs.clip_norm)
        if not torch.isfinite(norm):
            raise ValueError(
                f"the gradient of step {self.global_step + 1} is {norm.item()}, expected a finite "
                f"one: look at {self._step.suspects(self._data.pairs.where)}. The last checkpoint "
                "stands. With other data or a lower optimizer.learning_rate begin another output "
                f"folder there: --ckpt_path {self.trainer.default_root_dir}/last.ckpt"
            )
        self.log("train/loss", self._step.loss, batch_size=1, sync_dist=True)
        self.log("train/gradient_norm", norm, batch_size=1)
        self.log("train/lr", optimizer.param_groups[0]["lr"], batch_size=1)
        self._step.clear()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Put off an end by `trainer.max_time` to that of the step, whose gradients it would lose.

        Its callback, which comes before this hook, asks anew after every batch.
        """
        if not ends_a_step(self.trainer, batch_idx):
            self.trainer.should_stop = False

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then let the average follow."""
        super().optimizer_step(*args, **kwargs)
        decay = ema.ramped_decay(self.global_step + 1, self.ema_decay)
        ema.update(self.average, self.unet, decay=decay)

    def configure_optimizers(self) -> Any:
        """AdamW in two groups, the widened first convolution at a rate of its own."""
        knobs, steps = self.optimizer_knobs, self.trainer.max_steps
        optimizer = adamw(self.unet, knobs)
        schedule = LambdaLR(optimizer, lambda step: learning_rate_factor(step, knobs, steps))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    @property
    def _data(self) -> PairData:
        return cast(PairData, cast(Any, self.trainer).datamodule)

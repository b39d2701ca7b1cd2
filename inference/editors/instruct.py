"""Editing by instruction with an InstructPix2Pix model and dual classifier-free guidance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.backbone import Backbone
from inference.editors.config import InstructConfig
from inference.editors.editor import EditRequest, required
from inference.editors.sizes import Sizes, in_batches
from inference.guidance import dual_weights
from inference.noise import keyed_noise
from inference.number_types import checks_numbers
from inference.progress import ProgressBar
from inference.samplers import SAMPLERS
from inference.sampling import Predict, Sampler, denoise
from inference.text import Text


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class Instruct(InstructConfig):
    """Instruct.

    The other options are those of `InstructConfig`.

    Attributes:
        backbone: A model whose UNet takes latents and image condition, of equal channels.
        progress: Show a progress bar.
    """

    backbone: Backbone
    progress: bool = False

    def __post_init__(self) -> None:
        expected = 2 * self.backbone.vae.config.latent_channels
        found = self.backbone.unet.config.in_channels
        if found != expected:
            raise ValueError(
                f"backbone: its UNet takes {found} input channels, but editing by instruction "
                f"needs {expected} (latents and image condition), as in an InstructPix2Pix model"
            )
        self.make_sampler()  # an impossible number of steps is an error here, not in mid-run

    @property
    def reads(self) -> frozenset[str]:
        """See `Editor`."""
        return frozenset({"instruction", "seed"})

    def make_sampler(self) -> Sampler:
        """The tables of the chosen sampler."""
        settings = self.backbone.settings
        make = SAMPLERS[self.sampler or settings.sampler]
        return make(self.backbone.scheduler, settings.steps if self.steps is None else self.steps)

    @torch.no_grad()
    def edit(self, requests: Sequence[EditRequest]) -> list[Tensor]:
        """Edit images, those of equal size together.

        Args:
            requests: Images of any sizes.

        Returns:
            The edited images in the order of the requests, each of its image's size, on the CPU.

        Raises:
            PromptTooLong: An instruction has more tokens than the text encoder reads.
            ValueError: A request lacks its image or its instruction.
        """
        images: list[Tensor] = [required(one, "image", "Instruct") for one in requests]
        texts: list[str] = [required(one, "instruction", "Instruct") for one in requests]
        self.backbone.check_lengths(texts)
        total = len(requests) * self.make_sampler().steps
        with ProgressBar(
            total=total, desc="editing", unit="step", disable=not self.progress
        ) as bar:

            def edited(rows: Sequence[int], resized: Tensor) -> Tensor:
                instructions, seeds = [texts[r] for r in rows], [requests[r].seed for r in rows]
                latents = self._latents(resized, instructions, seeds, bar.update)
                return self.backbone.decode(latents)

            sizes = Sizes.of(self.backbone, self.resolution)
            return in_batches(images, edited, sizes, self.batch_size)

    def predictor(self, images: Tensor, instructions: Sequence[str], sampler: Sampler) -> Predict:
        """The guided model output for a batch, as `denoise` wants it.

        The UNet sees, for every image, one row a guidance term: the full condition, the image alone
        (null text) and neither (null text, and zeros for the image's latents). Terms whose weight
        is zero are left out. The image's latents are appended after the state is scaled, and are
        themselves never scaled by the sampler.

        Args:
            images: `(B, 3, H, W)` in [-1, 1], sides multiples of `Backbone.size_multiple`.
            instructions: B of them.
            sampler: Whose timesteps the model is told.
        """
        backbone, settings = self.backbone, self.backbone.settings
        weights = dual_weights(
            settings.text_scale if self.text_scale is None else self.text_scale,
            settings.image_scale if self.image_scale is None else self.image_scale,
        )
        image = backbone.encode_condition(images)
        text = backbone.encode_text(instructions)
        null = backbone.encode_text([""]).expand(len(text))
        terms = [
            (weights.full, text, image),
            (weights.image_only, null, image),
            (weights.uncond, null, torch.zeros_like(image)),
        ]
        terms = [term for term in terms if term[0] != 0]
        texts = Text.cat([text for _, text, _ in terms])
        conditions = torch.cat([image for _, _, image in terms])

        def predict(i: int, x: Tensor) -> Tensor:
            rows = torch.cat([torch.cat([x.to(conditions)] * len(terms)), conditions], dim=1)
            output = backbone.unet_output(rows, sampler.timesteps[i], texts)
            parts = output.chunk(len(terms))
            return torch.stack([w * p for (w, _, _), p in zip(terms, parts, strict=True)]).sum(0)

        return predict

    def _latents(
        self,
        images: Tensor,
        instructions: Sequence[str],
        seeds: Sequence[int],
        advance: Callable[[int], object],
    ) -> Tensor:
        sampler, factor = self.make_sampler(), self.backbone.latent_factor
        channels, (height, width) = self.backbone.vae.config.latent_channels, images.shape[2:]
        shape = (channels, height // factor, width // factor)

        def noise(*step: str | int) -> Tensor:
            rows = [keyed_noise("edit", seed, *step, shape=shape) for seed in seeds]
            return torch.stack(rows).to(self.backbone.device)

        return denoise(
            self.predictor(images, instructions, sampler),
            sampler,
            sampler.init_scale * noise("start"),
            noise=noise,
            callback=lambda *_: advance(len(images)),
        )

"""SDEdit: noise a picture part of the way, and denoise it towards a prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from inference.backbone import Backbone
from inference.editors.config import SdEditConfig
from inference.editors.editor import EditRequest, required
from inference.editors.sizes import Sizes, in_batches
from inference.inversion.inverted import Inversion, InversionRequest, Inverted, guided
from inference.noise import keyed_noise
from inference.number_types import checks_numbers
from inference.progress import ProgressBar
from inference.samplers import SAMPLERS
from inference.sampling import Predict, Sampler, denoise
from inference.text import Text

_Noiser = Callable[[int, Tensor], Tensor]
"""The state before a step of clean latents."""


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class SdEdit(SdEditConfig):
    """SDEdit.

    The other options are those of `SdEditConfig`.

    Attributes:
        backbone: A text-to-image model.
        mask: Where the picture may change, (H, W) of its own size, 1 or 0; None is everywhere.
        inversion: Takes the noisy state, and what may not change of the states after it, from the
            picture's inversion instead of fresh noise.
        progress: Show a progress bar.
    """

    backbone: Backbone
    mask: Tensor | None = None
    inversion: Inversion | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.backbone.check_text_to_image("SdEdit")
        if self.mask is not None and self.mask.ndim != 2:
            raise ValueError(f"mask has shape {tuple(self.mask.shape)}; expected (H, W)")
        if self.mask is None and self.space == "pixel":
            raise ValueError("space is 'pixel' without a mask; expected a mask, or space 'latent'")

    @property
    def reads(self) -> frozenset[str]:
        """See `Editor`: an inversion needs a source prompt, and draws no noise."""
        return frozenset({"target", "seed" if self.inversion is None else "source"})

    @property
    def first_step(self) -> int:
        """The step from which on the picture is denoised."""
        return self.steps - int(self.steps * self.strength + 1e-6)

    @torch.no_grad()
    def edit(self, requests: Sequence[EditRequest]) -> list[Tensor]:
        """The edited images; see `Editor`.

        Raises:
            ValueError: A request lacks its image or its target prompt, or the mask is of another
                size.
            PromptTooLong: A prompt has more tokens than the text encoder reads.
        """
        images: list[Tensor] = [required(one, "image", "SdEdit") for one in requests]
        prompts: list[str] = [required(one, "target", "SdEdit") for one in requests]
        self.backbone.check_lengths(prompts)
        self._check_mask(images)
        total = len(requests) * self.repeats * (self.steps - self.first_step)
        with ProgressBar(
            total=total, desc="editing", unit="step", disable=not self.progress
        ) as bar:

            def edited(rows: Sequence[int], resized: Tensor) -> Tensor:
                batch = [requests[row] for row in rows]
                return self._edited(batch, resized, bar.update)

            sizes = Sizes.of(self.backbone, None)
            results = in_batches(images, edited, sizes, self.batch_size)
        if self.mask is None or self.space == "latent":
            return results
        return [
            torch.where(self.mask.bool(), result, image)
            for result, image in zip(results, images, strict=True)
        ]

    def _check_mask(self, images: Sequence[Tensor]) -> None:
        for image in images:
            if self.mask is not None and image.shape[1:] != self.mask.shape:
                raise ValueError(
                    f"the mask is {tuple(self.mask.shape)}, but an image is "
                    f"{tuple(image.shape[1:])}; expected the same height and width"
                )

    def _edited(
        self,
        requests: Sequence[EditRequest],
        images: Tensor,
        advance: Callable[[int], object],
    ) -> Tensor:
        """The edited images, (B, 3, h, w)."""
        inverted = self._inverted(requests, images)
        sampler = self._sampler(inverted)
        predict = self._predictor(requests, inverted, sampler)
        known = clean = self.backbone.encode_image(images)
        change = self._mask_at(clean)
        for repeat in range(self.repeats):
            noise = self._noise(requests, clean, repeat)
            noised = self._noiser(sampler, noise, inverted)

            def fresh(i: int, repeat: int = repeat) -> Tensor:
                return self._noise(requests, known, repeat, i)

            def adjust(i: int, x: Tensor, noised: _Noiser = noised) -> Tensor:
                return torch.where(change, x, noised(i + 1, known))

            clean = denoise(
                predict,
                sampler,
                noised(self.first_step, clean),
                start=self.first_step,
                noise=fresh,
                adjust=None if self.mask is None else adjust,
                callback=lambda *_: advance(len(images)),
            )
            if self.mask is not None and self.space == "pixel" and repeat + 1 < self.repeats:
                clean = self.backbone.encode_image(self._pasted(images, clean))
        return self.backbone.decode(clean)

    def _inverted(self, requests: Sequence[EditRequest], images: Tensor) -> Inverted | None:
        if self.inversion is None:
            return None
        inverted = self.inversion.invert(
            InversionRequest(
                backbone=self.backbone,
                images=images,
                prompts=tuple(required(one, "source", "SdEdit's inversion") for one in requests),
                steps=self.steps,
                guidance_scale=self.guidance_scale,
                progress=self.progress,
            )
        )
        _check_of_use(inverted)
        return inverted

    def _sampler(self, inverted: Inverted | None) -> Sampler:
        if inverted is not None:
            return inverted.sampler
        return SAMPLERS[self.sampler or "euler_ancestral"](self.backbone.scheduler, self.steps)

    def _predictor(
        self, requests: Sequence[EditRequest], inverted: Inverted | None, sampler: Sampler
    ) -> Predict:
        text = self.backbone.encode_text([str(request.target) for request in requests])
        empty = self.backbone.encode_text([""])

        def null(i: int) -> Text:
            return inverted.target_null_texts(i, empty) if inverted else empty.expand(len(text))

        return guided(self.backbone, lambda _: text, sampler, self.guidance_scale, null)

    def _noise(self, requests: Sequence[EditRequest], like: Tensor, *what: int) -> Tensor:
        drawn = [keyed_noise("sdedit", one.seed, *what, shape=like.shape[1:]) for one in requests]
        return torch.stack(drawn).to(like)

    def _noiser(self, sampler: Sampler, noise: Tensor, inverted: Inverted | None) -> _Noiser:
        if inverted is not None:
            # With other noise, what may not change would not fit what is drawn beside it.
            return lambda i, clean: inverted.trajectory[i].to(clean)
        return lambda i, clean: clean if i == sampler.steps else sampler.noised(i, clean, noise)

    def _mask_at(self, latents: Tensor) -> Tensor:
        """(h, w) bool, the latents that may change: those that any such pixel reaches."""
        if self.mask is None:
            return torch.ones(latents.shape[-2:], dtype=torch.bool, device=latents.device)
        size = (latents.shape[-2], latents.shape[-1])
        pooled = F.adaptive_max_pool2d(self.mask[None, None].float(), size)[0, 0]
        return pooled.to(latents.device) > 0

    def _pasted(self, images: Tensor, latents: Tensor) -> Tensor:
        """The decoded picture with what may not change put back."""
        assert self.mask is not None
        size = (images.shape[-2], images.shape[-1])
        change = F.interpolate(self.mask[None, None].float(), size)[0, 0].to(latents.device) > 0.5
        return torch.where(change, self.backbone.decode(latents), images.to(latents))


def _check_of_use(inverted: Inverted) -> None:
    """SDEdit draws no source beside its target, so what is for the source would be lost unseen."""
    lost = {
        "proximal guidance": inverted.proximal is not None,
        "a source that is put back onto its trajectory": inverted.follows,
        "prompt embeddings for the source": inverted.source is not None,
        "null embeddings for the source alone": not inverted.null_for_targets,
        "the noise of a source's steps": inverted.noise is not None,
    }
    for what, is_found in lost.items():
        if is_found:
            raise ValueError(
                f"inversion finds {what}, but SdEdit draws no source; expected an inversion that "
                "finds nothing for it alone, such as Ddim or NullText"
            )

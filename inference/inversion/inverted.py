"""What an inversion finds out about pictures, and the interface of all inversions.

An inversion answers one question: from which state, with which null embeddings and which
corrections does the model draw these pictures again, and so may be led to draw an edit of them. An
editor need not know which inversion it was.

Shapes: B pictures, S steps, latents (C, h, w), prompts of L tokens and D channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from inference.backbone import Backbone
from inference.guidance import cfg
from inference.sampling import Predict, Sampler, denoise


@dataclass(frozen=True, kw_only=True)
class Inverted:
    """B pictures, as a model can draw them again.

    Attributes:
        prompts: What each picture shows.
        trajectory: (S + 1, B, C, h, w), the states that lead to them: entry i is the state before
            step i, the last entry their latents.
        null: (S, B, L, D), the null embedding of each step; None for that of the empty prompt.
        follows: Whether the source is put back onto its trajectory after every step.
    """

    prompts: tuple[str, ...]
    trajectory: Tensor
    null: Tensor | None = None
    follows: bool = False

    def null_states(self, i: int, empty: Tensor) -> Tensor:
        """(B, L, D), the null embeddings of step i; `empty`, (1, L, D), is the usual one."""
        if self.null is None:
            return empty.expand(len(self.prompts), -1, -1)
        return self.null[i].to(empty)

    def correct(self, i: int, source: Tensor) -> Tensor:
        """The state of the sources after step i, (B, C, h, w)."""
        return self.trajectory[i + 1].to(source) if self.follows else source


class Inversion(Protocol):
    """Whatever inverts pictures; its fields are its knobs."""

    def invert(
        self,
        backbone: Backbone,
        images: Tensor,
        prompts: Sequence[str],
        *,
        sampler: Sampler,
        guidance_scale: float,
    ) -> Inverted:
        """Invert pictures.

        Args:
            backbone: A text-to-image model.
            images: (B, 3, H, W) in [-1, 1].
            prompts: What each shows.
            sampler: The sampler that is to draw them again.
            guidance_scale: The guidance that it will use.
        """
        ...


def conditional(backbone: Backbone, prompts: Sequence[str], sampler: Sampler) -> Predict:
    """The model's output for prompts without guidance."""
    text = backbone.encode_text(prompts)

    def predict(i: int, x: Tensor) -> Tensor:
        return unet_output(backbone, x, sampler.timesteps[i], text)

    return predict


def unet_output(backbone: Backbone, x: Tensor, timestep: float, text: Tensor) -> Tensor:
    """The UNet's output in float32 at least, for (N, C, h, w) states and (N, L, D) texts."""
    output: Tensor = backbone.unet(x.to(text), timestep, encoder_hidden_states=text).sample
    return output.to(torch.promote_types(output.dtype, torch.float32))


@torch.no_grad()
def reconstruct(
    backbone: Backbone, inverted: Inverted, *, sampler: Sampler, guidance_scale: float
) -> Tensor:
    """Draw inverted pictures again: their latents, (B, C, h, w)."""
    text, empty = backbone.encode_text(inverted.prompts), backbone.encode_text([""])

    def predict(i: int, x: Tensor) -> Tensor:
        texts = torch.cat([inverted.null_states(i, empty), text])
        output = unet_output(backbone, torch.cat([x, x]), sampler.timesteps[i], texts)
        uncond, cond = output.chunk(2)
        return cfg(uncond, cond, guidance_scale)

    return denoise(predict, sampler, inverted.trajectory[0], adjust=inverted.correct)

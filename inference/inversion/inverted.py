"""What an inversion finds out about pictures, and the interface of all inversions.

An inversion answers one question: from which state, with which null embeddings and which
corrections does the model draw these pictures again, and so may be led to draw an edit of them. An
editor need not know which inversion it was.

Shapes: B pictures, S steps, latents (C, h, w), prompts of L tokens and D channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from inference.backbone import Backbone
from inference.guidance import cfg
from inference.sampling import Predict, Sampler, denoise

NullStates = Callable[[int], Tensor]
"""The null embeddings of a step, (B, L, D)."""


@dataclass(frozen=True, kw_only=True)
class InversionRequest:
    """What is to be inverted, and for what.

    Attributes:
        backbone: A text-to-image model.
        images: (B, 3, H, W) in [-1, 1].
        prompts: What each shows.
        steps: Of the sampler that is to draw them again.
        guidance_scale: The guidance that edits of them will use.

    Raises:
        ValueError: There are more or fewer prompts than images.
    """

    backbone: Backbone
    images: Tensor
    prompts: tuple[str, ...]
    steps: int
    guidance_scale: float

    def __post_init__(self) -> None:
        if len(self.images) != len(self.prompts):
            raise ValueError(f"there are {len(self.images)} images and {len(self.prompts)} prompts")


@dataclass(frozen=True, kw_only=True)
class Inverted:
    """B pictures, as a model can draw them again.

    Attributes:
        prompts: What each picture shows.
        sampler: Draws them again.
        source_scale: With this guidance.
        trajectory: (S + 1, B, C, h, w), the states that lead to them: entry i is the state before
            step i, the last entry their latents.
        first_step: The step to begin at.
        null: (S, B, L, D), the null embedding of each step; None for that of the empty prompt.
        noise: (S, B, C, h, w), what each step adds; None for a sampler that adds none.
        follows: Whether the source is put back onto its trajectory after every step.
    """

    prompts: tuple[str, ...]
    sampler: Sampler
    source_scale: float
    trajectory: Tensor
    first_step: int = 0
    null: Tensor | None = None
    noise: Tensor | None = None
    follows: bool = False

    @property
    def start(self) -> Tensor:
        """The state before the first step, (B, C, h, w)."""
        return self.trajectory[self.first_step]

    def null_states(self, i: int, empty: Tensor) -> Tensor:
        """(B, L, D), the null embeddings of step i; `empty`, (1, L, D), is the usual one."""
        if self.null is None:
            return empty.expand(len(self.prompts), -1, -1)
        return self.null[i].to(empty)

    def step_noise(self, i: int) -> Tensor:
        """What step i adds, (B, C, h, w)."""
        assert self.noise is not None  # only asked of a sampler that adds some
        return self.noise[i]

    def correct(self, i: int, source: Tensor) -> Tensor:
        """The state of the sources after step i, (B, C, h, w)."""
        return self.trajectory[i + 1].to(source) if self.follows else source


class Inversion(Protocol):
    """Whatever inverts pictures; its fields are its knobs."""

    def invert(self, request: InversionRequest) -> Inverted:
        """Invert pictures."""
        ...


def conditional(backbone: Backbone, prompts: Sequence[str], sampler: Sampler) -> Predict:
    """The model's output for prompts without guidance."""
    text = backbone.encode_text(prompts)

    def predict(i: int, x: Tensor) -> Tensor:
        return unet_output(backbone, x, sampler.timesteps[i], text)

    return predict


def guided(
    backbone: Backbone, texts: Tensor, sampler: Sampler, scale: float, null: NullStates
) -> Predict:
    """The model's guided output for (B, L, D) texts; `null` gives each step's null embeddings."""

    def predict(i: int, x: Tensor) -> Tensor:
        output = unet_output(
            backbone, torch.cat([x, x]), sampler.timesteps[i], torch.cat([null(i), texts])
        )
        uncond, cond = output.chunk(2)
        return cfg(uncond, cond, scale)

    return predict


def unet_output(backbone: Backbone, x: Tensor, timestep: float, text: Tensor) -> Tensor:
    """The UNet's output in float32 at least, for (N, C, h, w) states and (N, L, D) texts."""
    output: Tensor = backbone.unet(x.to(text), timestep, encoder_hidden_states=text).sample
    return output.to(torch.promote_types(output.dtype, torch.float32))


@torch.no_grad()
def reconstruct(backbone: Backbone, inverted: Inverted) -> Tensor:
    """Draw inverted pictures again: their latents, (B, C, h, w)."""
    empty = backbone.encode_text([""])
    predict = guided(
        backbone,
        backbone.encode_text(inverted.prompts),
        inverted.sampler,
        inverted.source_scale,
        lambda i: inverted.null_states(i, empty),
    )
    return denoise(
        predict,
        inverted.sampler,
        inverted.start,
        start=inverted.first_step,
        noise=inverted.step_noise,
        adjust=inverted.correct,
    )

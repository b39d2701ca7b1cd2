"""What an inversion finds out about pictures, and the interface of all inversions.

An inversion answers one question: from which state, with which null embeddings and which
corrections does the model draw these pictures again, and so may be led to draw an edit of them. An
editor need not know which inversion it was.

Shapes: B pictures, S steps, latents (C, h, w), prompts of L tokens and D channels.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inference.backbone import Backbone
from inference.guidance import cfg
from inference.inversion.config import InversionConfig, ProximalGuidance
from inference.inversion.proximal import put_back
from inference.sampling import Predict, Sampler, denoise
from inference.text import Text

StepTexts = Callable[[int], Text]
"""The texts of a step, B of them."""


@dataclass(frozen=True, kw_only=True)
class InversionRequest:
    """What is to be inverted, and for what.

    Attributes:
        backbone: A text-to-image model.
        images: (B, 3, H, W) in [-1, 1].
        prompts: What each shows.
        steps: Of the sampler that is to draw them again.
        guidance_scale: The guidance that edits of them will use.
        progress: Show a progress bar where it takes long.

    Raises:
        ValueError: There are more or fewer prompts than images, their size does not fit, or the
            model is an instruction editor's.
    """

    backbone: Backbone
    images: Tensor
    prompts: tuple[str, ...]
    steps: int
    guidance_scale: float
    progress: bool = False

    def __post_init__(self) -> None:
        self.backbone.check_text_to_image("an inversion")
        if len(self.images) != len(self.prompts):
            raise ValueError(f"there are {len(self.images)} images and {len(self.prompts)} prompts")
        (height, width), multiple = self.images.shape[2:], self.backbone.size_multiple
        if height % multiple or width % multiple:
            raise ValueError(
                f"images are {width}x{height}; expected sides that are multiples of {multiple}"
            )


@dataclass(frozen=True, kw_only=True)
class Inverted:
    """B pictures, as a model can draw them again.

    Attributes:
        prompts: What each picture shows.
        sampler: Draws them again.
        source_scale: With this guidance.
        optimised: Whether `null` or `source` was optimised for that guidance.
        trajectory: (S + 1, B, C, h, w), the states that lead to them: entry i is the state before
            step i, the last entry their latents.
        first_step: The step to begin at.
        null: (S, B), the null text of each step; None for that of the empty prompt.
        null_for_targets: Whether edits of the pictures are guided with `null` too.
        source: (S, B), the text of each step that draws the pictures; None for their prompts.
        noise: (S, B, C, h, w), what each step adds; None for a sampler that adds none.
        follows: Whether the source is put back onto its trajectory after every step.
        proximal: How targets are to be guided, and from when on sources are put back onto their
            trajectory too; None as usual.
    """

    prompts: tuple[str, ...]
    sampler: Sampler
    source_scale: float
    trajectory: Tensor
    optimised: bool = False
    first_step: int = 0
    null: Text | None = None
    null_for_targets: bool = True
    source: Text | None = None
    noise: Tensor | None = None
    follows: bool = False
    proximal: ProximalGuidance | None = None

    @property
    def start(self) -> Tensor:
        """The state before the first step, (B, C, h, w)."""
        return self.trajectory[self.first_step]

    def null_texts(self, i: int, empty: Text) -> Text:
        """The B null texts of step i; `empty`, one, is the usual one."""
        if self.null is None:
            return empty.expand(len(self.prompts))
        return self.null[i].to(empty.states)

    def target_null_texts(self, i: int, empty: Text) -> Text:
        """The same for edits of the pictures."""
        if self.null_for_targets:
            return self.null_texts(i, empty)
        return empty.expand(len(self.prompts))

    def source_texts(self, i: int, prompts: Text) -> Text:
        """The B texts that draw the pictures in step i; `prompts`, B, are the usual ones."""
        return prompts if self.source is None else self.source[i].to(prompts.states)

    def step_noise(self, i: int) -> Tensor:
        """What step i adds, (B, C, h, w)."""
        assert self.noise is not None  # only asked of a sampler that adds some
        return self.noise[i]

    def correct(self, i: int, source: Tensor) -> Tensor:
        """The state of the sources after step i, (B, C, h, w)."""
        if self.follows:
            return self.trajectory[i + 1].to(source)
        if self.proximal:
            original, led = self.trajectory[i + 1].to(source), torch.zeros_like(source)
            return put_back(self.proximal, self.sampler.timesteps[i], source, original, led)
        return source

    def picture(self, number: int) -> "Inverted":
        """One of the pictures, B = 1."""
        one = slice(number, number + 1)
        return replace(
            self,
            prompts=self.prompts[one],
            trajectory=self.trajectory[:, one],
            null=None if self.null is None else self.null[:, one],
            source=None if self.source is None else self.source[:, one],
            noise=None if self.noise is None else self.noise[:, one],
        )

    @staticmethod
    def together(parts: "Sequence[Inverted]") -> "Inverted":
        """The pictures of several as those of one.

        Raises:
            ValueError: They were not inverted in the same way.
        """
        ways = {part._way for part in parts}
        if len(ways) > 1:
            raise ValueError(f"the pictures were inverted in {len(ways)} ways; expected one")
        nulls, sources, noises = (
            [getattr(part, name) for part in parts if getattr(part, name) is not None]
            for name in ("null", "source", "noise")
        )
        return replace(
            parts[0],
            prompts=tuple(prompt for part in parts for prompt in part.prompts),
            trajectory=torch.cat([part.trajectory for part in parts], dim=1),
            null=Text.cat(nulls, dim=1) if nulls else None,
            source=Text.cat(sources, dim=1) if sources else None,
            noise=torch.cat(noises, dim=1) if noises else None,
        )

    @property
    def _way(self) -> tuple[object, ...]:
        """All that is the same for each of the pictures."""
        found = (self.null is not None, self.source is not None, self.noise is not None)
        told = (self.source_scale, self.optimised, self.first_step, self.null_for_targets)
        return (self.sampler, *told, self.follows, self.proximal, *found)


class Inversion(InversionConfig, ABC):
    """Whatever inverts pictures; its fields are its options."""

    @abstractmethod
    def invert(self, request: InversionRequest) -> Inverted:
        """Invert pictures."""


def conditional(backbone: Backbone, prompts: Sequence[str], sampler: Sampler) -> Predict:
    """The model's output for prompts without guidance."""
    text = backbone.encode_text(prompts)

    def predict(i: int, x: Tensor) -> Tensor:
        return backbone.unet_output(x, sampler.timesteps[i], text)

    return predict


def guided(
    backbone: Backbone, texts: StepTexts, sampler: Sampler, scale: float, null: StepTexts
) -> Predict:
    """The model's guided output for the B texts of each step and its B null texts."""

    def predict(i: int, x: Tensor) -> Tensor:
        output = backbone.unet_output(
            torch.cat([x, x]), sampler.timesteps[i], Text.cat([null(i), texts(i)])
        )
        uncond, cond = output.chunk(2)
        return cfg(uncond, cond, scale)

    return predict


@torch.no_grad()
def reconstruct(backbone: Backbone, inverted: Inverted) -> Tensor:
    """Draw inverted pictures again: their latents, (B, C, h, w)."""
    empty, prompts = backbone.encode_text([""]), backbone.encode_text(inverted.prompts)
    predict = guided(
        backbone,
        lambda i: inverted.source_texts(i, prompts),
        inverted.sampler,
        inverted.source_scale,
        lambda i: inverted.null_texts(i, empty),
    )
    return denoise(
        predict,
        inverted.sampler,
        inverted.start,
        start=inverted.first_step,
        noise=inverted.step_noise,
        adjust=inverted.correct,
    )

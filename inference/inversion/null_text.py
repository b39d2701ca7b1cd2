"""Null-text inversion: null embeddings with which guidance leads back to the picture."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from inference.guidance import cfg
from inference.inversion.ddim import Ddim
from inference.inversion.inverted import InversionRequest, Inverted, unet_output


@dataclass(frozen=True, kw_only=True)
class NullText:
    """Null-text inversion (Mokady et al. 2023, algorithm 1), of all pictures at once.

    The null embedding of step i starts as that of the step before and is optimised until the guided
    step from where the way back has come arrives on the DDIM trajectory. A picture leaves the
    optimisation of a step as soon as it is close enough; the others go on.

    Attributes:
        inner_steps: Optimiser steps a sampler step, at most.
        learning_rate: Of Adam at the first step; it falls to zero over 100 steps.
        early_stop: Mean squared error at which a picture is close enough at the first step; it
            grows by twice as much a step. 0 never stops early.
        progress: Show a progress bar.
    """

    inner_steps: int = 10
    learning_rate: float = 1e-2
    early_stop: float = 1e-5
    progress: bool = False

    def invert(self, request: InversionRequest) -> Inverted:
        """See `Inversion`."""
        inverted = Ddim().invert(request)
        with torch.no_grad():
            text = request.backbone.encode_text(request.prompts)
            null = request.backbone.encode_text([""]).expand_as(text).float()
        x, found = inverted.trajectory[0], []
        for i in tqdm(range(request.steps), desc="null-text", disable=not self.progress):
            step = _Step(request, inverted, i, x, text)
            null = self._optimised(step, null, i)
            x = step.after(null)
            found.append(null)
        return replace(inverted, null=torch.stack(found))

    @torch.enable_grad()  # an editor may be running without
    def _optimised(self, step: "_Step", null: Tensor, i: int) -> Tensor:
        """Null embeddings (B, L, D) of step i, from those of the step before."""
        rate = self.learning_rate * max(0.0, 1 - i / 100)
        close = self.early_stop * (1 + 2 * i)
        rows = [torch.nn.Parameter(row.clone()) for row in null]
        adam = torch.optim.Adam(rows, lr=rate)
        active = list(range(len(rows)))
        for _ in range(self.inner_steps):
            errors = step.errors(torch.stack([rows[row] for row in active]), active)
            gradients = torch.autograd.grad(errors.sum(), [rows[row] for row in active])
            adam.zero_grad()  # Adam passes over those without a gradient
            for row, gradient in zip(active, gradients, strict=True):
                rows[row].grad = gradient
            adam.step()
            far = (errors.detach() >= close).tolist()
            active = [row for row, is_far in zip(active, far, strict=True) if is_far]
            if not active:
                break
        return torch.stack([row.detach() for row in rows])


class _Step:
    """One guided step of B pictures, as a function of their null embeddings."""

    def __init__(
        self, request: InversionRequest, inverted: Inverted, i: int, x: Tensor, text: Tensor
    ) -> None:
        self.backbone, self.scale = request.backbone, request.guidance_scale
        self.sampler, self.goal = inverted.sampler, inverted.trajectory[i + 1]
        self.i, self.x = i, x
        with torch.no_grad():
            self.conditional = self._output(x, text)

    def after(self, null: Tensor) -> Tensor:
        """The state after the step, (B, C, h, w)."""
        with torch.no_grad():
            return self._moved(null, list(range(len(self.x))))

    def errors(self, null: Tensor, rows: Sequence[int]) -> Tensor:
        """(R,) mean squared distances of some pictures to their trajectory, with gradients."""
        difference = self._moved(null, rows) - self.goal[list(rows)]
        return difference.square().mean(dim=(1, 2, 3))

    def _moved(self, null: Tensor, rows: Sequence[int]) -> Tensor:
        chosen = list(rows)
        x = self.x[chosen]
        guided = cfg(self._output(x, null), self.conditional[chosen], self.scale)
        return self.sampler.step(self.i, x, guided)

    def _output(self, x: Tensor, text: Tensor) -> Tensor:
        text = text.to(self.backbone.dtype)
        return unet_output(self.backbone, x, self.sampler.timesteps[self.i], text)

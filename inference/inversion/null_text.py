"""Null-text inversion: embeddings with which guidance leads back to the picture."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from inference.guidance import cfg
from inference.inversion.config import NullTextConfig
from inference.inversion.ddim import Ddim
from inference.inversion.inverted import Inversion, InversionRequest, Inverted
from inference.noise import keyed_noise
from inference.number_types import checks_numbers
from inference.progress import ProgressBar
from inference.text import Text


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class NullText(NullTextConfig, Inversion):
    """See `NullTextConfig`."""

    def invert(self, request: InversionRequest) -> Inverted:
        """See `Inversion`."""
        inverted = Ddim().invert(request)
        way = _Way(request, inverted, self)
        if self.pivot == "random":
            inverted = way.inverted = replace(inverted, trajectory=way.random_trajectory())
        found = self._per_step(way) if self.per_step else self._shared(way)
        inverted = replace(inverted, optimised=True)
        if self.embedding == "null":
            return replace(inverted, null=found, null_for_targets=self.for_targets)
        return replace(inverted, source=found)

    def _per_step(self, way: "_Way") -> Text:
        states, x, found = way.moving.states, way.inverted.trajectory[0], []
        for i in ProgressBar(range(way.steps), desc="null-text", disable=not way.progress):
            pivot = None if self.pivot == "none" else way.step(i, x, way.inverted.trajectory[i + 1])
            states, arrived = self._optimised(
                partial(way.random_step, i) if pivot is None else partial(_always, pivot),
                states,
                updates=self.inner_steps,
                rate=self.learning_rate * max(0.0, 1 - i / 100),
                close=self.early_stop * (1 + 2 * i),
            )
            x = pivot.after(states, arrived) if pivot else x
            found.append(way.text(states))
        return Text.stack(found)

    def _shared(self, way: "_Way") -> Text:
        trajectory, steps = way.inverted.trajectory, way.steps
        pivots = [
            way.step(i, trajectory[i], trajectory[i + 1])
            for i in (range(steps) if self.pivot != "none" else ())
        ]
        states, _ = self._optimised(
            lambda n: pivots[n % steps] if pivots else way.random_step(n % steps, n // steps),
            way.moving.states,
            updates=steps * self.inner_steps,
            rate=self.learning_rate,
            close=0.0,  # close in one step says nothing of the others
        )
        return way.text(states).expand(steps, len(states))

    @torch.enable_grad()  # an editor may be running without
    def _optimised(
        self,
        step: "Callable[[int], _Step]",
        states: Tensor,
        *,
        updates: int,
        rate: float,
        close: float,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Embeddings with which B pictures come close to where steps should lead.

        Args:
            step: Optimiser step -> the sampler step to look at.
            states: Where to start.
            updates: Optimiser steps, at most.
            rate: Learning rate.
            close: Mean squared error below which a picture is left alone.

        Returns:
            (B, L, D) embeddings; and where the pictures that were close enough arrived with them.
        """
        rows = [torch.nn.Parameter(row.detach().clone()) for row in states]
        adam = torch.optim.Adam(rows, lr=rate)
        far, arrived = list(range(len(rows))), dict[int, Tensor]()
        for n in range(updates):
            looked_at = step(n)
            after = looked_at.moved(torch.stack([rows[row] for row in far]), far)
            errors = looked_at.errors(after, far)
            is_far = ~(errors.detach() < close)
            arrived |= {
                row: state
                for row, state, on in zip(far, after.detach(), is_far, strict=True)
                if not on
            }
            far = [row for row in far if row not in arrived]
            if not far:
                break
            # Of the sum of squares, not of their mean, which is too small a number for float16.
            size = after[0].numel()
            sums = size * errors[is_far].sum()
            gradients = torch.autograd.grad(sums, [rows[row] for row in far])
            adam.zero_grad()  # Adam passes over those without a gradient
            for row, gradient in zip(far, gradients, strict=True):
                rows[row].grad = gradient / size
            adam.step()
        return torch.stack([row.detach() for row in rows]), arrived


ABLATIONS: Mapping[str, NullText] = MappingProxyType(
    {
        "global": NullText(per_step=False),
        "random_pivot": NullText(pivot="random"),
        "no_pivot": NullText(pivot="none"),
        "textual_inversion": NullText(embedding="prompt", pivot="none", per_step=False),
        "textual_inversion_pivot": NullText(embedding="prompt"),
    }
)
"""The variants that the paper finds wanting (Mokady et al. 2023, section 4)."""


def _always(step: "_Step", _: int) -> "_Step":
    return step


class _Way:
    """The way back to B pictures: what is fixed about it, and what is to be found."""

    def __init__(self, request: InversionRequest, inverted: Inverted, knobs: NullText) -> None:
        self.backbone, self.scale = request.backbone, request.guidance_scale
        self.inverted, self.steps, self.seed = inverted, request.steps, knobs.seed
        self.progress = request.progress
        with torch.no_grad():
            prompts = request.backbone.encode_text(request.prompts)
            null = request.backbone.encode_text([""]).expand(len(prompts))
        self.moves_null = knobs.embedding == "null"
        if self.moves_null:
            self.moving, self.fixed = (null if knobs.begin == "empty" else prompts), prompts
        else:
            self.moving, self.fixed = prompts, null
        wide = torch.promote_types(self.moving.states.dtype, torch.float32)
        self.moving = Text(self.moving.states.to(wide), self.moving.pooled)

    def text(self, states: Tensor, rows: Sequence[int] | slice = slice(None)) -> Text:
        """The text of some pictures with (R, L, D) states in place of its own."""
        return Text(states, self.moving[rows].pooled)

    def step(self, i: int, x: Tensor, goal: Tensor) -> "_Step":
        """Step i from x, which is to lead to a goal; both (B, C, h, w)."""
        return _Step(self, i, x, goal)

    def random_step(self, i: int, n: int) -> "_Step":
        """Step i on the n-th of random trajectories."""
        noise = self._noise(i, n)
        return self.step(i, self._noised(i, noise), self._noised(i + 1, noise))

    def random_trajectory(self) -> Tensor:
        """(S + 1, B, C, h, w), with one noise for all steps.

        It starts at the picture under the noise of the first step, of which schedules leave a
        little to be seen; the paper's starts at noise alone.
        """
        noise = self._noise()
        return torch.stack([self._noised(i, noise) for i in range(self.steps + 1)])

    def output(self, i: int, x: Tensor, text: Text) -> Tensor:
        """The model's output."""
        return self.backbone.unet_output(x, self.inverted.sampler.timesteps[i], text)

    def _noise(self, *what: int) -> Tensor:
        clean = self.inverted.trajectory[-1]
        return keyed_noise("null-text", self.seed, *what, shape=clean.shape[1:]).to(clean)

    def _noised(self, i: int, noise: Tensor) -> Tensor:
        """The pictures as they are before step i on the trajectory of a noise."""
        clean, sampler = self.inverted.trajectory[-1], self.inverted.sampler
        if i < sampler.steps:
            return sampler.noised(i, clean, noise)
        return sampler.next_signal[-1] * clean + sampler.next_level[-1] * noise


class _Step:
    """One guided step of B pictures, as a function of the embeddings to be found."""

    def __init__(self, way: _Way, i: int, x: Tensor, goal: Tensor) -> None:
        self.way, self.i, self.x, self.goal = way, i, x, goal
        with torch.no_grad():
            self.fixed = way.output(i, x, way.fixed)

    def after(self, states: Tensor, arrived: Mapping[int, Tensor]) -> Tensor:
        """The state after the step, (B, C, h, w); of some pictures it is known."""
        missing = [row for row in range(len(self.x)) if row not in arrived]
        found = dict(arrived)
        if missing:
            with torch.no_grad():
                found |= dict(zip(missing, self.moved(states[missing], missing), strict=True))
        return torch.stack([found[row] for row in range(len(self.x))])

    def errors(self, after: Tensor, rows: Sequence[int]) -> Tensor:
        """(R,) mean squared distances of where some pictures arrive to their goal.

        Raises:
            ValueError: One is not a finite number.
        """
        errors = (after - self.goal[list(rows)]).square().mean(dim=(1, 2, 3))
        if not errors.isfinite().all():
            raise ValueError(
                f"null-text inversion is {errors.tolist()} away from its goal at step {self.i}; "
                "expected finite numbers. In float16 a model may overflow: try bfloat16 or float32"
            )
        return errors

    def moved(self, states: Tensor, rows: Sequence[int]) -> Tensor:
        """Where some pictures arrive with (R, L, D) embeddings, (R, C, h, w), with gradients."""
        chosen = list(rows)
        x, way = self.x[chosen], self.way
        moving, fixed = way.output(self.i, x, way.text(states, chosen)), self.fixed[chosen]
        uncond, cond = (moving, fixed) if way.moves_null else (fixed, moving)
        return way.inverted.sampler.step(self.i, x, cfg(uncond, cond, way.scale))

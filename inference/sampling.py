"""A sampler's pure step, and the one denoising loop.

diffusers' scheduler objects carry a step index and draw noise themselves, so a trajectory that
forks, shares noise or is inverted breaks silently. A `Sampler` holds nothing but numbers, which
`samplers.py` takes from such a scheduler's configuration: any step can be made from any state, any
number of times.

Notation: the state before step i is x = signal·x0 + level·ε.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.choices import PredictionType

Predict = Callable[[int, Tensor], Tensor]
"""`predict(i, x)`: the guided model output for the scaled state `x` before step `i`."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Tables of one sampler; entry i of each belongs to step i of `steps`.

    Attributes:
        prediction_type: What the model predicts.
        timesteps: The timestep the model is told, falling.
        signal, level: The state before the step is `signal·x0 + level·ε`.
        next_signal, next_level: The same for the part of the state after it that is not new noise.
        fresh: Standard deviation of the noise that the step adds.
        momentum: How much of the change of x0 since the step before the step adds; 0 where a step
            looks at the state alone.
        init_scale: The first state is `init_scale` times standard normal noise.
        clip: Bound on |x0|, where the scheduler's configuration asks for one.
    """

    prediction_type: PredictionType
    timesteps: tuple[float, ...]
    signal: tuple[float, ...]
    level: tuple[float, ...]
    next_signal: tuple[float, ...]
    next_level: tuple[float, ...]
    fresh: tuple[float, ...]
    init_scale: float
    momentum: tuple[float, ...] = ()
    clip: float | None = None

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.timesteps)

    @property
    def stochastic(self) -> bool:
        """Whether any step adds noise."""
        return any(self.fresh)

    @property
    def multistep(self) -> bool:
        """Whether any step looks at the x0 that the step before it estimated."""
        return any(self.momentum)

    def scale_input(self, i: int, x: Tensor) -> Tensor:
        """The state as the model expects it, of unit variance: x / √(signal² + level²)."""
        return x / math.hypot(self.signal[i], self.level[i])

    def noised(self, i: int, clean: Tensor, noise: Tensor) -> Tensor:
        """The state before step `i` of clean latents with some noise: signal·x0 + level·ε."""
        return self.signal[i] * clean + self.level[i] * noise

    def split(self, i: int, x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """The model's estimate of the clean latents x0 and of the noise ε in `x`.

        Args:
            i: Step index, 0 to `steps` - 1.
            x: State before the step, not scaled, `(B, C, h, w)`.
            output: The guided model output, same shape.
        """
        clean, noise = self._split(x, output, self.signal[i], self.level[i])
        return clean if self.clip is None else clean.clamp(-self.clip, self.clip), noise

    def _split(
        self, x: Tensor, output: Tensor, signal: float, level: float
    ) -> tuple[Tensor, Tensor]:
        if self.prediction_type == "epsilon":
            return (x - level * output) / signal, output
        # v = α·ε - σ·x0 with α² + σ² = 1 (Salimans & Ho 2022, appendix D)
        norm = math.hypot(signal, level)
        alpha, sigma, unit = signal / norm, level / norm, x / norm
        return alpha * unit - sigma * output, alpha * output + sigma * unit

    def step(
        self,
        i: int,
        x: Tensor,
        output: Tensor,
        noise: Tensor | None = None,
        previous: Tensor | None = None,
    ) -> Tensor:
        """The state after step `i`, in the dtype of `x` (computed in at least float32).

        Args:
            i: Step index, 0 to `steps` - 1.
            x: State before the step, `(B, C, h, w)`.
            output: The guided model output of `prediction_type`, same shape.
            noise: Standard normal noise, broadcastable to `x`; needed where `fresh[i]` is not 0.
            previous: The x0 that `split` gave at the step before, which `momentum` looks at. A
                trajectory that begins here has none, and its first step goes without.

        Raises:
            ValueError: The step adds noise and none was given.
        """
        working = torch.promote_types(x.dtype, torch.float32)
        clean, epsilon = self.split(i, x.to(working), output.to(working))
        moved = self.next_signal[i] * clean + self.next_level[i] * epsilon
        if self.multistep and self.momentum[i] and previous is not None:
            moved = moved + self.momentum[i] * (clean - previous.to(moved))
        if self.fresh[i]:
            if noise is None:
                raise ValueError(f"step {i} of this sampler adds noise, but no noise was given")
            moved = moved + self.fresh[i] * noise.to(moved)
        return moved.to(x.dtype)

    def unstep(self, i: int, after: Tensor, output: Tensor) -> Tensor:
        """The state before step `i`, as DDIM inversion estimates it from the state after.

        The inverse of `step` where the output is the same; it is predicted for the state after,
        told the timestep of the state before (Dhariwal & Nichol 2021, appendix F).

        Args:
            i: Step index, 0 to `steps` - 1.
            after: State after step `i`, `(B, C, h, w)`.
            output: The model output of `prediction_type` for that state, same shape.

        Raises:
            ValueError: The step adds noise, so there is no one state before.
        """
        if self.fresh[i] or self.multistep:
            raise ValueError(
                "a sampler whose step needs more than the state cannot be inverted; expected ddim"
            )
        working = torch.promote_types(after.dtype, torch.float32)
        clean, noise = self._split(
            after.to(working), output.to(working), self.next_signal[i], self.next_level[i]
        )
        return self.noised(i, clean, noise).to(after.dtype)


def denoise(
    predict: Predict,
    sampler: Sampler,
    latents: Tensor,
    *,
    start: int = 0,
    stop: int | None = None,
    noise: Callable[[int], Tensor] | None = None,
    adjust: Callable[[int, Tensor], Tensor] | None = None,
    callback: Callable[[int, Tensor], object] | None = None,
) -> Tensor:
    """Run steps `start` to `stop` (exclusive; None for all) of a trajectory.

    Args:
        predict: Gives the guided model output from the step index and the scaled state.
        sampler: Tables and step.
        latents: State before step `start`, `(B, C, h, w)`; a full run begins with
            `sampler.init_scale` times standard normal noise.
        noise: Gives the noise that step i adds, broadcastable to the state; only asked where the
            step adds any.
        adjust: Gives the state to go on with from the step index and the state after that step.
        callback: Called with the step index and the state after that step.

    Returns:
        The state before step `stop`; the clean latents where that is the end.
    """
    last = sampler.steps if stop is None else stop
    if not 0 <= start <= last <= sampler.steps:
        raise ValueError(f"steps {start} to {last} are not within the sampler's {sampler.steps}")
    x, previous = latents, None
    for i in range(start, last):
        output = predict(i, sampler.scale_input(i, x))
        before, drawn = x, noise(i) if noise and sampler.fresh[i] else None
        x = sampler.step(i, before, output, drawn, previous)
        if sampler.multistep:
            previous, _ = sampler.split(i, before, output)
        if adjust:
            x = adjust(i, x)
        if callback:
            callback(i, x)
    return x


@torch.no_grad()
def ddim_invert(predict: Predict, sampler: Sampler, latents: Tensor) -> Tensor:
    """Run a deterministic trajectory backwards, from clean latents to noise.

    Args:
        predict: Gives the model output from the step index and the state after that step, without
            guidance: guided, the errors of inversion grow (Mokady et al. 2023, section 3.2).
        sampler: A deterministic one.
        latents: Clean latents, `(B, C, h, w)`.

    Returns:
        The trajectory, `(steps + 1, B, C, h, w)`: entry i is the state before step i, the last
        entry the clean latents.
    """
    states = [latents]
    for i in reversed(range(sampler.steps)):
        states.append(sampler.unstep(i, states[-1], predict(i, states[-1])))
    return torch.stack(states[::-1])

"""The samplers one can ask for, their tables read off a diffusers scheduler's configuration.

Every one gives what diffusers' scheduler of its name gives, step for step.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)

from inference.choices import SamplerName
from inference.sampling import Sampler


def ddim(scheduler: Any, steps: int) -> Sampler:
    """DDIM with η = 0 (Song et al. 2021, eq. 12), step for step that of diffusers.

    As there, a step leads `num_train_timesteps // steps` timesteps down, even where rounding makes
    the next timestep of the table another one.

    Args:
        scheduler: Any diffusers scheduler; only its configuration is read.
        steps: Number of steps.

    Raises:
        ValueError: Too few or too many steps, or a configuration that this sampler does not know.
    """
    config = _checked_config(scheduler, steps)
    tables: Any = DDIMScheduler.from_config(config)
    tables.set_timesteps(steps)
    timesteps = _floats(tables.timesteps)
    stride = tables.config.num_train_timesteps // steps
    here = [float(tables.alphas_cumprod[int(t)]) for t in timesteps]
    there = [
        float(tables.alphas_cumprod[int(t) - stride] if t >= stride else tables.final_alpha_cumprod)
        for t in timesteps
    ]
    return Sampler(
        prediction_type=tables.config.prediction_type,
        timesteps=timesteps,
        signal=_floats(math.sqrt(alpha) for alpha in here),
        level=_floats(math.sqrt(1 - alpha) for alpha in here),
        next_signal=_floats(math.sqrt(alpha) for alpha in there),
        next_level=_floats(math.sqrt(1 - alpha) for alpha in there),
        fresh=(0.0,) * len(timesteps),
        init_scale=1.0,
        # Only where the folder says so: DDIMScheduler's own default would clip the latents of a
        # folder whose scheduler knows no clipping.
        clip=tables.config.clip_sample_range if config.get("clip_sample") else None,
    )


def ddpm(scheduler: Any, steps: int) -> Sampler:
    """DDPM on a subset of the timesteps: DDIM with η = 1 (Song et al. 2021, eq. 12 and 16).

    Args:
        scheduler: Any diffusers scheduler; only its configuration is read.
        steps: Number of steps.

    Raises:
        ValueError: As `ddim`.
    """
    tables = ddim(scheduler, steps)
    here, there = tables.level, tables.next_level
    kept = [a / b for a, b in zip(tables.signal, tables.next_signal, strict=True)]
    fresh = [
        after / before * math.sqrt(max(0.0, 1 - signal**2))
        for before, after, signal in zip(here, there, kept, strict=True)
    ]
    return replace(
        tables,
        next_level=_floats(
            math.sqrt(max(0.0, after**2 - new**2)) for after, new in zip(there, fresh, strict=True)
        ),
        fresh=tuple(fresh),
    )


def euler_ancestral(scheduler: Any, steps: int) -> Sampler:
    """Ancestral sampling with Euler steps, step for step that of diffusers and k-diffusion.

    Args:
        scheduler: Any diffusers scheduler; only its configuration is read.
        steps: Number of steps.

    Raises:
        ValueError: Too few or too many steps, or a configuration that this sampler does not know.
    """
    tables = _euler(EulerAncestralDiscreteScheduler, scheduler, steps)
    moves = list(zip(tables.level, tables.next_level, strict=True))
    return replace(
        tables,
        next_level=_floats(to**2 / here for here, to in moves),
        fresh=_floats(to * math.sqrt(1 - (to / here) ** 2) for here, to in moves),
    )


def euler(scheduler: Any, steps: int) -> Sampler:
    """Euler steps (Karras et al. 2022, algorithm 1 without its second order), as in diffusers.

    Args:
        scheduler: Any diffusers scheduler; only its configuration is read.
        steps: Number of steps.

    Raises:
        ValueError: Too few or too many steps, or a configuration that this sampler does not know.
    """
    return _euler(EulerDiscreteScheduler, scheduler, steps)


def _euler(kind: Any, scheduler: Any, steps: int) -> Sampler:
    tables = kind.from_config(_checked_config(scheduler, steps))
    tables.set_timesteps(steps)
    sigmas = _floats(tables.sigmas)
    return Sampler(
        prediction_type=tables.config.prediction_type,
        timesteps=_floats(tables.timesteps),
        signal=(1.0,) * steps,
        level=sigmas[:-1],
        next_signal=(1.0,) * steps,
        next_level=sigmas[1:],
        fresh=(0.0,) * steps,
        init_scale=float(tables.init_noise_sigma),
    )


def dpmpp_2m(scheduler: Any, steps: int) -> Sampler:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2), step for step that of diffusers.

    Its first-order step is DDIM's; of what x0 has changed since the step before it adds
    α'(1 - e⁻ʰ) / 2r, where h is this step's change of log(α/σ) and r·h that of the step before.

    Args:
        scheduler: Any diffusers scheduler; only its configuration is read.
        steps: Number of steps.

    Raises:
        ValueError: Too few or too many steps, or a configuration that this sampler does not know.
    """
    tables: Any = DPMSolverMultistepScheduler.from_config(
        _checked_config(scheduler, steps),
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
    )
    tables.set_timesteps(steps)
    sigmas = _floats(tables.sigmas)
    signal = [1 / math.hypot(1, sigma) for sigma in sigmas]
    # log(α/σ) = -log(sigma); the last is that of a clean state, which no step looks at.
    lambdas = [-math.log(sigma) for sigma in sigmas[:-1]]
    heights = [after - before for before, after in itertools.pairwise(lambdas)]
    momentum = [0.0] * steps
    for i in range(1, steps - 1):
        ratio = heights[i - 1] / heights[i]
        momentum[i] = signal[i + 1] * -math.expm1(-heights[i]) / (2 * ratio)
    return Sampler(
        prediction_type=tables.config.prediction_type,
        timesteps=_floats(tables.timesteps),
        signal=tuple(signal[:-1]),
        level=tuple(a * sigma for a, sigma in zip(signal[:-1], sigmas[:-1], strict=True)),
        next_signal=tuple(signal[1:]),
        next_level=tuple(a * sigma for a, sigma in zip(signal[1:], sigmas[1:], strict=True)),
        fresh=(0.0,) * steps,
        init_scale=1.0,
        momentum=tuple(momentum),
    )


SAMPLERS: Mapping[SamplerName, Callable[[Any, int], Sampler]] = MappingProxyType(
    {"ddim": ddim, "dpmpp_2m": dpmpp_2m, "euler": euler, "euler_ancestral": euler_ancestral}
)


def _checked_config(scheduler: Any, steps: int) -> Mapping[str, Any]:
    config = cast(Mapping[str, Any], scheduler.config)
    limit = config["num_train_timesteps"]
    if not 1 <= steps <= limit:
        raise ValueError(f"steps is {steps}; expected 1 to {limit}")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"the scheduler's prediction_type is {prediction!r}; expected epsilon or v_prediction"
        )
    if config.get("thresholding"):
        raise ValueError("the scheduler asks for dynamic thresholding, which does not fit latents")
    return config


def _floats(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)

"""A step can be made from any state, and a trajectory cut anywhere."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from inference.samplers import ddim, dpmpp_2m, euler, euler_ancestral
from inference.sampling import Sampler, ddim_invert, denoise

COMMON = {"beta_start": 0.00085, "beta_end": 0.025, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize("make", [ddim, dpmpp_2m, euler, euler_ancestral])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_split_inverts_noising(make: Any, prediction: str) -> None:
    """A model that answers with the truth gets the clean latents back, at every step."""
    scheduler = DDIMScheduler(**COMMON, prediction_type=prediction, clip_sample=False)
    sampler: Sampler = make(scheduler, 10)
    clean, noise = torch.randn(2, 1, 4, 8, 8, dtype=torch.float64)
    for i in range(sampler.steps):
        signal, level = sampler.signal[i], sampler.level[i]
        norm = (signal**2 + level**2) ** 0.5
        velocity = (signal * noise - level * clean) / norm
        output = noise if prediction == "epsilon" else velocity
        found = sampler.split(i, signal * clean + level * noise, output)
        torch.testing.assert_close(found, (clean, noise), rtol=0, atol=1e-9)


def test_a_trajectory_can_be_cut_and_continued() -> None:
    sampler = euler_ancestral(DDIMScheduler(**COMMON), 12)
    start = sampler.init_scale * torch.randn(2, 4, 8, 8)
    noises = torch.randn(12, 4, 8, 8)

    def run(x: Tensor, **part: int) -> Tensor:
        return denoise(
            lambda i, x: torch.tanh(x.flip(-1) + 0.5 * x) * (0.5 + sampler.timesteps[i] / 1000),
            sampler,
            x,
            noise=lambda i: noises[i],
            **part,
        )

    whole = run(start)
    assert torch.equal(run(run(start, stop=5), start=5), whole)
    assert torch.equal(run(start, stop=0), start)


def test_callback_sees_every_state() -> None:
    sampler = ddim(DDIMScheduler(**COMMON), 4)
    seen: list[tuple[int, Tensor]] = []
    final = denoise(
        lambda i, x: x, sampler, torch.ones(1, 4, 2, 2), callback=lambda i, x: seen.append((i, x))
    )
    assert [i for i, _ in seen] == [0, 1, 2, 3]
    assert torch.equal(seen[-1][1], final)


def test_what_cannot_be_run_says_so() -> None:
    sampler = euler_ancestral(DDIMScheduler(), 5)
    with pytest.raises(ValueError, match="adds noise, but no noise was given"):
        denoise(lambda i, x: x, sampler, torch.ones(1, 4, 2, 2))
    two = torch.ones(1, 4, 2, 2)
    for make in (dpmpp_2m, euler_ancestral):
        with pytest.raises(ValueError, match="needs more than the state cannot be inverted"):
            ddim_invert(lambda i, x: x, make(DDIMScheduler(), 5), two)
    with pytest.raises(ValueError, match="steps 3 to 9 are not within"):
        denoise(lambda i, x: x, sampler, torch.ones(1, 4, 2, 2), start=3, stop=9)

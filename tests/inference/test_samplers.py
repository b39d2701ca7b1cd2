"""The samplers make the steps that diffusers' schedulers make."""

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)
from torch import Tensor

from inference.samplers import ddim, ddpm, dpmpp_2m, euler, euler_ancestral
from inference.sampling import denoise

COMMON = {"beta_start": 0.00085, "beta_end": 0.025, "beta_schedule": "scaled_linear"}
SPACINGS = ["leading", "trailing", "linspace"]
PREDICTIONS = ["epsilon", "v_prediction"]


def model(x: Tensor, t: float) -> Tensor:
    """Stands for a network: smooth, of unit size, different at every timestep."""
    return torch.tanh(x.flip(-1) + 0.5 * x) * (0.5 + t / 1000)


@pytest.mark.parametrize("steps", [1, 7, 20])
@pytest.mark.parametrize("offset_and_one", [(0, True), (1, False)])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim_equals_diffusers(
    prediction: str, spacing: str, offset_and_one: tuple[int, bool], steps: int
) -> None:
    offset, set_alpha_to_one = offset_and_one
    scheduler = DDIMScheduler(
        **COMMON,
        prediction_type=prediction,
        timestep_spacing=spacing,
        steps_offset=offset,
        set_alpha_to_one=set_alpha_to_one,
        clip_sample=False,
    )
    sampler = ddim(scheduler, steps)
    scheduler.set_timesteps(steps)
    x = expected = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert sampler.timesteps == tuple(scheduler.timesteps.tolist())
    assert sampler.init_scale == scheduler.init_noise_sigma
    for i, t in enumerate(scheduler.timesteps):
        expected = scheduler.step(model(expected, float(t)), t, expected).prev_sample
        x = sampler.step(i, x, model(sampler.scale_input(i, x), sampler.timesteps[i]))
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 7, 20])
@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddpm_equals_diffusers_ddim_with_eta_1(
    prediction: str, set_alpha_to_one: bool, steps: int
) -> None:
    scheduler = DDIMScheduler(
        **COMMON,
        prediction_type=prediction,
        timestep_spacing="trailing",
        set_alpha_to_one=set_alpha_to_one,
        clip_sample=False,
    )
    sampler = ddpm(scheduler, steps)
    scheduler.set_timesteps(steps)
    x = expected = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for i, t in enumerate(scheduler.timesteps):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(i))
        expected = scheduler.step(
            model(expected, float(t)), t, expected, eta=1.0, variance_noise=noise
        ).prev_sample
        x = sampler.step(i, x, model(x, sampler.timesteps[i]), noise)
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 7, 20])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_euler_ancestral_equals_diffusers(prediction: str, spacing: str, steps: int) -> None:
    scheduler = EulerAncestralDiscreteScheduler(
        **COMMON, prediction_type=prediction, timestep_spacing=spacing, steps_offset=1
    )
    sampler = euler_ancestral(scheduler, steps)
    scheduler.set_timesteps(steps)
    assert sampler.timesteps == tuple(scheduler.timesteps.tolist())
    assert sampler.init_scale == float(scheduler.init_noise_sigma)
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x = expected = start * sampler.init_scale
    theirs, ours = (torch.Generator().manual_seed(1) for _ in range(2))
    for i, t in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(expected, t)
        torch.testing.assert_close(sampler.scale_input(i, x), scaled, rtol=1e-4, atol=1e-4)
        expected = scheduler.step(
            model(scaled, float(t)), t, expected, generator=theirs
        ).prev_sample
        output = model(sampler.scale_input(i, x), sampler.timesteps[i])
        x = sampler.step(i, x, output, torch.randn(x.shape, generator=ours))
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 7, 20])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    ("make", "scheduler_type"),
    [(euler, EulerDiscreteScheduler), (dpmpp_2m, DPMSolverMultistepScheduler)],
    ids=["euler", "dpmpp_2m"],
)
def test_what_adds_no_noise_equals_diffusers(
    make: Any, scheduler_type: Any, prediction: str, spacing: str, steps: int
) -> None:
    scheduler = scheduler_type(
        **COMMON, prediction_type=prediction, timestep_spacing=spacing, steps_offset=1
    )
    sampler = make(scheduler, steps)
    scheduler.set_timesteps(steps)
    assert sampler.timesteps == tuple(scheduler.timesteps.tolist())
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = start * float(scheduler.init_noise_sigma)

    def predict(i: int, x: Tensor) -> Tensor:
        return model(x, sampler.timesteps[i])

    found = denoise(predict, sampler, start * sampler.init_scale)
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(expected, t)
        expected = scheduler.step(model(scaled, float(t)), t, expected).prev_sample
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_zero_terminal_snr_is_finite_with_v_prediction() -> None:
    scheduler = DDIMScheduler(
        **COMMON,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        clip_sample=False,
    )
    for sampler in (ddim(scheduler, 5), euler_ancestral(scheduler, 5)):
        x = sampler.init_scale * torch.randn(1, 4, 8, 8)
        final = denoise(lambda i, x: 0.1 * x, sampler, x, noise=lambda i: torch.zeros(1))
        assert final.isfinite().all()


def test_clipping_only_where_the_configuration_asks_for_it() -> None:
    assert ddim(DDIMScheduler(clip_sample=True, clip_sample_range=2.0), 5).clip == 2.0
    assert ddim(DDIMScheduler(clip_sample=False), 5).clip is None
    assert ddim(PNDMScheduler(skip_prk_steps=True), 5).clip is None
    scheduler = DDIMScheduler(clip_sample=True)
    scheduler.set_timesteps(5)
    x, output = 3 * torch.randn(2, 1, 4, 8, 8)
    expected = scheduler.step(output, scheduler.timesteps[1], x).prev_sample
    torch.testing.assert_close(ddim(scheduler, 5).step(1, x, output), expected)


def test_what_cannot_be_sampled_says_so() -> None:
    with pytest.raises(ValueError, match="steps is 0; expected 1 to 1000"):
        ddim(DDIMScheduler(), 0)
    with pytest.raises(ValueError, match="prediction_type is 'sample'"):
        euler_ancestral(DDIMScheduler(prediction_type="sample"), 5)
    with pytest.raises(ValueError, match="thresholding"):
        ddim(DDIMScheduler(thresholding=True), 5)

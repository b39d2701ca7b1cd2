"""The training objective: what is drawn for a sample, what is predicted, what an error costs.

Pure functions on tensors; nothing here knows of Lightning or of files. `a` (alpha-bar) is the
cumulative product of the noise schedule, so that x_t = sqrt(a) x_0 + sqrt(1 - a) noise, and the
signal-to-noise ratio is a / (1 - a).
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from inference.choices import PredictionType
from inference.noise import keyed_seed
from inference.text import Text
from training.config import Objective

CHANGED: Final = 0.25
"""Mean difference over the channels from which on a latent counts as changed, in deviations."""
DETAIL: Final = 0.3
"""Mean difference over the channels to the mean of 3 by 3 from which on a latent is a detail."""
LEAST_PART: Final = 0.05
"""Changed, unchanged and detailed latents are each weighted as this part of all at least."""
FOCUS_DEVIATION: Final = 0.9
"""Of the logit-normal, in logits: two thirds of 0.4 lie between 0.21 and 0.62."""


class Draws(NamedTuple):
    """Everything random about a batch of B samples in one training step, on the CPU."""

    timesteps: Tensor
    """(B,) int64, 0 to the number of training timesteps - 1."""
    noise: Tensor
    """(B, 4, h, w) standard normal, apart from `offset_noise`."""
    keep_text: Tensor
    """(B,) bool: the sample keeps its instruction."""
    keep_image: Tensor
    """(B,) bool: the sample keeps its image condition."""


def draw(
    *,
    seed: int,
    epochs: Sequence[int],
    positions: Sequence[int],
    shape: Sequence[int],
    timesteps: int,
    knobs: Objective,
) -> Draws:
    """Draw a batch: each sample's part is a function of (seed, epoch, position) and nothing else.

    Hence a sample is treated the same on any rank, in any batch, before and after a resume.

    Args:
        seed: Seed of the run.
        epochs: B numbers of passes over the groups.
        positions: B global sample positions.
        shape: Shape of one sample's latents, (4, h, w).
        timesteps: Number of training timesteps of the noise schedule.
        knobs: Dropout, how timesteps are spread, and the offset of the noise.
    """
    samples = [
        _draw_one(
            np.random.default_rng(keyed_seed("draw", seed, epoch, position)),
            shape,
            timesteps,
            knobs,
        )
        for epoch, position in zip(epochs, positions, strict=True)
    ]
    uniform = torch.tensor([u for _, u, _ in samples], dtype=torch.float64)
    keep_text, keep_image = conditions_kept(uniform, knobs.dropout, drop_image=knobs.drop_image)
    return Draws(
        timesteps=torch.tensor([t for t, _, _ in samples]),
        noise=torch.stack([noise for _, _, noise in samples]),
        keep_text=keep_text,
        keep_image=keep_image,
    )


def _draw_one(
    rng: np.random.Generator, shape: Sequence[int], timesteps: int, knobs: Objective
) -> tuple[int, float, Tensor]:
    timestep = int(rng.integers(timesteps))
    uniform = float(rng.random())
    noise = torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))
    if rng.random() < knobs.focus:
        middle = math.log(knobs.focus_at / (1 - knobs.focus_at))
        place = 1 / (1 + math.exp(-rng.normal(middle, FOCUS_DEVIATION)))
        timestep = min(int(place * timesteps), timesteps - 1)
    if knobs.offset_noise:
        offset = rng.standard_normal((shape[0], 1, 1), dtype=np.float32)
        noise = noise + knobs.offset_noise * torch.from_numpy(offset)
    return timestep, uniform, noise


def conditions_kept(
    uniform: Tensor, dropout: float, *, drop_image: bool = True
) -> tuple[Tensor, Tensor]:
    """Which samples keep their text and which their image, from one uniform draw in [0, 1) each.

    The text goes below 2p and the image in [p, 3p), so that a share p loses the text alone, p both
    and p the image alone (InstructPix2Pix, `ddpm_edit.py`, get_input). Where images are not to be
    lost, all are kept and texts go as before.
    """
    keep_text = uniform >= 2 * dropout
    keep_image = (uniform < dropout) | (uniform >= 3 * dropout)
    return keep_text, keep_image if drop_image else torch.ones_like(keep_image)


def add_noise(latents: Tensor, noise: Tensor, a: Tensor) -> Tensor:
    """x_t = sqrt(a) x_0 + sqrt(1 - a) noise; `a` is (B,), the others (B, 4, h, w)."""
    a = a[:, None, None, None]
    return a.sqrt() * latents + (1 - a).sqrt() * noise


def target(latents: Tensor, noise: Tensor, a: Tensor, prediction_type: PredictionType) -> Tensor:
    """What the UNet is to predict: the noise, or v = sqrt(a) noise - sqrt(1 - a) x_0.

    v: Salimans & Ho 2022, appendix D.
    """
    if prediction_type == "epsilon":
        return noise
    a = a[:, None, None, None]
    return a.sqrt() * noise - (1 - a).sqrt() * latents


def loss_weights(a: Tensor, prediction_type: PredictionType, knobs: Objective) -> Tensor:
    """Weight (B,) of each sample's squared error.

    - `none`: 1. For v this already is the epsilon loss times 1/a, since the error of v is the error
      of epsilon divided by sqrt(a).
    - `min_snr`: min(snr, gamma) / snr on epsilon (Hang et al. 2023, equation 8).
    - `clamped_inverse_alpha`: min(1/a, ceiling) on epsilon. Layout and colour are decided at high
      noise, where the plain epsilon loss hardly sees them.

    The last two mean the same whatever is predicted: their weights of epsilon become those of v
    by a factor of a; that of min-SNR is then min(snr, gamma) / (snr + 1). Both are written without
    the ratio, so that those of v hold also where a is 0.
    """
    if knobs.weighting == "none":
        return torch.ones_like(a)
    if knobs.weighting == "min_snr":
        of_v = torch.minimum(a, knobs.min_snr_gamma * (1 - a))
    else:
        of_v = (knobs.ceiling * a).clamp(max=1)
    return of_v / a if prediction_type == "epsilon" else of_v


def log_mean_weight(scores: Tensor, shares: Tensor, beta: float) -> float:
    """Logarithm of the mean of exp(score / beta), so that weights of mean 1 can be made.

    Args:
        scores: (N,) scores of all pairs.
        shares: (N,) how often each is drawn, summing to 1.
        beta: Temperature.
    """
    return float(torch.logsumexp(scores / beta + shares.log(), dim=0))


def score_weights(scores: Tensor, beta: float, log_mean: float) -> Tensor:
    """Weight of each pair's loss by a score of it: exp(score / beta), over its mean.

    The weighted loss of HIVE (Zhang et al. 2024, "Harnessing Human Feedback for Instructional
    Visual Editing") with any score in the place of its learned reward. HIVE's other form, the
    reward as a part of the prompt, needs no trainer: it is a matter of instructions.

    Args:
        scores: (B,).
        beta: Temperature.
        log_mean: `log_mean_weight` of all pairs.
    """
    return (scores / beta - log_mean).exp()


def latent_weights(edited: Tensor, source: Tensor, knobs: Objective) -> Tensor:
    """Weight of each latent's error, with mean 1 in every sample where no part is tiny.

    A plain mean hardly sees the recolouring of a small figure, nor, when the background changes,
    the figures that must stay; and of what must stay, it sees the bare parts.

    Args:
        edited: Latents of the edited images, (B, 4, h, w), scaled.
        source: Latents of the source images, in the same scale.
        knobs: `changed_share` and `detail_share`.

    Returns:
        (B, 1, h, w).
    """
    weights = torch.ones_like(edited[:, :1])
    halves = [weights > 0]
    if knobs.changed_share is not None:
        changed = (edited - source).abs().mean(dim=1, keepdim=True) > CHANGED
        weights *= _shares(changed, knobs.changed_share, within=halves[0])
        halves = [changed, ~changed]
    if knobs.detail_share is not None:
        around = F.avg_pool2d(edited, 3, stride=1, padding=1, count_include_pad=False)
        detailed = (edited - around).abs().mean(dim=1, keepdim=True) > DETAIL
        for half in halves:
            weights = torch.where(
                half, weights * _shares(detailed, knobs.detail_share, within=half), weights
            )
    return weights


def _shares(chosen: Tensor, share: float, *, within: Tensor) -> Tensor:
    """Weights (B, 1, h, w) by which chosen latents make up a share of those `within`."""
    whole = within.float().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-9)
    part = (chosen & within).float().mean(dim=(1, 2, 3), keepdim=True) / whole
    part = part.clamp(LEAST_PART, 1 - LEAST_PART)
    return torch.where(chosen, share / part, (1 - share) / (1 - part))


def edit_loss(
    unet: UNet2DConditionModel,
    *,
    edited: Tensor,
    condition: Tensor,
    text: Text,
    sizes: Tensor | None,
    weights: Tensor,
    draws: Draws,
    alphas: Tensor,
    prediction_type: PredictionType,
    knobs: Objective,
) -> Tensor:
    """Mean weighted squared error of one batch (InstructPix2Pix, equation 2), a scalar.

    The target is the edited image whichever condition was dropped.

    Args:
        unet: Takes 8 channels: noisy latents, then the image condition.
        edited: Latents of the edited images, (B, 4, h, w), scaled.
        condition: Latents of the source images, (B, 4, h, w); a dropped one becomes zeros.
        text: B embedded instructions, the null text where the draw drops them.
        sizes: What became of each image, (B, 6), which SDXL is told (see `framing.Sizes`); only
            looked at where `text` is pooled.
        weights: Of the latents, (B, 1, h, w); see `latent_weights` and `score_weights`.
        draws: The batch's randomness, on the device of the latents.
        alphas: Cumulative alphas of the noise schedule, (timesteps,).
        prediction_type: What `unet` predicts.
        knobs: Weighting.
    """
    a = alphas[draws.timesteps]
    noisy = add_noise(edited, draws.noise, a)
    condition = condition * draws.keep_image[:, None, None, None]
    inputs = torch.cat([noisy, condition], dim=1)
    added = None if text.pooled is None else {"text_embeds": text.pooled, "time_ids": sizes}
    output = cast(
        Tensor,
        unet(
            inputs,
            draws.timesteps,
            encoder_hidden_states=text.states,
            added_cond_kwargs=added,
        ).sample,
    )
    output = output.to(torch.promote_types(output.dtype, torch.float32))
    error = output - target(edited, draws.noise, a, prediction_type)
    each = (weights * error.square()).mean(dim=(1, 2, 3))
    return (loss_weights(a, prediction_type, knobs) * each).mean()

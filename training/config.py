"""How an editor is trained: the options of its module, but for its data."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator

from inference.choices import PredictionType
from inference.number_types import (
    Count,
    Fraction,
    FractionBelowOne,
    Limits,
    NonNegative,
    OpenFraction,
    Positive,
    PositiveCount,
    PositiveSmallCount,
    checks_numbers,
)

Weighting = Literal["none", "min_snr", "clamped_inverse_alpha"]


Dropout = Annotated[float, BeforeValidator(Limits(float, 0, 1 / 3).read)]
"""Three of it are at most all samples."""


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class Objective:
    """Knobs of the objective.

    Attributes:
        prediction_type: What the UNet predicts; None keeps what the base model predicts.
        change_prediction_type: Whether that may be another than the base model's.
        zero_terminal_snr: Whether the noise ends in pure noise (see `noise_schedule`), for which
            `weighting` must be `none`; None keeps the base model's.
        offset_noise: Deviation of a constant that is added to each channel of the noise, so that
            the mean of a picture is learned as well (Guttenberg 2023); 0 adds none, 0.1 is usual.
        weighting: How much an error counts at each noise level, see `loss_weights`.
        min_snr_gamma: The gamma of `min_snr`.
        ceiling: The highest weight of `clamped_inverse_alpha`.
        focus: Share of the samples whose timestep is logit-normal (Esser et al. 2024, section 3.1)
            instead of uniform; in [0, 1].
        focus_at: Median of those timesteps, as a part of the noise schedule, in (0, 1): shapes are
            settled at 0.4, and what is to be copied or changed at all before that, at 0.7.
        changed_share: Share of each sample's error that latents make up which the edit changes, in
            (0, 1), however few or many they are; None counts all latents alike.
        detail_share: Share of that, and of what latents make up which the edit leaves alone, of
            those that differ from the latents around them, in (0, 1): outlines and patterns, not
            bare surfaces. None counts all alike.
        dropout: Share of the samples that lose their instruction, as many lose their image, and as
            many lose both, so that guidance has its unconditional branches; in [0, 1/3].
        drop_image: Whether images are among what is lost. Without, image guidance has no branch of
            its own, the paper's ablation of it.
        score: Which of a pair's scores, any that the index of the shards has, weights its loss, see
            `score_weights`; None weights all pairs alike.
        score_beta: Temperature of those weights: the score that is worth a factor of e.
    """

    prediction_type: PredictionType | None = None
    change_prediction_type: bool = False
    zero_terminal_snr: bool | None = None
    offset_noise: NonNegative = 0.0
    weighting: Weighting = "none"
    min_snr_gamma: Positive = 5.0
    ceiling: Positive = 20.0
    focus: Fraction = 0.0
    focus_at: OpenFraction = 0.4
    changed_share: OpenFraction | None = None
    detail_share: OpenFraction | None = None
    dropout: Dropout = 0.05
    drop_image: bool = True
    score: str | None = None
    score_beta: Positive = 0.1


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class OptimizerKnobs:
    """Knobs of AdamW and of the learning rate.

    Attributes:
        learning_rate: Of every layer but the first.
        first_layer_factor: Learning rate of the widened first convolution, as a multiple; its new
            channels start at zero and have the furthest to go.
        weight_decay: Decoupled weight decay.
        betas: Decay of the first and the second moment.
        warmup_steps: Steps over which the rate climbs linearly to its full value.
        schedule: What follows: the same rate, or a cosine to zero at `trainer.max_steps`.
        clip_norm: Largest norm of the gradient of the whole UNet; None does not clip.
        kind: AdamW as it is, or with moments of 8 bits, a quarter of their memory (Dettmers et al.
            2022); that needs bitsandbytes.
    """

    learning_rate: NonNegative = 1e-4
    first_layer_factor: NonNegative = 1.0
    weight_decay: NonNegative = 0.01
    betas: tuple[FractionBelowOne, FractionBelowOne] = (0.9, 0.999)
    warmup_steps: Count = 0
    schedule: Literal["constant", "cosine"] = "constant"
    clip_norm: Positive | None = 1.0
    kind: Literal["adamw", "adamw_8bit"] = "adamw"


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class Lora:
    """Knobs of the adapters.

    Attributes:
        rank: Of each adapter.
        alpha: What they are multiplied by is alpha / rank; None takes the rank.
        targets: Names of the layers that get one; by default the projections of all attention, as
            in diffusers' scripts.
    """

    rank: PositiveSmallCount = 16
    alpha: PositiveCount | None = None
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Knobs of the UNet in training; a run may go on with others.

    Attributes:
        gradient_checkpointing: Keep no activations within a block and compute them again for the
            gradient: a third more time, for batches that would not fit otherwise.
        channels_last: Lay out convolutions as GPUs with tensor cores read them.
        compile: Compile each kind of block once (regional compilation); the first step takes a
            minute, those after it less time than without.
        tf32: Let GPUs multiply float32 matrices with 10 bits of mantissa, several times as fast;
            torch does so for convolutions anyway.
    """

    gradient_checkpointing: bool = False
    channels_last: bool = False
    compile: bool = False
    tf32: bool = False

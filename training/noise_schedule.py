"""The noise that a run trains on, and the scheduler its editor is exported with.

Stable Diffusion's schedule never reaches pure noise: its last state still shows the mean of the
picture, so that samples come out neither very dark nor very bright. Lin et al. 2024 rescale it to a
terminal signal-to-noise ratio of zero. Then only v can be predicted, and sampling must begin at the
very last timestep: that belongs to the model and stands in its scheduler's configuration.
"""

from typing import Any

from diffusers import DDIMScheduler
from torch import Tensor

from training.config import Objective


def trained_scheduler(parent: Any, knobs: Objective) -> Any:
    """The scheduler of an editor that is trained from a base with the scheduler `parent`.

    Where the noise is to end in pure noise it is DDIM with trailing timesteps (Lin et al. 2024,
    section 3.3), as not every scheduler knows of it.

    Args:
        parent: A diffusers scheduler.
        knobs: What is predicted, of which noise, and how errors are weighted.

    Raises:
        ValueError: Another prediction than the parent's is not said to be meant, or nothing could
            be learned at the end of the noise.
    """
    kind: Any = type(parent)
    changes: dict[str, Any] = {}
    if knobs.prediction_type is not None:
        _require_own(parent.config.prediction_type, knobs)
        changes["prediction_type"] = knobs.prediction_type
    if knobs.zero_terminal_snr is not None:
        changes["rescale_betas_zero_snr"] = knobs.zero_terminal_snr
    if knobs.zero_terminal_snr:
        kind = DDIMScheduler
        changes |= {"timestep_spacing": "trailing", "clip_sample": False}
    scheduler = kind.from_config(parent.config, **changes)
    if scheduler.config.get("rescale_betas_zero_snr"):
        _require_learnable(scheduler.config.prediction_type, knobs)
    return scheduler


def _require_own(predicted: str, knobs: Objective) -> None:
    """A model learns anew what it predicts for thousands of steps: that is seldom meant."""
    if knobs.prediction_type != predicted and not knobs.change_prediction_type:
        raise ValueError(
            f"objective.prediction_type is {knobs.prediction_type} and the base model predicts "
            f"{predicted}, expected the same: set it to null, or objective.change_prediction_type "
            "to true where the model is to learn another"
        )


def _require_learnable(predicted: str, knobs: Objective) -> None:
    """Of pure noise, with which sampling begins, v can be learned, if its error counts."""
    if predicted == "epsilon":
        raise ValueError(
            "objective.zero_terminal_snr is on and prediction_type is epsilon, expected "
            "v_prediction: at the last timestep there is nothing but noise to be seen"
        )
    if knobs.weighting != "none":
        raise ValueError(
            f"objective.zero_terminal_snr is on and weighting is {knobs.weighting}, expected none: "
            "its weight of the last timestep, with which sampling begins, is 0"
        )


def cumulative_alphas(scheduler: Any) -> Tensor:
    """Cumulative alphas of the noise that a scheduler removes, (timesteps,), float32.

    DDIM's, as some schedulers keep theirs from the zero that they are to end in.
    """
    alphas: Tensor = DDIMScheduler.from_config(scheduler.config).alphas_cumprod
    return alphas.float()

"""The noise that a run trains on, and the scheduler its editor is exported with.

Stable Diffusion's schedule never reaches pure noise: its last state still shows the mean of the
picture, so that samples come out neither very dark nor very bright. Lin et al. 2024 rescale it to a
terminal signal-to-noise ratio of zero. Then only v can be predicted, and sampling must begin at the
very last timestep: that belongs to the model and stands in its scheduler's configuration.
"""

from typing import Any

from diffusers import DDIMScheduler
from torch import Tensor

from inference.sampling import PredictionType


def trained_scheduler(
    parent: Any, *, prediction_type: PredictionType | None, zero_terminal_snr: bool | None
) -> Any:
    """The scheduler of an editor that is trained from a base with the scheduler `parent`.

    Args:
        parent: A diffusers scheduler.
        prediction_type: What the UNet learns to predict; None keeps what its parent predicts.
        zero_terminal_snr: Whether the noise ends in pure noise; None keeps it as it is. True makes
            the scheduler DDIM with trailing timesteps (Lin et al. 2024, section 3.3), as not every
            scheduler knows of it.

    Raises:
        ValueError: The noise is to end in pure noise and epsilon is predicted.
    """
    kind: Any = type(parent)
    changes: dict[str, Any] = {}
    if prediction_type is not None:
        changes["prediction_type"] = prediction_type
    if zero_terminal_snr is not None:
        changes["rescale_betas_zero_snr"] = zero_terminal_snr
    if zero_terminal_snr:
        kind = DDIMScheduler
        changes |= {"timestep_spacing": "trailing", "clip_sample": False}
    scheduler = kind.from_config(parent.config, **changes)
    predicted = scheduler.config.prediction_type
    if scheduler.config.get("rescale_betas_zero_snr") and predicted == "epsilon":
        raise ValueError(
            "objective.zero_terminal_snr is on and prediction_type is epsilon, expected "
            "v_prediction: at the last timestep there is nothing but noise to be seen"
        )
    return scheduler


def cumulative_alphas(scheduler: Any) -> Tensor:
    """Cumulative alphas of the noise that a scheduler removes, (timesteps,), float32.

    DDIM's, as some schedulers keep theirs from the zero that they are to end in.
    """
    alphas: Tensor = DDIMScheduler.from_config(scheduler.config).alphas_cumprod
    return alphas.float()

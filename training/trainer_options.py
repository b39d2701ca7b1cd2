"""Options of Lightning's trainer that a run refuses: those that do nothing here, or harm.

Lightning offers all of them at the command line. One that is quietly without effect, or that does a
second time what a recipe has its own option for, is worse than an error.
"""

import inspect
from collections.abc import Mapping
from typing import Any, Final

import pytorch_lightning as pl

from inference.number_types import PositiveCount, PositiveSmallCount, require

DEFAULTS: Final[Mapping[str, Any]] = {
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}
"""Where this command differs from Lightning."""

_PRECISIONS: Final = (None, 32, "32", "32-true", "bf16-mixed")
_CLIPPING: Final = "model.optimizer.clip_norm clips the gradient"
_LENGTH: Final = "trainer.max_steps says when a run ends, and the order of the samples has no end"
_HELD_OUT: Final = "held_out_edits says when and on what a run is measured"
_ORDER: Final = "the order of the samples is a function of the seed, shared by the ranks"
_NUMBERS: Final[Mapping[str, Any]] = {
    "max_steps": PositiveCount,  # training has no other end
    "accumulate_grad_batches": PositiveCount,
    "log_every_n_steps": PositiveCount | None,
    "num_nodes": PositiveSmallCount,
}
"""Lightning's own annotations are plain numbers."""

_REFUSED: Final[Mapping[str, str]] = {
    "gradient_clip_val": _CLIPPING,
    "gradient_clip_algorithm": _CLIPPING,
    "max_epochs": _LENGTH,
    "min_epochs": _LENGTH,
    "min_steps": _LENGTH,
    "limit_train_batches": _LENGTH,
    "fast_dev_run": _LENGTH,
    "val_check_interval": _HELD_OUT,
    "check_val_every_n_epoch": _HELD_OUT,
    "num_sanity_val_steps": _HELD_OUT,
    "limit_val_batches": _HELD_OUT,
    "limit_test_batches": _HELD_OUT,
    "limit_predict_batches": _HELD_OUT,
    "overfit_batches": _ORDER,
    "use_distributed_sampler": _ORDER,
    "reload_dataloaders_every_n_epochs": _ORDER,
    "enable_checkpointing": "checkpoints.every and checkpoints.keep say what is saved",
    "sync_batchnorm": "a UNet has no batch normalisation",
}


def require_sensible(options: Mapping[str, Any]) -> None:
    """Require options of the trainer that do what they say.

    Args:
        options: Those of `trainer` in a recipe.

    Raises:
        ValueError: A number is out of its range; the precision is one that this training is not
            exact in; or an option is set that does nothing here, or harm.
    """
    for name, hint in _NUMBERS.items():
        require(f"trainer.{name}", options[name], hint)
    _require_devices(options["devices"])
    if options["precision"] not in _PRECISIONS:
        raise ValueError(
            f"trainer.precision is {options['precision']}, expected 32-true or bf16-mixed: "
            "weights, moments and average are of 32 bits, and gradients are clipped unscaled"
        )
    usual = inspect.signature(pl.Trainer).parameters
    for name, instead in _REFUSED.items():
        found, default = options[name], DEFAULTS.get(name, usual[name].default)
        if found != default:
            raise ValueError(f"trainer.{name} is {found}, expected it left out: {instead}")


def _require_devices(devices: Any) -> None:
    """Require a count of devices where they are counted; lists Lightning looks at itself."""
    try:
        count = int(devices)
    except (TypeError, ValueError):
        return
    if count != -1:  # all there are
        require("trainer.devices", count, PositiveSmallCount)

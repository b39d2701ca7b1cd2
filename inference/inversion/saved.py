"""Inversions on disk: made once, used for many edits, and only for what they were made of.

A safetensors file whose metadata says of which pictures, prompts and model it is.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from inference.backbone import Backbone
from inference.files import read_tensors, written_atomically
from inference.guidance import ProximalGuidance
from inference.inversion.inverted import InversionRequest, Inverted
from inference.samplers import ddim, ddpm
from inference.sampling import Sampler
from inference.text import Text

FORMAT: Final = "emend inversion 2"
_TEXTS: Final = ("null", "source")
_SAMPLED = 64
"""Values of each weight that tell one model from another."""


class AnotherInversion(ValueError):
    """A saved inversion is of other pictures, other prompts or another model."""


def save_inversion(path: Path, inverted: Inverted, backbone: Backbone, images: Tensor) -> None:
    """Write an inversion, atomically.

    Args:
        path: A `.safetensors` file.
        inverted: The inversion.
        backbone: The model it was made with.
        images: The (B, 3, H, W) pictures it is of.
    """
    tensors = {"trajectory": inverted.trajectory, "noise": inverted.noise}
    for name in _TEXTS:
        text: Text | None = getattr(inverted, name)
        if text is not None:
            tensors |= {name: text.states, f"{name}.pooled": text.pooled}
    present = {name: t.contiguous().cpu() for name, t in tensors.items() if t is not None}
    about = {
        **identity(backbone, images, inverted.prompts),
        "steps": inverted.sampler.steps,
        "stochastic": inverted.sampler.stochastic,
        "source_scale": inverted.source_scale,
        "first_step": inverted.first_step,
        "follows": inverted.follows,
        "null_for_targets": inverted.null_for_targets,
        "proximal": asdict(inverted.proximal) if inverted.proximal else None,
    }
    with written_atomically(path) as temporary:
        save_file(present, temporary, metadata={"format": FORMAT, "about": json.dumps(about)})


def load_inversion(
    path: Path, backbone: Backbone, images: Tensor, prompts: Sequence[str]
) -> Inverted:
    """Read an inversion of given pictures and prompts by a given model.

    Raises:
        AnotherInversion: It is of others.
        ValueError: The file is no inversion.
        FileNotFoundError: There is no such file.
    """
    metadata, found = read_tensors(path, str(backbone.device))
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is not an inversion: its format is {metadata.get('format')!r}")
    about: dict[str, Any] = json.loads(metadata["about"])
    for name, value in identity(backbone, images, prompts).items():
        if about[name] != value:
            raise AnotherInversion(f"{path} is an inversion with another {name}: make it anew")
    texts = {n: Text(found[n], found.get(f"{n}.pooled")) for n in _TEXTS if n in found}
    return Inverted(
        prompts=tuple(prompts),
        sampler=_sampler(backbone, about),
        source_scale=about["source_scale"],
        first_step=about["first_step"],
        follows=about["follows"],
        null_for_targets=about.get("null_for_targets", True),  # of a file from before it was known
        trajectory=found["trajectory"],
        noise=found.get("noise"),
        proximal=ProximalGuidance(**about["proximal"]) if about["proximal"] else None,
        **texts,
    )


@dataclass(frozen=True, kw_only=True)
class Saved:
    """An inversion that was made and saved before.

    Attributes:
        path: The `.safetensors` file.
    """

    path: Path

    def invert(self, request: InversionRequest) -> Inverted:
        """See `Inversion`.

        Raises:
            AnotherInversion: The file is of other pictures, prompts or steps, or another model's.
            ValueError: The file is no inversion.
            FileNotFoundError: There is no such file.
        """
        inverted = load_inversion(self.path, request.backbone, request.images, request.prompts)
        if inverted.sampler.steps != request.steps:
            raise AnotherInversion(
                f"{self.path} is an inversion of {inverted.sampler.steps} steps; "
                f"expected {request.steps}, as the edit has"
            )
        return inverted


def identity(backbone: Backbone, images: Tensor, prompts: Sequence[str]) -> dict[str, Any]:
    """What an inversion belongs to: `model`, `image` and `prompt`, JSON-able."""
    return {
        "model": fingerprint(backbone),
        "image": fingerprint_of_pixels(images),
        "prompt": list(prompts),
    }


def fingerprint_of_pixels(images: Tensor) -> str:
    """Hash of images in [-1, 1]."""
    pixels = images.detach().float().cpu().contiguous()
    return hashlib.sha256(pixels.numpy().tobytes()).hexdigest()


@torch.no_grad()
def fingerprint(backbone: Backbone) -> str:
    """Hash of some values of every weight, and of the noise schedule."""
    digest = hashlib.sha256(json.dumps(dict(backbone.scheduler.config), default=str).encode())
    for module in backbone.modules.values():
        for name, weight in module.state_dict().items():
            flat = weight.flatten()
            some = flat[:: max(1, len(flat) // _SAMPLED)][:_SAMPLED]
            digest.update(f"{name}{tuple(weight.shape)}".encode())
            digest.update(some.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _sampler(backbone: Backbone, about: dict[str, Any]) -> Sampler:
    make = ddpm if about["stochastic"] else ddim
    return make(backbone.scheduler, about["steps"])

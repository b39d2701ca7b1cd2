"""Inversions on disk: made once, used for many edits, and only for what they were made of.

A safetensors file for each picture, whose metadata says of which picture, prompt and model it is.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from inference.backbone import Backbone
from inference.files import written_atomically
from inference.inversion.config import ProximalGuidance, SavedConfig
from inference.inversion.inverted import Inversion, InversionRequest, Inverted
from inference.outside import parse_object
from inference.samplers import ddim, ddpm
from inference.sampling import Sampler
from inference.tensors import read_header, read_tensors, require_tensors
from inference.text import Text

FORMAT: Final = "emend inversion 3"
_TEXTS: Final = ("null", "source")
_TOLD: Final = ("source_scale", "optimised", "first_step", "follows", "null_for_targets")
_SAMPLED = 64
"""Values of each weight that tell one model from another."""


class AnotherInversion(ValueError):
    """A saved inversion is of other pictures, other prompts or another model."""


def save_inversion(path: Path, inverted: Inverted, backbone: Backbone, image: Tensor) -> None:
    """Write an inversion of one picture, atomically.

    Args:
        path: A `.safetensors` file.
        inverted: The inversion; see `Inverted.picture`.
        backbone: The model it was made with.
        image: The (3, H, W) picture it is of.
    """
    [prompt] = inverted.prompts
    tensors = {"trajectory": inverted.trajectory, "noise": inverted.noise}
    for name in _TEXTS:
        text: Text | None = getattr(inverted, name)
        if text is not None:
            tensors |= {name: text.states, f"{name}.pooled": text.pooled}
    present = {name: t.contiguous().cpu() for name, t in tensors.items() if t is not None}
    about = {
        **identity(backbone, image, prompt),
        "steps": inverted.sampler.steps,
        "stochastic": inverted.sampler.stochastic,
        **{name: getattr(inverted, name) for name in _TOLD},
        "proximal": asdict(inverted.proximal) if inverted.proximal else None,
    }
    with written_atomically(path) as temporary:
        save_file(present, temporary, metadata={"format": FORMAT, "about": json.dumps(about)})


def load_inversion(path: Path, backbone: Backbone, image: Tensor, prompt: str) -> Inverted:
    """Read an inversion of a given (3, H, W) picture and its prompt by a given model.

    Raises:
        AnotherInversion: It is of others.
        ValueError: The file is no inversion.
        FileNotFoundError: There is no such file.
    """
    metadata, found = read_tensors(path, str(backbone.device))
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not an inversion: its format is {metadata.get('format')!r}; "
            f"expected {FORMAT!r}"
        )
    about = _about(metadata, path)
    require_tensors(found, ["trajectory"], str(path))
    for name, value in identity(backbone, image, prompt).items():
        if about.get(name) != value:
            raise AnotherInversion(f"{path} is an inversion with another {name}: make it anew")
    texts = {n: Text(found[n], found.get(f"{n}.pooled")) for n in _TEXTS if n in found}
    try:
        return Inverted(
            prompts=(prompt,),
            sampler=_sampler(backbone, about),
            trajectory=found["trajectory"],
            noise=found.get("noise"),
            proximal=ProximalGuidance(**about["proximal"]) if about["proximal"] else None,
            null=texts.get("null"),
            source=texts.get("source"),
            **{name: about[name] for name in _TOLD},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not an inversion: its description is broken: {error!r}"
        ) from error


def _about(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """What an inversion's file says that it is of."""
    return parse_object(metadata.get("about", ""), f"the metadata 'about' of {path}")


@dataclass(frozen=True, kw_only=True)
class Saved(SavedConfig, Inversion):
    """See `SavedConfig`."""

    def invert(self, request: InversionRequest) -> Inverted:
        """See `Inversion`.

        Raises:
            AnotherInversion: What is there is of other pictures, prompts, steps or guidance, or
                another model's.
            ValueError: The file is no inversion, or a folder holds several of a picture.
            FileNotFoundError: There is no such file.
        """
        backbone = request.backbone
        pictures = list(zip(request.images, request.prompts, strict=True))
        if self.path.is_dir():
            paths = _found_in(self.path, [identity(backbone, *one) for one in pictures])
        else:
            paths = [self.path] * len(pictures)
        inverted = Inverted.together(
            [
                load_inversion(path, backbone, *one)
                for path, one in zip(paths, pictures, strict=True)
            ]
        )
        if inverted.sampler.steps != request.steps:
            raise AnotherInversion(
                f"{self.path} is an inversion of {inverted.sampler.steps} steps; "
                f"expected {request.steps}, as the edit has"
            )
        return self._guided(inverted, request.guidance_scale)

    def _guided(self, inverted: Inverted, scale: float) -> Inverted:
        """The inversion for edits of a guidance scale."""
        if inverted.optimised:
            guides = inverted.null is not None and inverted.null_for_targets
            if guides and inverted.source_scale != scale:
                raise AnotherInversion(
                    f"{self.path} holds null embeddings for guidance scale "
                    f"{inverted.source_scale:g}; expected {scale:g}, as the edit has"
                )
            return inverted
        # What an edit-friendly inversion keeps was found with a guidance of its own.
        return replace(inverted, source_scale=scale) if inverted.noise is None else inverted


def _found_in(folder: Path, wanted: Sequence[dict[str, Any]]) -> list[Path]:
    """The file of each picture that is wanted, by what it belongs to."""
    there: dict[Path, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        _, metadata = read_header(path)
        if metadata.get("format") == FORMAT:
            there[path] = _about(metadata, path)
    found = []
    for one in wanted:
        fitting = [path for path, about in there.items() if about.items() >= one.items()]
        if not fitting:
            raise AnotherInversion(
                f"none of the {len(there)} inversions in {folder} is of this image, model and "
                f"prompt {one['prompt']!r}: make it"
            )
        if len(fitting) > 1:
            raise ValueError(
                f"{' and '.join(map(str, fitting))} are inversions of one picture; expected one"
            )
        found += fitting
    return found


def identity(backbone: Backbone, image: Tensor, prompt: str) -> dict[str, Any]:
    """What an inversion belongs to: `model`, `image` and `prompt`, JSON-able."""
    return {
        "model": fingerprint(backbone),
        "image": fingerprint_of_pixels(image),
        "prompt": prompt,
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

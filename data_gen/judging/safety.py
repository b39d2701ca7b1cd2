"""Whether a picture is fit to be shown: the safety checker of Stable Diffusion 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

from data_gen.judging.config import safety_parts
from data_gen.judging.scorers import of_each_image
from data_gen.judging.vision_folders import inputs, load_processor, load_vision_model
from data_gen.records import ImageArray, ImagePair


@dataclass(frozen=True, kw_only=True)
class Safety:
    """Says 1 of a pair where either picture is unsafe, otherwise 0.

    Attributes:
        checker: diffusers' safety checker.
        processor: Its image processor.
    """

    checker: Any
    processor: Any
    name: ClassVar[str] = "unsafe"
    dear: ClassVar[bool] = False

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        """Load a checker's own folder, or the Stable Diffusion folder that holds one.

        Raises:
            FileNotFoundError, ValueError: As `load_vision_model` and `load_processor`.
        """
        checker, processor = safety_parts(folder)
        return cls(
            checker=load_vision_model(StableDiffusionSafetyChecker, checker, device),
            processor=load_processor(processor),
        )

    def __call__(self, pairs: Sequence[ImagePair]) -> list[float]:
        """See `Scorer`."""
        return [float(any(both)) for both in of_each_image(pairs, self._unsafe)]

    @torch.inference_mode()
    def _unsafe(self, images: Sequence[ImageArray]) -> list[bool]:
        found: list[bool] = []
        for pixels in inputs(images, self.processor, self.checker.device):
            # What it is given as pictures it blackens; it judges by the other argument.
            _, unsafe = self.checker(clip_input=pixels, images=torch.zeros(len(pixels), 1))
            found += unsafe
        return found

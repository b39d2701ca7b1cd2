"""How surprised the generator is by a picture: what it would seldom draw is malformed.

CLIP looks at what a picture shows, not at how well it is made. The model that drew it knows: with
noise put on, it predicts that noise badly where a picture does not look like those it was trained
on. That error, a term of the bound on the picture's likelihood (Ho et al. 2020, equation 12), is
what Li et al. 2023 tell classes apart by; here it tells good pictures from bad.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np
import torch

from data_gen.records import ImageArray, ImagePair
from inference.backbone import Backbone
from inference.images import from_numpy
from inference.noise import keyed_noise
from inference.samplers import ddim

STEPS: Final = 20
LOOKED_AT: Final = (11, 14)
"""Steps of `STEPS` at which to look: at 0.45 and 0.3 of the noise schedule, where shapes show."""


@torch.inference_mode()
def surprise(
    backbone: Backbone, images: Sequence[ImageArray], captions: Sequence[str], at_once: int = 32
) -> list[float]:
    """Mean squared error of the predicted noise, of each picture under its caption.

    All pictures get the same noise, so that they compare; what is a large value depends on model.

    Args:
        backbone: The text-to-image model that drew them.
        images: (H, W, 3) uint8 each, all of one size.
        captions: One an image.
        at_once: UNet rows a call; each picture takes two in turn.

    Returns:
        One value an image, at least 0; nan where the model is beside itself.
    """
    sampler = ddim(backbone.scheduler, STEPS)
    found: list[float] = []
    for start in range(0, len(images), at_once):
        some = images[start : start + at_once]
        pixels = torch.stack([from_numpy(image) for image in some])
        latents = backbone.encode_image(
            pixels.to(backbone.device, backbone.dtype), check=False
        ).float()
        text = backbone.encode_text(captions[start : start + at_once])
        errors = torch.zeros(len(some), device=latents.device)
        for i in LOOKED_AT:
            noise = keyed_noise("surprise", i, shape=latents.shape[1:]).to(latents)
            x = sampler.noised(i, latents, noise)
            output = backbone.unet_output(sampler.scale_input(i, x), sampler.timesteps[i], text)
            _, predicted = sampler.split(i, x, output)
            errors += (predicted - noise).square().mean(dim=(1, 2, 3)) / len(LOOKED_AT)
        found += errors.tolist()
    return found


@dataclass(frozen=True, kw_only=True)
class Surprise:
    """Scores the worse of a pair's pictures; looks at each picture once in its life.

    Attributes:
        backbone: What drew them.
    """

    backbone: Backbone
    name: ClassVar[str] = "surprise"
    dear: ClassVar[bool] = True
    _seen: dict[int, tuple[ImageArray, float]] = field(default_factory=dict, init=False)

    def __call__(self, pairs: Sequence[ImagePair]) -> list[float]:
        """See `Scorer`."""
        self.look(
            [pair.source for pair in pairs] + [pair.edited for pair in pairs],
            [pair.triplet.caption for pair in pairs]
            + [pair.triplet.edited_caption for pair in pairs],
        )
        both = [(self._seen[id(pair.source)], self._seen[id(pair.edited)]) for pair in pairs]
        return [float(np.maximum(source, edited)) for (_, source), (_, edited) in both]

    def look(self, images: Sequence[ImageArray], captions: Sequence[str]) -> list[float]:
        """Return the surprise of pictures, each under its caption."""
        new = {
            id(image): (image, caption)
            for image, caption in zip(images, captions, strict=True)
            if id(image) not in self._seen
        }
        if new:
            pictures, texts = zip(*new.values(), strict=True)
            found = surprise(self.backbone, pictures, texts)
            for (image, _), value in zip(new.values(), found, strict=True):
                # With the image, so that its id stays its own.
                self._seen[id(image)] = image, value
        return [self._seen[id(image)][1] for image in images]

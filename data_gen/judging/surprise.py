"""How surprised the generator is by a picture: what it would seldom draw is malformed.

CLIP looks at what a picture shows, not at how well it is made. The model that drew it knows: with
noise put on, it predicts that noise badly where a picture does not look like those it was trained
on. That error, a term of the bound on the picture's likelihood (Ho et al. 2020, equation 12), is
what Li et al. 2023 tell classes apart by; here it tells good pictures from bad.
"""

from collections.abc import Sequence
from typing import Final

import torch

from data_gen.records import ImageArray
from inference.backbone import Backbone
from inference.images import from_numpy
from inference.noise import keyed_noise
from inference.sampling import ddim

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
        latents = backbone.encode_image(pixels.to(backbone.device, backbone.dtype)).float()
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

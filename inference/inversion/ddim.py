"""Inversions that need nothing but the DDIM trajectory of a picture."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inference.backbone import Backbone
from inference.inversion.inverted import Inverted, check_prompts, conditional
from inference.sampling import ddim, ddim_invert


@dataclass(frozen=True, kw_only=True)
class Ddim:
    """DDIM inversion (Dhariwal & Nichol 2021, appendix F), without guidance.

    With guidance the way back leads elsewhere: the lower bound of Null-text inversion's table.
    """

    @torch.no_grad()
    def invert(
        self,
        backbone: Backbone,
        images: Tensor,
        prompts: Sequence[str],
        *,
        steps: int,
        guidance_scale: float,
    ) -> Inverted:
        """See `Inversion`; the trajectory does not depend on the guidance scale."""
        check_prompts(images, prompts)
        sampler = ddim(backbone.scheduler, steps)
        predict = conditional(backbone, prompts, sampler)
        return Inverted(
            prompts=tuple(prompts),
            sampler=sampler,
            source_scale=guidance_scale,
            trajectory=ddim_invert(predict, sampler, backbone.encode_image(images)),
        )


@dataclass(frozen=True, kw_only=True)
class NegativePrompt:
    """Negative-prompt inversion (Miyake et al. 2023): the null embedding is the source prompt's.

    Guidance then vanishes for the source, and costs nothing to prepare.
    """

    @torch.no_grad()
    def invert(
        self,
        backbone: Backbone,
        images: Tensor,
        prompts: Sequence[str],
        *,
        steps: int,
        guidance_scale: float,
    ) -> Inverted:
        """See `Inversion`; the trajectory does not depend on the guidance scale."""
        inverted = Ddim().invert(
            backbone, images, prompts, steps=steps, guidance_scale=guidance_scale
        )
        null = backbone.encode_text(prompts).expand(steps, -1, -1, -1)
        return replace(inverted, null=null)


@dataclass(frozen=True, kw_only=True)
class Direct:
    """Direct inversion (Ju et al. 2024): the source is put back onto its trajectory at every step.

    The source is exact; the target is left to its own steps.
    """

    @torch.no_grad()
    def invert(
        self,
        backbone: Backbone,
        images: Tensor,
        prompts: Sequence[str],
        *,
        steps: int,
        guidance_scale: float,
    ) -> Inverted:
        """See `Inversion`; the trajectory does not depend on the guidance scale."""
        inverted = Ddim().invert(
            backbone, images, prompts, steps=steps, guidance_scale=guidance_scale
        )
        return replace(inverted, follows=True)

"""Inversions that need nothing but the DDIM trajectory of a picture."""

from dataclasses import dataclass, replace

import torch

from inference.guidance import ProximalGuidance
from inference.inversion.inverted import InversionRequest, Inverted, conditional
from inference.samplers import ddim
from inference.sampling import ddim_invert


@dataclass(frozen=True, kw_only=True)
class Ddim:
    """DDIM inversion (Dhariwal & Nichol 2021, appendix F), without guidance.

    With guidance the way back leads elsewhere: the lower bound of Null-text inversion's table.
    """

    @torch.no_grad()
    def invert(self, request: InversionRequest) -> Inverted:
        """See `Inversion`; the trajectory does not depend on the guidance scale."""
        backbone, sampler = request.backbone, ddim(request.backbone.scheduler, request.steps)
        predict = conditional(backbone, request.prompts, sampler)
        return Inverted(
            prompts=request.prompts,
            sampler=sampler,
            source_scale=request.guidance_scale,
            trajectory=ddim_invert(predict, sampler, backbone.encode_image(request.images)),
        )


@dataclass(frozen=True, kw_only=True)
class NegativePrompt:
    """Negative-prompt inversion (Miyake et al. 2023): the null embedding is the source prompt's.

    Guidance then vanishes for the source, and costs nothing to prepare.
    """

    @torch.no_grad()
    def invert(self, request: InversionRequest) -> Inverted:
        """See `Inversion`; the trajectory does not depend on the guidance scale."""
        prompts = request.backbone.encode_text(request.prompts)
        null = prompts.expand(request.steps, len(prompts))
        return replace(Ddim().invert(request), null=null)


@dataclass(frozen=True, kw_only=True)
class Proximal:
    """Negative-prompt inversion whose targets are guided where it matters alone (Han et al. 2024).

    Late in the way the sources are put back onto their trajectory, so that they are exact.

    Attributes:
        guidance: How.
    """

    guidance: ProximalGuidance = ProximalGuidance()  # noqa: RUF009  (frozen)

    @torch.no_grad()
    def invert(self, request: InversionRequest) -> Inverted:
        """See `Inversion`; the trajectory does not depend on the guidance scale."""
        return replace(NegativePrompt().invert(request), proximal=self.guidance)


@dataclass(frozen=True, kw_only=True)
class Direct:
    """Direct inversion (Ju et al. 2024): the source is put back onto its trajectory at every step.

    The source is exact; the target is left to its own steps.
    """

    @torch.no_grad()
    def invert(self, request: InversionRequest) -> Inverted:
        """See `Inversion`; the trajectory does not depend on the guidance scale."""
        return replace(Ddim().invert(request), follows=True)

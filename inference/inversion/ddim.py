"""Inversions that need nothing but the DDIM trajectory of a picture."""

from dataclasses import dataclass, replace

import torch

from inference.inversion.config import (
    DdimConfig,
    DirectConfig,
    NegativePromptConfig,
    ProximalConfig,
)
from inference.inversion.inverted import Inversion, InversionRequest, Inverted, conditional
from inference.samplers import ddim
from inference.sampling import ddim_invert


@dataclass(frozen=True, kw_only=True)
class Ddim(DdimConfig, Inversion):
    """See `DdimConfig`."""

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
class NegativePrompt(NegativePromptConfig, Inversion):
    """See `NegativePromptConfig`."""

    @torch.no_grad()
    def invert(self, request: InversionRequest) -> Inverted:
        """See `Inversion`; the trajectory does not depend on the guidance scale."""
        prompts = request.backbone.encode_text(request.prompts)
        null = prompts.expand(request.steps, len(prompts))
        return replace(Ddim().invert(request), null=null)


@dataclass(frozen=True, kw_only=True)
class Proximal(ProximalConfig, Inversion):
    """See `ProximalConfig`."""

    @torch.no_grad()
    def invert(self, request: InversionRequest) -> Inverted:
        """See `Inversion`; the trajectory does not depend on the guidance scale."""
        return replace(NegativePrompt().invert(request), proximal=self.guidance)


@dataclass(frozen=True, kw_only=True)
class Direct(DirectConfig, Inversion):
    """See `DirectConfig`."""

    @torch.no_grad()
    def invert(self, request: InversionRequest) -> Inverted:
        """See `Inversion`; the trajectory does not depend on the guidance scale."""
        return replace(Ddim().invert(request), follows=True)

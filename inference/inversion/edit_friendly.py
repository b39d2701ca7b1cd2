"""Edit-friendly DDPM inversion: the noise that a stochastic sampler would have had to draw."""

from dataclasses import dataclass

import torch
from torch import Tensor

from inference.inversion.config import EditFriendlyConfig
from inference.inversion.inverted import Inversion, InversionRequest, Inverted, guided
from inference.noise import keyed_noise
from inference.number_types import checks_numbers
from inference.samplers import ddpm
from inference.sampling import Sampler


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class EditFriendly(EditFriendlyConfig, Inversion):
    """See `EditFriendlyConfig`."""

    @torch.no_grad()
    def invert(self, request: InversionRequest) -> Inverted:
        """See `Inversion`; the guidance scale makes no difference."""
        backbone, steps = request.backbone, request.steps
        sampler = ddpm(backbone.scheduler, steps)
        clean = backbone.encode_image(request.images)
        states = [self._noised(sampler, i, clean) for i in range(steps)] + [clean]
        texts = backbone.encode_text(request.prompts)
        null = backbone.encode_text([""]).expand(len(texts))
        predict = guided(backbone, lambda _: texts, sampler, self.source_scale, lambda _: null)
        noise = []
        for i in range(steps):
            output = predict(i, sampler.scale_input(i, states[i]))
            drift = sampler.step(i, states[i], output, torch.zeros_like(clean))
            if sampler.fresh[i]:
                noise.append((states[i + 1] - drift) / sampler.fresh[i])
            else:  # the way back arrives where it arrives, not where it should
                states[i + 1] = drift
                noise.append(torch.zeros_like(clean))
        return Inverted(
            prompts=request.prompts,
            sampler=sampler,
            source_scale=self.source_scale,
            trajectory=torch.stack(states),
            first_step=int(self.skip * steps + 1e-6),
            noise=torch.stack(noise),
        )

    def _noised(self, sampler: Sampler, i: int, clean: Tensor) -> Tensor:
        """The state before step i, (B, C, h, w), with noise of its own."""
        noise = keyed_noise("edit-friendly", self.seed, i, shape=clean.shape[1:]).to(clean)
        return sampler.noised(i, clean, noise)

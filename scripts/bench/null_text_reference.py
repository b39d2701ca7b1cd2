"""Null-text inversion as its authors' notebook runs it, to be measured against.

Mokady et al. 2023, `null_text_w_ptp.ipynb`: one picture; gradients of the weights computed along
with the embedding's and thrown away; an optimiser step before the look that ends a step; and the
prompt evaluated a second time for the guided step. Its attention control writes all maps out, which
`written_maps` adds. Written anew from the description, over our own sampler tables.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from inference.guidance import cfg
from inference.inversion.ddim import Ddim
from inference.inversion.inverted import InversionRequest, Inverted
from inference.text import Text


@dataclass(frozen=True, kw_only=True)
class ReferenceNullText:
    """The notebook's loop.

    Attributes:
        inner_steps: Optimiser steps a sampler step, at most.
        early_stop: Mean squared error that ends the first step's optimisation; 2e-5 more a step.
    """

    inner_steps: int = 10
    early_stop: float = 1e-5

    def invert(self, request: InversionRequest) -> Inverted:
        """Invert one picture."""
        assert len(request.images) == 1, "the notebook takes one picture"
        with weights_with_gradients(request.backbone.unet):
            inverted = Ddim().invert(request)
            return replace(inverted, null=self._null_texts(request, inverted))

    def _null_texts(self, request: InversionRequest, inverted: Inverted) -> Text:
        backbone, sampler = request.backbone, inverted.sampler
        with torch.no_grad():
            prompt = backbone.encode_text(request.prompts)
            null = backbone.encode_text([""])
        x, found = inverted.start, []

        def output(i: int, text: Text) -> Tensor:
            return backbone.unet_output(x.expand(len(text), -1, -1, -1), sampler.timesteps[i], text)

        for i in range(sampler.steps):
            states = null.states.detach().clone().requires_grad_()
            adam = torch.optim.Adam([states], lr=1e-2 * (1 - i / 100))
            with torch.no_grad():
                conditional = output(i, prompt)
            for _ in range(self.inner_steps):
                guided = cfg(
                    output(i, Text(states, null.pooled)), conditional, request.guidance_scale
                )
                loss = mse_loss(sampler.step(i, x, guided), inverted.trajectory[i + 1])
                adam.zero_grad()
                loss.backward()
                adam.step()
                if loss.item() < self.early_stop + 2e-5 * i:
                    break
            null = Text(states.detach(), null.pooled)
            found.append(null)
            with torch.no_grad():
                uncond, cond = output(i, Text.cat([null, prompt])).chunk(2)
                x = sampler.step(i, x, cfg(uncond, cond, request.guidance_scale))
        return Text.stack(found)


@contextmanager
def weights_with_gradients(unet: nn.Module) -> Iterator[None]:
    """Let a UNet's weights take gradients, as a freshly loaded one's do, and forget them after."""
    unet.requires_grad_(True)
    try:
        yield
    finally:
        unet.requires_grad_(False)
        unet.zero_grad(set_to_none=True)

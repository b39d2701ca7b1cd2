"""Attention as the reference codes have it: maps written out in full, and rewritten while active.

Prompt-to-Prompt, and InstructPix2Pix after it, put the maps of a source in the place of its
target's. The benchmarks are measured against this, and the tests hold our own way against it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import Tensor

Rewrite = Callable[[Tensor, bool], Tensor]
"""From maps (rows, heads, queries, keys), and whether they are of cross-attention, to new ones."""


class WrittenMaps:
    """An attention processor that writes its maps out.

    Attributes:
        rewrite: What becomes of them.
        active: Whether it is asked.
    """

    def __init__(self, rewrite: Rewrite) -> None:
        self.rewrite, self.active = rewrite, True

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Attend."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projected in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        maps = (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)
        if self.active:
            maps = self.rewrite(maps, encoder_hidden_states is not None)
        attended: Tensor = attn.to_out[0]((maps @ v).transpose(1, 2).flatten(2))
        return attended


@contextmanager
def written_maps(unet: Any, rewrite: Rewrite) -> Iterator[WrittenMaps]:
    """Put them into a UNet."""
    former, maps = dict(unet.attn_processors), WrittenMaps(rewrite)
    unet.set_attn_processor(maps)
    try:
        yield maps
    finally:
        unet.set_attn_processor(former)

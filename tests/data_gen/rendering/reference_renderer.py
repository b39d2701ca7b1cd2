"""A renderer as plain as can be, to hold the real one against: InstructPix2Pix's own way."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from data_gen.records import EditTriplet
from data_gen.rendering.trees import Share, Tree
from inference.alignment import Alignment, align, read_prompt
from inference.backbone import Backbone
from inference.noise import keyed_noise
from inference.sampling import SAMPLERS, SamplerName

PS = (0.0, 0.12, 0.31, 0.45, 0.46, 0.6, 0.83, 0.97)
STEPS = 12


def triplet(caption: str, edited_caption: str) -> EditTriplet:
    return EditTriplet.of(
        caption=caption,
        instruction="change it",
        edited_caption=edited_caption,
        edit_type="recolour",
        inverse_instruction="change it back",
    )


# The tiny tokenizer knows "red" and "cat"; other words are a token a letter.
SWAP = triplet("a red fox", "a red dog")
LONGER = triplet("a red fox", "a cat, a wolf")
OTHERS = (triplet("a cat", "a red"), triplet("big", "dog"), triplet("a cat", "red cat"))


def tree(of: EditTriplet = SWAP, ps: Sequence[float] = PS, seed_index: int = 0) -> Tree:
    return Tree(triplet=of, seed_index=seed_index, guidance=5.0, ps=tuple(ps))


class CopiedMaps:
    """InstructPix2Pix's way: materialise the attention logits and copy those of the source.

    Rows are [unconditional source, unconditional target, conditional source, conditional target].
    Cross-attention maps move to the target's tokens as the alignment has it.
    """

    def __init__(self, share: Share, alignment: Alignment) -> None:
        self.share = share
        self.alignment = alignment
        self.active = False

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projected in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        logits = q @ k.transpose(-1, -2) * attn.scale
        is_cross = encoder_hidden_states is not None
        if self.active and self.share == "self" and not is_cross:
            logits = logits[[0, 0, 2, 2]]
        maps = logits.softmax(-1)
        if self.active and self.share == "cross" and is_cross:
            moved = maps[2] @ self.alignment.matrix.to(maps)
            maps[3] = torch.where(self.alignment.taken, moved, maps[3])
        attended: Tensor = attn.to_out[0]((maps @ v).transpose(1, 2).flatten(2))
        return attended


@contextmanager
def copied_maps(unet: Any, share: Share, alignment: Alignment) -> Iterator[CopiedMaps]:
    former = dict(unet.attn_processors)
    maps = CopiedMaps(share, alignment)
    unet.set_attn_processor(maps)
    try:
        yield maps
    finally:
        unet.set_attn_processor(former)


@torch.inference_mode()
def render_independently(
    backbone: Backbone, of: Tree, p: float, share: Share, sampler_name: SamplerName
) -> tuple[Tensor, Tensor]:
    """One candidate alone, as the reference code renders it: latents of source and target."""
    sampler = SAMPLERS[sampler_name](backbone.scheduler, STEPS)
    captions = of.triplet.caption, of.triplet.edited_caption
    text = backbone.encode_text(["", "", *captions])
    shape, key = (1, 4, 8, 8), (of.triplet.id, of.seed_index)

    def noise(*what: str | int) -> Tensor:
        return keyed_noise(*key, *what, shape=shape[1:], dtype=backbone.dtype)[None]

    x, previous = sampler.init_scale * noise("start").expand(2, -1, -1, -1), None
    with copied_maps(backbone.unet, share, alignment_of(backbone, of.triplet)) as maps:
        for i in range(STEPS):
            maps.active = i / (STEPS - 1) < p
            scaled = sampler.scale_input(i, x)
            rows = torch.cat([scaled, scaled])
            output = backbone.unet_output(rows, sampler.timesteps[i], text)
            uncond, cond = output.chunk(2)
            guided = uncond + of.guidance * (cond - uncond)
            before, x = x, sampler.step(i, x, guided, noise("step", i), previous)
            previous, _ = sampler.split(i, before, guided)
    return x[0], x[1]


def alignment_of(backbone: Backbone, of: EditTriplet) -> Alignment:
    """How the words of the two captions correspond."""
    before, after = (
        read_prompt(backbone.tokenizer, text, backbone.text_length)
        for text in (of.caption, of.edited_caption)
    )
    return align(before, after, substitute=True)

"""A renderer as plain as can be, to hold the real one against: InstructPix2Pix's own way."""

from collections.abc import Sequence

import torch
from torch import Tensor

from data_gen.records import EditTriplet
from data_gen.rendering.config import RenderKnobs, Share
from data_gen.rendering.trees import Tree
from inference.alignment import Alignment, align, read_prompt
from inference.backbone import Backbone
from inference.choices import SamplerName
from inference.noise import keyed_noise
from inference.samplers import SAMPLERS
from scripts.bench.written_maps import Rewrite, written_maps

PS = (0.0, 0.12, 0.31, 0.45, 0.46, 0.6, 0.83, 0.97)
STEPS = 12
KNOBS = RenderKnobs(steps=STEPS, batch_rows=12, seeds=2, branches=3)
SAMPLER_NAMES = tuple(SAMPLERS)


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


def tree(
    of: EditTriplet = SWAP, ps: Sequence[float] = PS, seed_index: int = 0, together: float = 0.0
) -> Tree:
    return Tree(triplet=of, seed_index=seed_index, guidance=5.0, ps=tuple(ps), together=together)


def copying(share: Share, alignment: Alignment) -> Rewrite:
    """Give the target the source's maps.

    Rows are [unconditional source, unconditional target, conditional source, conditional target].
    Cross-attention maps move to the target's tokens as the alignment has it.
    """

    def rewrite(maps: Tensor, is_cross: bool) -> Tensor:
        if share != "cross" and not is_cross:
            return maps[[0, 0, 2, 2]]
        if share != "self" and is_cross:
            moved = maps[2] @ alignment.matrix.to(maps)
            return torch.cat([maps[:3], torch.where(alignment.taken, moved, maps[3])[None]])
        return maps

    return rewrite


@torch.inference_mode()
def render_independently(
    backbone: Backbone, of: Tree, p: float, share: Share, sampler_name: SamplerName
) -> tuple[Tensor, Tensor]:
    """One candidate alone, as the reference code renders it: latents of source and target."""
    sampler = SAMPLERS[sampler_name](backbone.scheduler, STEPS)
    captions = of.triplet.caption, of.triplet.edited_caption
    text = backbone.encode_text(["", "", *captions])
    side = int(backbone.unet.config.sample_size)
    shape, key = (1, 4, side, side), (of.triplet.id, of.seed_index)

    def noise(*what: str | int) -> Tensor:
        return keyed_noise(*key, *what, shape=shape[1:], dtype=backbone.dtype)[None]

    x, previous = sampler.init_scale * noise("start").expand(2, -1, -1, -1), None
    rewrite = copying(share, alignment_of(backbone, of.triplet))
    with written_maps(backbone.unet, rewrite) as maps:
        for i in range(STEPS):
            maps.active = i / (STEPS - 1) < p
            scaled = sampler.scale_input(i, x)
            rows = torch.cat([scaled, scaled])
            output = backbone.unet_output(rows, sampler.timesteps[i], text)
            uncond, cond = output.chunk(2)
            guided = uncond + of.guidance * (cond - uncond)
            if i / (STEPS - 1) < of.together:  # the target is the source still
                guided = guided[:1].expand_as(guided)
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

"""Render image pairs from edit triplets: Prompt-to-Prompt with random p, by the prefix tree.

A pair is two images of one model from two captions and the same noise; what they share beyond the
noise is attention, for the first fraction p of the steps. `share="self"` is what InstructPix2Pix's
code did (self-attention, everywhere, in both guidance branches), `share="cross"` what its paper
says (Prompt-to-Prompt's word swap in cross-attention, in the conditional branch).

Which states share and fork when is `prefix_tree`'s business; which pairs are good, `filter`'s.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from data_gen.prefix_tree import Call, Plan, plan
from data_gen.records import EditTriplet, ImageArray, ImagePair, Rendered
from inference.alignment import Alignment, align, read_prompt
from inference.attention import CrossMaps, Hooks, RowSharing, controlled
from inference.backbone import Backbone, PromptTooLong
from inference.guidance import cfg
from inference.images import to_numpy
from inference.noise import keyed_noise, keyed_seed
from inference.sampling import SAMPLERS, Sampler, SamplerName
from inference.text import Text

Share = Literal["self", "cross", "both"]


@dataclass(frozen=True, kw_only=True)
class RenderKnobs:
    """How pairs are rendered.

    Attributes:
        share: Attention that source and target share: InstructPix2Pix's self-attention, or
            Prompt-to-Prompt's cross-attention, which keeps more of the source, or both.
        steps: Steps of the sampler.
        seeds: Trees a triplet; each has its own noise and guidance scale.
        seeds_of: Trees for single edit types: what seldom succeeds needs more to choose from.
        branches: Values of p a tree.
        p_range: Range of p; its equal parts, one a branch, are drawn from uniformly.
        p_ranges: Ranges for single edit types: what moves a figure needs a smaller p.
        guidance_range: Range that the guidance scale of a tree is drawn from, uniformly.
        sampler: Name of the sampler.
        size: Side of the square images in pixels; None for what the model was made for.
        batch_rows: UNet rows a call, at most. Two for each image in the making.
    """

    share: Share = "self"
    steps: int = 25
    seeds: int = 4
    seeds_of: Mapping[str, int] = field(default_factory=dict)
    branches: int = 4
    p_range: tuple[float, float] = (0.1, 0.9)
    p_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    guidance_range: tuple[float, float] = (7.5, 15.0)
    sampler: SamplerName = "euler_ancestral"
    size: int | None = None
    batch_rows: int = 64

    def __post_init__(self) -> None:
        least = {"steps": 2, "seeds": 1, "branches": 1, "batch_rows": 4}
        numbers = [(name, getattr(self, name), bound) for name, bound in least.items()]
        numbers += [(f"seeds_of.{kind}", found, 1) for kind, found in self.seeds_of.items()]
        for name, found, bound in numbers:
            if found < bound:
                raise ValueError(f"pairs.render.{name} must be at least {bound}, got {found}")
        ranges = {"p_range": self.p_range, "guidance_range": self.guidance_range}
        ranges |= {f"p_ranges.{kind}": found for kind, found in self.p_ranges.items()}
        for name, (low, high) in ranges.items():
            if not 0 <= low <= high:
                raise ValueError(
                    f"pairs.render.{name} must be 0 <= low <= high, got [{low}, {high}]"
                )

    def seeds_for(self, triplet: EditTriplet) -> int:
        """How many trees a triplet gets."""
        return self.seeds_of.get(triplet.edit_type, self.seeds)


@dataclass(frozen=True, kw_only=True)
class Tree:
    """All candidates of one seed of a triplet.

    Attributes:
        triplet: The texts.
        seed_index: Which of the triplet's seeds; the noise is a function of the two.
        guidance: Classifier-free guidance scale.
        ps: One p a branch.
    """

    triplet: EditTriplet
    seed_index: int
    guidance: float
    ps: tuple[float, ...]


def draw_tree(triplet: EditTriplet, seed_index: int, knobs: RenderKnobs) -> Tree:
    """Draw what is random about a tree; guidance = f(triplet, seed), p = f(triplet, seed, branch).

    Branch b of k draws its p from the b-th of k equal parts of ``p_range``. Over the branches that
    is InstructPix2Pix's uniform draw, but two branches seldom share the same number of steps, which
    would give the same image twice.
    """

    def uniform(low: float, high: float, *key: str | int) -> float:
        return random.Random(keyed_seed(triplet.id, seed_index, *key)).uniform(low, high)

    low, high = knobs.p_ranges.get(triplet.edit_type, knobs.p_range)
    part = (high - low) / knobs.branches
    return Tree(
        triplet=triplet,
        seed_index=seed_index,
        guidance=uniform(*knobs.guidance_range, "guidance"),
        ps=tuple(
            uniform(low + part * branch, low + part * (branch + 1), "p", branch)
            for branch in range(knobs.branches)
        ),
    )


def rejection(backbone: Backbone, triplet: EditTriplet) -> str | None:
    """Return why a triplet cannot be rendered, or None where it can."""
    try:
        backbone.check_lengths([triplet.caption, triplet.edited_caption])
    except PromptTooLong:
        return f"a caption exceeds {backbone.text_length} tokens"
    return None


def render(
    backbone: Backbone,
    triplets: Sequence[EditTriplet],
    knobs: RenderKnobs,
    *,
    progress: Callable[[int], object] | None = None,
) -> Iterator[Rendered]:
    """Render all candidates of the triplets.

    Batches go across triplets, seeds and branches; how they are composed depends on the arguments
    alone.

    Args:
        backbone: A text-to-image model.
        triplets: What to render.
        knobs: How.
        progress: Called after every UNet call with its number of rows.

    Yields:
        The triplets in order, each with its candidates, or with the reason why it has none.

    Raises:
        ValueError: The backbone is not a text-to-image model, or cannot make images of the size,
            or its precision does not suffice.
    """
    waiting: list[tuple[EditTriplet, str | None]] = []
    trees = 0
    for triplet in triplets:
        reason = rejection(backbone, triplet)
        waiting.append((triplet, reason))
        trees += 0 if reason else knobs.seeds_for(triplet)
        # As many trees as a call holds states: two full calls at the first step, more at the later.
        if trees >= knobs.batch_rows // 2:
            yield from _render_waiting(backbone, waiting, knobs, progress)
            waiting, trees = [], 0
    yield from _render_waiting(backbone, waiting, knobs, progress)


def _render_waiting(
    backbone: Backbone,
    waiting: list[tuple[EditTriplet, str | None]],
    knobs: RenderKnobs,
    progress: Callable[[int], object] | None,
) -> Iterator[Rendered]:
    trees = [
        draw_tree(triplet, seed_index, knobs)
        for triplet, reason in waiting
        if reason is None
        for seed_index in range(knobs.seeds_for(triplet))
    ]
    rendered = iter(render_trees(backbone, trees, knobs, progress=progress))
    for triplet, reason in waiting:
        seeds = 0 if reason else knobs.seeds_for(triplet)
        pairs = tuple(pair for _ in range(seeds) for pair in next(rendered))
        yield Rendered(triplet=triplet, pairs=pairs, reason=reason)


def render_trees(
    backbone: Backbone,
    trees: Sequence[Tree],
    knobs: RenderKnobs,
    *,
    progress: Callable[[int], object] | None = None,
) -> list[tuple[ImagePair, ...]]:
    """Render trees of any guidance and p, all of them in step.

    Args:
        backbone: A text-to-image model.
        trees: What to render; the latents of all are held at once.
        knobs: How; the numbers of seeds and branches and the ranges are not looked at.
        progress: Called after every UNet call with its number of rows.

    Returns:
        For every tree one pair a branch, in order.

    Raises:
        ValueError: The backbone is not a text-to-image model, or cannot make images of the size,
            or a triplet cannot be rendered (see ``rejection``), or the result is not finite.
    """
    if not trees:
        return []
    planned, latents = denoise_trees(backbone, trees, knobs, progress=progress)
    # A decoder's activations are several times a UNet's: an eighth of the rows at a time.
    images = _decode(backbone, latents, max(1, knobs.batch_rows // 8))
    return [
        tuple(
            ImagePair(
                triplet=tree.triplet,
                key=ImagePair.key_of(tree.triplet.id, tree.seed_index, branch),
                source=images[source],
                edited=images[target],
                seed_index=tree.seed_index,
                branch=branch,
                p=p,
                guidance=tree.guidance,
            )
            for branch, (p, target) in enumerate(zip(tree.ps, targets, strict=True))
        )
        for tree, source, targets in zip(trees, planned.source_of, planned.targets_of, strict=True)
    ]


@torch.inference_mode()
def denoise_trees(
    backbone: Backbone,
    trees: Sequence[Tree],
    knobs: RenderKnobs,
    *,
    progress: Callable[[int], object] | None = None,
) -> tuple[Plan, Tensor]:
    """Denoise trees as ``render_trees`` does, without decoding.

    Returns:
        The plan, which says which state is what, and the clean latents of its N states,
        (N, C, h, w).

    Raises:
        ValueError: As ``render_trees``.
    """
    rendering = _Rendering(backbone, trees, knobs)
    with controlled(backbone.unet) as hooks:
        for i in range(knobs.steps):
            rendering.step(i, hooks, progress)
    return rendering.plan, rendering.latents


class _Rendering:
    """Trees in the making: the latents of every state of the plan, and what moves them.

    G trees, N states of latents (C, h, w), texts of L tokens and D channels.
    """

    def __init__(self, backbone: Backbone, trees: Sequence[Tree], knobs: RenderKnobs) -> None:
        triplets = dict.fromkeys(tree.triplet for tree in trees)
        for triplet in triplets:
            if reason := rejection(backbone, triplet):
                raise ValueError(f"triplet {triplet.id} cannot be rendered: {reason}")
        self.backbone, self.trees, self.knobs = backbone, trees, knobs
        self.sampler: Sampler = SAMPLERS[knobs.sampler](backbone.scheduler, knobs.steps)
        self.plan: Plan = plan(
            [tree.ps for tree in trees], steps=knobs.steps, batch_rows=knobs.batch_rows
        )
        aligned = {t: _aligned(backbone, t) for t in triplets} if knobs.share != "self" else {}
        self.alignments = [aligned.get(tree.triplet) for tree in trees]
        self.dtype = torch.promote_types(backbone.dtype, torch.float32)
        self.shape = _latent_shape(backbone, knobs.size)
        self.tree_of = torch.tensor(self.plan.tree_of, device=backbone.device)
        guidance = [tree.guidance for tree in trees]
        self.guidance = torch.tensor(guidance, device=backbone.device, dtype=self.dtype)
        self.null_text, self.texts, self.text_of = self._encode_texts()
        first = self._noise("start") * self.sampler.init_scale
        self.latents = first[self.tree_of]  # (N, C, h, w)

    def step(self, i: int, hooks: Hooks, progress: Callable[[int], object] | None) -> None:
        """Move every living state from before step i to after it."""
        forks = self.plan.steps[i].forks
        if forks:
            trunks, suffixes = zip(*forks, strict=True)
            self.latents[list(suffixes)] = self.latents[list(trunks)]
        # One noise for all states of a tree: a pair is to differ by its captions alone.
        noise = self._noise("step", i) if self.sampler.fresh[i] else None
        for call in self.plan.steps[i].calls:
            self._call(i, call, noise, hooks)
            if progress:
                progress(2 * len(call.states))

    def _call(self, i: int, call: Call, noise: Tensor | None, hooks: Hooks) -> None:
        states = torch.tensor(call.states, device=self.backbone.device)
        trees = self.tree_of[states]
        x = self.latents[states]
        hooks.sharing = self._sharing(call)
        rows = self.sampler.scale_input(i, x).to(self.backbone.dtype).repeat(2, 1, 1, 1)
        text = Text.cat([self.null_text.expand(len(x)), self.texts[self.text_of[states]]])
        output = self.backbone.unet_output(rows, self.sampler.timesteps[i], text).to(self.dtype)
        uncond, cond = output.chunk(2)
        guided = cfg(uncond, cond, self.guidance[trees].view(-1, 1, 1, 1))
        shared_noise = None if noise is None else noise[trees]
        self.latents[states] = self.sampler.step(i, x, guided, shared_noise)

    def _sharing(self, call: Call) -> RowSharing | None:
        """What the rows of a call share: [unconditional of all states, conditional of all]."""
        if not call.sources:
            return None
        conditional = len(call.states)
        by_self, by_row, by_map = [], [], []
        for source, trunk in zip(call.sources, call.trunks, strict=True):
            alignment = self.alignments[self.plan.tree_of[call.states[source]]]
            rows = (conditional + source, conditional + trunk)
            if self.knobs.share != "cross":
                by_self += [(source, trunk), rows]
            if alignment is not None and alignment.is_identity:
                by_row.append(rows)
            elif alignment is not None:
                by_map.append((rows, alignment))
        return RowSharing(
            self_attention=tuple(by_self),
            cross_attention=tuple(by_row),
            cross_maps=CrossMaps.of(by_map, self.backbone.device) if by_map else None,
        )

    def _noise(self, *what: str | int) -> Tensor:
        """(G, C, h, w), a function of triplet and seed index."""
        drawn = [
            keyed_noise(tree.triplet.id, tree.seed_index, *what, shape=self.shape)
            for tree in self.trees
        ]
        return torch.stack(drawn).to(self.backbone.device, self.dtype)

    def _encode_texts(self) -> tuple[Text, Text, Tensor]:
        """The null text, the distinct captions, and state -> caption (N,)."""
        sources = set(self.plan.source_of)
        captions = [
            self.trees[tree].triplet.caption
            if state in sources
            else self.trees[tree].triplet.edited_caption
            for state, tree in enumerate(self.plan.tree_of)
        ]
        rows = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
        # One at a time: a caption's embedding must not move with its company.
        texts = [self.backbone.encode_text([caption]) for caption in rows]
        text_of = torch.tensor([rows[text] for text in captions], device=self.backbone.device)
        return self.backbone.encode_text([""]), Text.cat(texts), text_of


def _aligned(backbone: Backbone, triplet: EditTriplet) -> Alignment:
    source, target = (
        read_prompt(backbone.tokenizer, text, backbone.text_length)
        for text in (triplet.caption, triplet.edited_caption)
    )
    return align(source, target, substitute=True)


@torch.inference_mode()
def _decode(backbone: Backbone, latents: Tensor, at_once: int) -> list[ImageArray]:
    images: list[ImageArray] = []
    for some in latents.split(at_once):
        decoded = backbone.decode(some)
        if not decoded.isfinite().all():
            raise ValueError(
                f"rendering in {backbone.dtype} gave pixels that are not finite; "
                "a wider precision is needed"
            )
        images += map(to_numpy, decoded)
    return images


def _latent_shape(backbone: Backbone, size: int | None) -> tuple[int, int, int]:
    channels = backbone.unet.config.in_channels
    expected = backbone.vae.config.latent_channels
    if channels != expected:
        raise ValueError(
            f"pairs are rendered by a text-to-image UNet with {expected} input channels, "
            f"this one has {channels}"
        )
    side = size or backbone.native_size
    if side % backbone.size_multiple:
        raise ValueError(
            f"pairs.render.size must be a multiple of {backbone.size_multiple} for this model, "
            f"got {side}"
        )
    side //= backbone.latent_factor
    return channels, side, side

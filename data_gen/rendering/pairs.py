"""Render image pairs from edit triplets: Prompt-to-Prompt with random p, by the prefix tree.

A pair is two images of one model from two captions and the same noise; what they share beyond the
noise is attention, for the first fraction p of the steps. `share="self"` is what InstructPix2Pix's
code did (self-attention, everywhere, in both guidance branches), `share="cross"` what its paper
says (Prompt-to-Prompt's word swap in cross-attention, in the conditional branch).

Which states share and fork when is `prefix_tree`'s business, what is random about a tree that of
`trees`; which pairs are good, and which are not worth finishing, is said by others (`Watch`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from data_gen.records import EditTriplet, ImageArray
from data_gen.rendering.config import RenderKnobs
from data_gen.rendering.grown import ENOUGH, NOT_FINITE, Grown, grown, pair_of
from data_gen.rendering.prefix_tree import Call, Plan, plan
from data_gen.rendering.trees import Tree
from data_gen.rendering.watch import Draft, Watch
from inference.alignment import Alignment, align, read_prompt
from inference.attention import RowSharing, controlled
from inference.backbone import Backbone, PromptTooLong
from inference.cross_maps import CrossMaps
from inference.guidance import cfg
from inference.images import to_numpy
from inference.noise import keyed_noise
from inference.samplers import SAMPLERS
from inference.sampling import Sampler
from inference.text import Text

Progress = Callable[[int], object]
"""Called after every UNet call with its number of rows."""


class NotFinite(ValueError):
    """Not one of all pictures is finite, so that no pair can come of any triplet."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(
            f"rendering in {backbone.dtype} gave nothing but {NOT_FINITE}; "
            "a wider precision is needed"
        )


def rejection(backbone: Backbone, triplet: EditTriplet) -> str | None:
    """Return why a triplet cannot be rendered, or None where it can."""
    try:
        backbone.check_lengths([triplet.caption, triplet.edited_caption])
    except PromptTooLong:
        return f"a caption exceeds {backbone.text_length} tokens"
    return None


@torch.inference_mode()
def render_trees(
    backbone: Backbone,
    trees: Sequence[Tree],
    knobs: RenderKnobs,
    *,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> list[Grown]:
    """Render trees of any guidance and p, all of them in step.

    Args:
        backbone: A text-to-image model.
        trees: What to render; the latents of all are held at once.
        knobs: How; the numbers of seeds and branches and the ranges are not looked at.
        watch: Who says what is given up; None finishes all.
        progress: Called after every UNet call.

    Returns:
        What became of each tree, in order.

    Raises:
        ValueError: The backbone is not a text-to-image model, or cannot make images of the size,
            or a triplet cannot be rendered (see ``rejection``).
    """
    if not trees:
        return []
    rendering = _Rendering(backbone, trees, knobs, progress)
    planned = rendering.plan
    reasons: dict[int, str] = {}  # target -> why it is given up
    rendering.grow_roots()
    sources = rendering.images(planned.source_of)
    for reason, targets in zip(_said(trees, sources, watch), planned.targets_of, strict=True):
        reasons |= dict.fromkeys(targets, reason) if reason else {}
    edited: dict[int, ImageArray | None] = {}
    for turn in planned.turns(one_by_one=watch is not None and watch.p_in_turn):
        wanted = [target for target in turn if target not in reasons]
        reasons |= rendering.grow_targets(wanted, sources, watch)
        finished = [target for target in wanted if target not in reasons]
        images = dict(zip(finished, rendering.images(finished), strict=True))
        reasons |= {target: NOT_FINITE for target, image in images.items() if image is None}
        edited |= images
        if watch is not None and watch.p_in_turn:
            for tree in _passing(rendering, sources, images, watch):
                left = set(planned.targets_of[tree]) - edited.keys() - reasons.keys()
                reasons |= dict.fromkeys(left, ENOUGH)
    return [
        grown(tree, source, [edited.get(t) for t in targets], [reasons.get(t) for t in targets])
        for tree, source, targets in zip(trees, sources, planned.targets_of, strict=True)
    ]


def _passing(
    rendering: "_Rendering",
    sources: Sequence[ImageArray | None],
    images: Mapping[int, ImageArray | None],
    watch: Watch,
) -> list[int]:
    """The trees of which one of these finished targets passes."""
    pairs = {}
    for target, image in images.items():
        number = rendering.plan.tree_of[target]
        tree, source = rendering.trees[number], sources[number]
        if source is not None and image is not None:
            branch = rendering.plan.targets_of[number].index(target)
            pairs[number] = pair_of(tree, branch, source, image)
    said = watch.passes(list(pairs.values())) if pairs else []
    return [number for number, passes in zip(pairs, said, strict=True) if passes]


def _said(
    trees: Sequence[Tree], sources: Sequence[ImageArray | None], watch: Watch | None
) -> list[str | None]:
    """Why the tree of each source is given up; a watch sees those that are finite."""
    finite = {n: source for n, source in enumerate(sources) if source is not None}
    said: Sequence[str | None] = [None] * len(finite)
    if watch and finite:
        said = watch.sources([trees[n].triplet for n in finite], list(finite.values()))
    reasons = dict(zip(finite, said, strict=True))
    return [reasons.get(n, NOT_FINITE) for n in range(len(sources))]


@torch.inference_mode()
def denoise_trees(
    backbone: Backbone,
    trees: Sequence[Tree],
    knobs: RenderKnobs,
    *,
    progress: Progress | None = None,
) -> tuple[Plan, Tensor]:
    """Denoise trees as ``render_trees`` does, all of them, without decoding.

    Returns:
        The plan, which says which state is what, and the clean latents of its N states,
        (N, C, h, w).

    Raises:
        ValueError: As ``render_trees``.
    """
    rendering = _Rendering(backbone, trees, knobs, progress)
    rendering.grow_roots()
    rendering.grow_targets(list(rendering.plan.forks))
    return rendering.plan, rendering.latents


class _Rendering:
    """Trees in the making: the latents of every state of the plan, and what moves them.

    G trees, N states of latents (C, h, w), texts of L tokens and D channels.
    """

    def __init__(
        self,
        backbone: Backbone,
        trees: Sequence[Tree],
        knobs: RenderKnobs,
        progress: Progress | None,
    ) -> None:
        triplets = dict.fromkeys(tree.triplet for tree in trees)
        for triplet in triplets:
            if reason := rejection(backbone, triplet):
                raise ValueError(f"triplet {triplet.id} cannot be rendered: {reason}")
        self.backbone, self.trees, self.knobs, self.progress = backbone, trees, knobs, progress
        self.guided = any(tree.guidance != 1 for tree in trees)
        self.sampler: Sampler = SAMPLERS[knobs.sampler](backbone.scheduler, knobs.steps)
        self.plan: Plan = plan(
            [tree.ps for tree in trees],
            steps=knobs.steps,
            capacity=knobs.batch_rows // (2 if self.guided else 1),
            together=[tree.together for tree in trees],
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
        self.expected = torch.zeros_like(self.latents)  # x0, as last estimated
        self.fresh, self.fresh_of = first, -1  # new noise, and the step that adds it

    def grow_roots(self) -> None:
        """Move the sources to their end, and the trunks to their last fork, leaving copies."""
        with controlled(self.backbone.unet) as hooks:
            for i in range(self.plan.steps):
                if pairs := list(self.plan.copies_of(i)):
                    originals, copies = map(list, zip(*pairs, strict=True))
                    for states in (self.latents, self.expected):
                        states[copies] = states[originals]
                for call in self.plan.root_calls(i):
                    hooks.sharing = self._sharing(call)
                    self._move(i, call)

    def grow_targets(
        self,
        wanted: Sequence[int],
        sources: Sequence[ImageArray | None] = (),
        watch: Watch | None = None,
    ) -> dict[int, str]:
        """Move targets from their forks to their end; they share no longer.

        Args:
            wanted: Which.
            sources: Source image of each tree, for the watch.
            watch: Who may give some up.

        Returns:
            Target -> why it was given up.
        """
        reasons: dict[int, str] = {}
        for i in range(self.plan.steps):
            going = [target for target in wanted if target not in reasons]
            for call in self.plan.target_calls(i, going):
                self._move(i, call)
            if watch is not None and watch.draft_at is not None:
                due = self._due(going, i, watch.draft_at)
                for target, reason in zip(due, self._said(due, sources, watch), strict=True):
                    reasons |= {target: reason} if reason else {}
        return reasons

    def images(self, states: Sequence[int]) -> list[ImageArray | None]:
        """Decode states; None where pixels are not finite."""
        return self._decoded(self.latents[list(states)]) if states else []

    def _due(self, going: Iterable[int], i: int, draft_at: float) -> list[int]:
        """Targets to be looked at after step i: at that fraction, or once they have forked."""
        first = min(int(draft_at * self.plan.steps), self.plan.steps - 1)
        return [target for target in going if i == max(first, self.plan.forks[target])]

    def _said(
        self, due: Sequence[int], sources: Sequence[ImageArray | None], watch: Watch
    ) -> Sequence[str | None]:
        """Why some targets are given up at their drafts; the watch sees those that are finite."""
        images = self._decoded(self.expected[list(due)]) if due else []
        drafts = {}
        for target, image in zip(due, images, strict=True):
            tree = self.plan.tree_of[target]
            source = sources[tree]
            if source is not None and image is not None:
                triplet = self.trees[tree].triplet
                drafts[target] = Draft(triplet=triplet, source=source, edited=image)
        said = watch.drafts(list(drafts.values())) if drafts else []
        reasons = dict(zip(drafts, said, strict=True))
        return [reasons.get(target, NOT_FINITE) for target in due]

    def _move(self, i: int, call: Call) -> None:
        """Move the states of a call past step i."""
        states = torch.tensor(call.states, device=self.backbone.device)
        trees, x = self.tree_of[states], self.latents[states]
        output = self._output(i, x, states, trees)
        # One noise for all states of a tree: a pair is to differ by its captions alone.
        noise = self._fresh(i)[trees] if self.sampler.fresh[i] else None
        previous = self.expected[states] if i else None
        self.latents[states] = self.sampler.step(i, x, output, noise, previous)
        self.expected[states], _ = self.sampler.split(i, x, output)
        if self.progress:
            self.progress(len(states) * (2 if self.guided else 1))

    def _output(self, i: int, x: Tensor, states: Tensor, trees: Tensor) -> Tensor:
        """The guided output for some states; rows are all unconditional ones, then the others."""
        scaled = self.sampler.scale_input(i, x).to(self.backbone.dtype)
        timestep, text = self.sampler.timesteps[i], self.texts[self.text_of[states]]
        if not self.guided:
            return self.backbone.unet_output(scaled, timestep, text).to(self.dtype)
        both = Text.cat([self.null_text.expand(len(x)), text])
        output = self.backbone.unet_output(scaled.repeat(2, 1, 1, 1), timestep, both)
        uncond, cond = output.to(self.dtype).chunk(2)
        return cfg(uncond, cond, self.guidance[trees].view(-1, 1, 1, 1))

    def _sharing(self, call: Call) -> RowSharing | None:
        """What the rows of a call share: [unconditional of all states, conditional of all]."""
        if not call.sources:
            return None
        conditional = len(call.states) if self.guided else 0
        by_self, by_row, by_map = [], [], []
        for source, trunk in zip(call.sources, call.trunks, strict=True):
            alignment = self.alignments[self.plan.tree_of[call.states[source]]]
            rows = (conditional + source, conditional + trunk)
            if self.knobs.share != "cross":
                by_self += [(source, trunk), rows] if self.guided else [rows]
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

    def _fresh(self, i: int) -> Tensor:
        """The noise that step i adds, (G, C, h, w)."""
        if self.fresh_of != i:
            self.fresh, self.fresh_of = self._noise("step", i), i
        return self.fresh

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

    def _decoded(self, latents: Tensor) -> list[ImageArray | None]:
        images: list[ImageArray | None] = []
        # A decoder's activations are several times a UNet's: an eighth of the rows at a time.
        for some in latents.split(max(1, self.knobs.batch_rows // 8)):
            decoded = self.backbone.decode(some, check=False)
            finite = decoded.isfinite().flatten(1).all(dim=1).tolist()
            images += [
                to_numpy(image) if good else None
                for image, good in zip(decoded, finite, strict=True)
            ]
        return images


def _aligned(backbone: Backbone, triplet: EditTriplet) -> Alignment:
    source, target = (
        read_prompt(backbone.tokenizer, text, backbone.text_length)
        for text in (triplet.caption, triplet.edited_caption)
    )
    return align(source, target, substitute=True)


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

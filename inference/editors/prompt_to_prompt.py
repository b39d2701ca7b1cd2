"""Prompt-to-Prompt: an edit of the prompt that keeps the picture, by control of its attention.

Source and target are denoised side by side from one state; for a first part of the steps the target
attends where the source does. Real pictures come in through an inversion.

Rows of a UNet call for B requests: unconditional sources, unconditional targets, conditional
sources, conditional targets, B each. Attention is controlled in the conditional ones alone.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inference.alignment import Alignment, Prompt, align, read_prompt
from inference.attention import RowSharing, controlled
from inference.backbone import Backbone
from inference.cross_maps import CrossMaps
from inference.editors.blend import BlendMasks, BlendPositions, blend_grid, blend_positions
from inference.editors.config import PromptToPromptConfig
from inference.editors.editor import EditRequest, required
from inference.editors.sizes import Sizes, in_batches, resize
from inference.guidance import cfg
from inference.inversion.inverted import Inversion, InversionRequest, Inverted
from inference.inversion.proximal import put_back, threshold
from inference.noise import keyed_noise
from inference.number_types import checks_numbers
from inference.progress import ProgressBar
from inference.samplers import ddim
from inference.sampling import denoise
from inference.text import Text


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class PromptToPrompt(PromptToPromptConfig):
    """Prompt-to-Prompt.

    The other options are those of `PromptToPromptConfig`.

    Attributes:
        backbone: A text-to-image model.
        inversion: How pictures come in; None edits what the model draws for the source prompt.
        progress: Show a progress bar.
    """

    backbone: Backbone
    inversion: Inversion | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        self.backbone.check_text_to_image("PromptToPrompt")

    @property
    def reads(self) -> frozenset[str]:
        """See `Editor`: noise is drawn where there is no inversion."""
        prompts = frozenset({"source", "target"})
        return prompts | {"seed"} if self.inversion is None else prompts

    @torch.no_grad()
    def edit(self, requests: Sequence[EditRequest]) -> list[Tensor]:
        """The edited images; see `Editor`.

        Raises:
            ValueError: A request lacks a prompt, or an image where there is an inversion.
            WordNotFound: A word of the knobs is not in a prompt.
            PromptTooLong: A prompt has more tokens than the text encoder reads.
        """
        return [target for _, target in self.edit_pairs(requests)]

    @torch.no_grad()
    def edit_pairs(self, requests: Sequence[EditRequest]) -> list[tuple[Tensor, Tensor]]:
        """Source and target, as the model draws them; both of the size of the request's image."""
        # What is wrong with a prompt is said before the first step.
        controls = [self._control(request) for request in requests]
        sizes = Sizes.of(self.backbone, None)
        images = [self._image(request, sizes) for request in requests]
        sources: dict[int, Tensor] = {}
        total = len(requests) * self.steps
        with ProgressBar(
            total=total, desc="editing", unit="step", disable=not self.progress
        ) as bar:

            def edited(rows: Sequence[int], resized: Tensor) -> Tensor:
                start = self._start([requests[row] for row in rows], resized)
                latents = self._denoised([controls[row] for row in rows], start, bar.update)
                decoded = self.backbone.decode(latents)
                for row, source in zip(rows, decoded.cpu().float(), strict=False):
                    sources[row] = resize(source, (images[row].shape[1], images[row].shape[2]))
                return decoded[len(rows) :]

            targets = in_batches(images, edited, sizes, self.batch_size)
        return [(sources[number], target) for number, target in enumerate(targets)]

    def _denoised(
        self,
        controls: "Sequence[_PromptControl]",
        start: Inverted,
        advance: Callable[[int], object],
    ) -> Tensor:
        """Clean latents of B sources, then of their B targets: (2B, C, h, w)."""
        backbone, count = self.backbone, len(controls)
        sources = backbone.encode_text([control.source.text for control in controls])
        targets = backbone.encode_text([control.target.text for control in controls])
        empty = backbone.encode_text([""])
        scales = torch.tensor([start.source_scale, self.guidance_scale], device=backbone.device)
        scales = scales.repeat_interleave(count).view(-1, 1, 1, 1)
        control = _Control(controls, self)
        masks = self._masks(controls, start.start)

        led = torch.ones_like(start.start)

        def predict(i: int, x: Tensor) -> Tensor:
            nonlocal led
            nulls = [start.null_texts(i, empty), start.target_null_texts(i, empty)]
            hooks.sharing = control.at(i - start.first_step)
            hooks.recorder = masks.recorder() if masks else None
            output = backbone.unet_output(
                torch.cat([x, x]),
                start.sampler.timesteps[i],
                Text.cat([*nulls, start.source_texts(i, sources), targets]),
            )
            if masks and hooks.recorder:
                masks.record(hooks.recorder)
            uncond, cond = output.chunk(2)
            if start.proximal:
                kept, led = threshold(start.proximal, (cond - uncond)[count:])
                cond = torch.cat([cond[:count], uncond[count:] + kept])
            return cfg(uncond, cond, scales)

        def adjust(i: int, x: Tensor) -> Tensor:
            source, target = x.chunk(2)
            source = start.correct(i, source)
            run = i - start.first_step
            if start.proximal:
                timestep, original = start.sampler.timesteps[i], start.trajectory[i + 1].to(target)
                target = put_back(start.proximal, timestep, target, original, led)
            if masks and run >= masks.blend.start * self.steps:
                target = source + masks.mask() * (target - source)
            return torch.cat([source, target])

        with controlled(backbone.unet) as hooks:
            return denoise(
                predict,
                start.sampler,
                torch.cat([start.start] * 2),
                start=start.first_step,
                noise=lambda i: torch.cat([start.step_noise(i)] * 2),
                adjust=adjust,
                callback=lambda *_: advance(count),
            )

    def _image(self, request: EditRequest, sizes: Sizes) -> Tensor:
        """The picture to edit; one of the model's size stands for what is to be drawn."""
        if self.inversion is None:
            if request.image is not None:
                raise ValueError(
                    "PromptToPrompt edits a picture through an inversion, but inversion is None"
                )
            return torch.zeros(3, sizes.long_side, sizes.long_side)
        image: Tensor = required(request, "image", "PromptToPrompt with an inversion")
        return image

    def _start(self, requests: Sequence[EditRequest], images: Tensor) -> Inverted:
        """From where the sources are drawn: (B, 3, h, w) images inverted, or noise."""
        prompts = tuple(str(request.source) for request in requests)
        if self.inversion is not None:
            return self.inversion.invert(
                InversionRequest(
                    backbone=self.backbone,
                    images=images,
                    prompts=prompts,
                    steps=self.steps,
                    guidance_scale=self.guidance_scale,
                    progress=self.progress,
                )
            )
        sampler, factor = ddim(self.backbone.scheduler, self.steps), self.backbone.latent_factor
        shape = (self.backbone.vae.config.latent_channels, *(s // factor for s in images.shape[2:]))
        noise = [keyed_noise("edit", request.seed, "start", shape=shape) for request in requests]
        first = sampler.init_scale * torch.stack(noise).to(self.backbone.device)
        return Inverted(
            prompts=prompts,
            sampler=sampler,
            source_scale=self.guidance_scale,
            trajectory=first[None],
        )

    def _masks(self, controls: "Sequence[_PromptControl]", latents: Tensor) -> BlendMasks | None:
        """What blending knows at first; `latents` are of the size of all of them."""
        words = [control.blended for control in controls if control.blended is not None]
        if self.blend is None:
            return None
        size = (latents.shape[-2], latents.shape[-1])
        return BlendMasks(self.blend, words, size, blend_grid(self.backbone.unet, *size))

    def _control(self, request: EditRequest) -> "_PromptControl":
        texts: list[str] = [required(request, n, "PromptToPrompt") for n in ("source", "target")]
        source, target = (
            read_prompt(self.backbone.tokenizer, text, self.backbone.text_length) for text in texts
        )
        scale = torch.ones(target.length)
        for word, factor in self.weights.items():
            scale[list(target.find(word))] = factor
        windows = torch.tensor([self.cross] * target.length, dtype=torch.float32)
        for word, window in self.cross_of.items():
            windows[list(target.find(word))] = torch.tensor(window, dtype=torch.float32)
        blended = blend_positions(self.blend, source, target) if self.blend else None
        if self.blend and self.blend.weighted and blended:
            self._check_seen(target, {*blended.target, *blended.kept_target})
        return _PromptControl(
            source=source,
            target=target,
            alignment=align(source, target, substitute=self.substitute),
            blended=blended,
            scale=scale,
            opens=_step(windows[:, 0], self.steps),
            closes=_step(windows[:, 1], self.steps),
        )

    def _check_seen(self, target: Prompt, looked_for: Set[int]) -> None:
        """Words without attention are seen nowhere, so that nothing, or all, would be blended."""
        for word, factor in self.weights.items():
            if factor <= 0 and looked_for & set(target.find(word)):
                raise ValueError(
                    f"the weight of {word!r} is {factor}, so that blend cannot see where it is; "
                    "expected a weight above 0, or blend.weighted false"
                )


@dataclass(frozen=True, kw_only=True)
class _PromptControl:
    """What one request's prompts ask of attention; L positions of the target prompt.

    Attributes:
        source, target: The prompts.
        alignment: Between them.
        blended: Where the words of the blend stand in them; None without one.
        scale: (L,) factors.
        opens, closes: (L,) the steps between which each position is controlled.
    """

    source: Prompt
    target: Prompt
    alignment: Alignment
    blended: BlendPositions | None
    scale: Tensor
    opens: Tensor
    closes: Tensor

    def gate(self, i: int) -> Tensor:
        """(L,) 1 where the i-th step that is run is controlled, else 0."""
        return ((self.opens <= i) & (i < self.closes)).float()

    def copies_rows(self, i: int) -> bool:
        """Whether all that there is to do in that step is to attend as the source does."""
        plain = self.alignment.is_identity and bool((self.scale == 1).all())
        return plain and bool(self.gate(i).all())


def _step(fraction: Tensor, steps: int) -> Tensor:
    """The first step that a fraction of all steps does not hold."""
    return (fraction * steps + 1e-4).floor()


class _Control:
    """The attention control of a batch of B requests, step by step."""

    def __init__(self, requests: Sequence[_PromptControl], editor: PromptToPrompt) -> None:
        self.requests, self.editor = requests, editor
        start, stop = torch.tensor(editor.self_attention)
        self.shares_self = range(int(_step(start, editor.steps)), int(_step(stop, editor.steps)))

    def at(self, i: int) -> RowSharing:
        """What the rows of the i-th step that is run share, from 0."""
        count = len(self.requests)
        rows = [(2 * count + number, 3 * count + number) for number in range(count)]
        copied, rewritten = [], []
        for pair, request in zip(rows, self.requests, strict=True):
            if request.copies_rows(i):
                copied.append(pair)
            elif request.gate(i).any():
                rewritten.append((pair, request))
        most = self.editor.self_positions
        return RowSharing(
            self_attention=tuple(rows) if i in self.shares_self else (),
            self_sites=lambda _, positions: positions <= most,
            cross_attention=tuple(copied),
            cross_maps=self._maps(rewritten, i) if rewritten else None,
        )

    def _maps(self, edits: Sequence[tuple[tuple[int, int], _PromptControl]], i: int) -> CrossMaps:
        device = self.editor.backbone.device
        plain = CrossMaps.of([(rows, request.alignment) for rows, request in edits], device)
        return replace(
            plain,
            scale=torch.stack([request.scale for _, request in edits]).to(device),
            gate=torch.stack([request.gate(i) for _, request in edits]).to(device),
        )

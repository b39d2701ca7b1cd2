"""Plug-and-Play: a new picture of another prompt that is laid out as the old one.

Beside the target, the picture's own inversion is denoised again; the target takes a decoder
feature of it and attends where it does.

Rows of a UNet call for B requests: the source as its trajectory has it, the unconditional target,
the conditional target, B each.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from inference.attention import QueriesKeys, QueryKeyRecorder, RowSharing, controlled
from inference.backbone import Backbone
from inference.editors.config import PlugAndPlayConfig
from inference.editors.editor import EditRequest, required
from inference.editors.features import Features, load_features, save_features
from inference.editors.sizes import Sizes, in_batches
from inference.guidance import cfg
from inference.inversion.ddim import Ddim
from inference.inversion.inverted import InversionRequest, Inverted
from inference.inversion.saved import fingerprint, fingerprint_of_pixels
from inference.number_types import checks_numbers
from inference.progress import ProgressBar
from inference.samplers import ddim
from inference.sampling import denoise
from inference.text import Text

_DECODER_ATTENTION = re.compile(r"up_blocks\.(\d+)\.attentions\.(\d+)\..*\.attn1$")
_SECOND = 1
"""Features and attention are taken from the second layer of the coarsest attending block on."""


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class PlugAndPlay(PlugAndPlayConfig):
    """Plug-and-Play.

    The other options are those of `Plug-and-PlayConfig`.

    Attributes:
        backbone: A text-to-image model.
        progress: Show a progress bar.
    """

    backbone: Backbone
    progress: bool = False

    def __post_init__(self) -> None:
        self.backbone.check_text_to_image("PlugAndPlay")

    @property
    def reads(self) -> frozenset[str]:
        """See `Editor`: its noise is the inverted picture's, and that is inverted without words."""
        return frozenset({"target"})

    @torch.no_grad()
    def edit(self, requests: Sequence[EditRequest]) -> list[Tensor]:
        """The edited images; see `Editor`.

        Raises:
            ValueError: A request lacks its image or its target prompt.
            PromptTooLong: A prompt has more tokens than the text encoder reads.
        """
        images: list[Tensor] = [required(one, "image", "PlugAndPlay") for one in requests]
        prompts: list[str] = [required(one, "target", "PlugAndPlay") for one in requests]
        self.backbone.check_lengths([*prompts, self.negative_prompt])
        total = len(requests) * self.steps
        with ProgressBar(
            total=total, desc="editing", unit="step", disable=not self.progress
        ) as bar:

            def edited(rows: Sequence[int], resized: Tensor) -> Tensor:
                targets = [prompts[row] for row in rows]
                if self.store is None:
                    latents = self.denoise_targets(targets, self.invert(resized), bar.update)
                else:
                    features = self._stored(resized, self.store)
                    latents = self.denoise_from(targets, features, bar.update)
                return self.backbone.decode(latents)

            return in_batches(images, edited, Sizes.of(self.backbone, None), self.batch_size)

    def invert(self, images: Tensor) -> Inverted:
        """The trajectories of (B, 3, h, w) images under the empty prompt."""
        request = InversionRequest(
            backbone=self.backbone,
            images=images,
            prompts=("",) * len(images),
            steps=self.steps,
            guidance_scale=1.0,
        )
        return Ddim().invert(request)

    def denoise_targets(
        self,
        targets: Sequence[str],
        inverted: Inverted,
        advance: Callable[[int], object] = lambda _: None,
    ) -> Tensor:
        """Clean latents of the targets of B inverted pictures, (B, C, h, w)."""
        backbone, count = self.backbone, len(targets)
        text = Text.cat([backbone.encode_text([""]).expand(count), self._texts(targets)])
        pairs = tuple((row % count, row) for row in range(count, 3 * count))
        sites = attention_sites(backbone.unet)
        sharing = RowSharing(self_attention=pairs, self_sites=lambda name, _: name in sites)

        def predict(i: int, x: Tensor) -> Tensor:
            hooks.sharing = sharing if i < self._steps_of(self.attention) else None
            feature.copied = i < self._steps_of(self.features)
            rows = torch.cat([inverted.trajectory[i].to(x), x, x])
            output = backbone.unet_output(rows, inverted.sampler.timesteps[i], text)
            _, uncond, cond = output.chunk(3)
            return cfg(uncond, cond, self.guidance_scale)

        with controlled(backbone.unet) as hooks, copied_feature(backbone.unet) as feature:
            return denoise(
                predict,
                inverted.sampler,
                inverted.start,
                callback=lambda *_: advance(count),
            )

    def extract(self, images: Tensor) -> Features:
        """What `denoise_from` needs of (B, 3, h, w) images."""
        backbone, inverted = self.backbone, self.invert(images)
        text = backbone.encode_text([""]).expand(len(images))
        recorder = QueryKeyRecorder(attention_sites(backbone.unet))
        decoder: list[Tensor] = []
        query_keys: dict[str, list[QueriesKeys]] = {site: [] for site in sorted(recorder.sites)}
        with controlled(backbone.unet) as hooks, copied_feature(backbone.unet) as feature:
            hooks.query_keys = recorder
            for i in range(self._steps_of(max(self.features, self.attention))):
                backbone.unet_output(inverted.trajectory[i], inverted.sampler.timesteps[i], text)
                if i < self._steps_of(self.features):
                    decoder.append(feature.seen)
                if i < self._steps_of(self.attention):
                    for site, found in query_keys.items():
                        found.append(recorder.found[site])
        nothing = inverted.start.new_zeros(0, len(images), 1, 1, 1)
        return Features(
            start=inverted.start,
            decoder=torch.stack(decoder) if decoder else nothing,
            query_keys={
                site: (torch.stack([q for q, _ in found]), torch.stack([k for _, k in found]))
                for site, found in query_keys.items()
                if found
            },
        )

    def denoise_from(
        self,
        targets: Sequence[str],
        features: Features,
        advance: Callable[[int], object] = lambda _: None,
    ) -> Tensor:
        """As `denoise_targets`, from what was taken from the pictures before."""
        backbone, sampler = self.backbone, ddim(self.backbone.scheduler, self.steps)
        text = self._texts(targets)

        def predict(i: int, x: Tensor) -> Tensor:
            hooks.given, feature.given = features.query_keys_at(i), features.decoder_at(i)
            output = backbone.unet_output(torch.cat([x, x]), sampler.timesteps[i], text)
            uncond, cond = output.chunk(2)
            return cfg(uncond, cond, self.guidance_scale)

        with controlled(backbone.unet) as hooks, copied_feature(backbone.unet) as feature:
            return denoise(
                predict, sampler, features.start, callback=lambda *_: advance(len(targets))
            )

    def _stored(self, images: Tensor, folder: Path) -> Features:
        """The features of some pictures, from the folder where they are there, else put there."""
        knobs = [self.steps, self.features, self.attention, str(self.backbone.dtype)]
        model = fingerprint(self.backbone)
        parts = []
        for image in images.split(1):
            belongs = json.dumps([model, fingerprint_of_pixels(image), knobs])
            name = hashlib.sha256(belongs.encode()).hexdigest()[:32]
            path = folder / f"{name}.safetensors"
            if not path.exists():
                save_features(path, self.extract(image))
            parts.append(load_features(path, self.backbone.device))
        return Features.together(parts)

    def _texts(self, targets: Sequence[str]) -> Text:
        """Negative prompts, then targets."""
        negative = self.backbone.encode_text([self.negative_prompt]).expand(len(targets))
        return Text.cat([negative, self.backbone.encode_text(targets)])

    def _steps_of(self, fraction: float) -> int:
        return int(fraction * self.steps + 1e-6)


def attention_sites(unet: UNet2DConditionModel) -> frozenset[str]:
    """The self-attention of the decoder, from the second layer of its coarsest attention on.

    In Stable Diffusion 1 and 2: blocks 1 (its last two layers), 2 and 3.

    Raises:
        ValueError: The decoder has no attention.
    """
    first = _first_block(unet)
    found = set()
    for name, _ in unet.named_modules():
        match = _DECODER_ATTENTION.match(name)
        if (
            match
            and name.endswith(".attn1")
            and tuple(map(int, match.groups())) >= (first, _SECOND)
        ):
            found.add(name)
    return frozenset(found)


class CopiedFeature:
    """What becomes of a decoder feature in the UNet call to come.

    Attributes:
        copied: Both targets, of rows [source, target, target], get the source's.
        given: (B, C, h, w), which all rows get, again and again; None for their own.
        seen: What it was in the last call, before any of that.
    """

    def __init__(self) -> None:
        self.copied = False
        self.given: Tensor | None = None
        self.seen: Tensor

    def __call__(self, module: nn.Module, arguments: object, output: Tensor) -> Tensor | None:
        """The feature to go on with; None for the module's own."""
        self.seen = output
        if self.given is not None:
            return self.given.to(output).repeat(len(output) // len(self.given), 1, 1, 1)
        return output.chunk(3)[0].repeat(3, 1, 1, 1) if self.copied else None


@contextmanager
def copied_feature(unet: UNet2DConditionModel) -> Iterator[CopiedFeature]:
    """Hold the output of a residual branch, before its skip, under control.

    It is that of the second layer of the decoder's coarsest attending block: in Stable Diffusion 1
    and 2 ``up_blocks[1].resnets[1]``, the paper's layer 4.
    """
    feature = CopiedFeature()
    block: nn.Module = unet.get_submodule(f"up_blocks.{_first_block(unet)}.resnets.{_SECOND}.conv2")
    handle = block.register_forward_hook(feature)
    try:
        yield feature
    finally:
        handle.remove()


def _first_block(unet: UNet2DConditionModel) -> int:
    for number, kind in enumerate(unet.config.up_block_types):
        if "Attn" in kind:
            return number
    raise ValueError("the UNet's decoder has no attention to plug into")

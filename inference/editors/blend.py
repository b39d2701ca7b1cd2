"""Blending: the source stays wherever the words of an edit are not to be seen.

Where they are to be seen is read off the cross-attention maps, summed over the steps so far.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from inference.alignment import Prompt, WordNotFound
from inference.attention import LostHook, MapRecorder
from inference.editors.config import Blend

SIDE = 16
"""Maps are taken at the resolution nearest to 16 by 16, where words are told apart best."""


@dataclass(frozen=True, kw_only=True)
class BlendPositions:
    """Token positions whose places are looked at when blending."""

    source: tuple[int, ...]
    target: tuple[int, ...]
    kept_source: tuple[int, ...]
    kept_target: tuple[int, ...]


def blend_positions(blend: Blend, source: Prompt, target: Prompt) -> BlendPositions:
    """Find the words of a blend in two prompts.

    Raises:
        WordNotFound: One is not there.
    """
    for word in blend.subtract:
        if not _holds(source, word):
            target.find(word)  # an error where neither has it
    return BlendPositions(
        source=_positions(source, blend.source),
        target=_positions(target, blend.target),
        kept_source=_positions(source, [w for w in blend.subtract if _holds(source, w)]),
        kept_target=_positions(target, [w for w in blend.subtract if _holds(target, w)]),
    )


def _positions(prompt: Prompt, words: Sequence[str]) -> tuple[int, ...]:
    return tuple(position for word in words for position in prompt.find(word))


def _holds(prompt: Prompt, word: str) -> bool:
    try:
        return bool(prompt.find(word))
    except WordNotFound:
        return False


def blend_grid(unet: UNet2DConditionModel, height: int, width: int) -> tuple[int, int]:
    """Of the resolutions at which the UNet's outer blocks see the text, that nearest to 16 by 16.

    Args:
        unet: The model.
        height, width: Of the latents.
    """
    kinds = unet.config.down_block_types
    levels = [level for level, kind in enumerate(kinds) if "CrossAttn" in kind]
    grids = [(height >> level, width >> level) for level in levels]
    return min(grids, key=lambda grid: abs(math.log(max(1, grid[0] * grid[1]) / SIDE**2)))


class BlendMasks:
    """Where targets may differ from their sources, from attention summed over the steps so far."""

    def __init__(
        self,
        blend: Blend,
        words: Sequence[BlendPositions],
        latents: tuple[int, int],
        grid: tuple[int, int],
    ) -> None:
        """Start with nothing seen.

        Args:
            blend: What to blend.
            words: Where its words stand in the prompts of each of B requests.
            latents: Height and width of the latents.
            grid: Those of the attention sites to look at; see `blend_grid`.
        """
        self.blend, self.words, self.latents, self.grid = blend, words, latents, grid
        self.total: Tensor | None = None

    def recorder(self) -> MapRecorder:
        """What records the maps of the conditional rows, the last 2B of 4B, in a UNet call."""
        count = len(self.words)
        positions = self.grid[0] * self.grid[1]
        return MapRecorder(range(2 * count, 4 * count), positions, scaled=self.blend.weighted)

    def record(self, recorder: MapRecorder) -> None:
        """Add what a UNet call left in its recorder.

        Raises:
            LostHook: It left nothing.
        """
        if recorder.total is None:
            raise LostHook(f"no cross-attention has {self.grid[0]}x{self.grid[1]} positions")
        self.total = recorder.total if self.total is None else self.total + recorder.total

    def mask(self) -> Tensor:
        """(B, 1, h, w): 1 where the target may differ."""
        assert self.total is not None
        sources, targets = self.total.chunk(2)
        rows = zip(sources, targets, self.words, strict=True)
        return torch.stack([self._mask(source, target, words) for source, target, words in rows])

    def _mask(self, source: Tensor, target: Tensor, words: BlendPositions) -> Tensor:
        may = self._places(source, words.source) | self._places(target, words.target)
        must_not = self._places(source, words.kept_source, pooled=False) | self._places(
            target, words.kept_target, pooled=False
        )
        return (may & ~must_not).float()

    def _places(self, maps: Tensor, tokens: Sequence[int], *, pooled: bool = True) -> Tensor:
        """(1, h, w) bool, where attention to tokens is high; `maps` is (positions, L)."""
        if not tokens:
            return torch.zeros(1, *self.latents, dtype=torch.bool, device=maps.device)
        heat = maps[:, list(tokens)].sum(dim=-1).view(1, 1, *self.grid)
        if pooled:
            heat = F.max_pool2d(heat, 3, stride=1, padding=1)
        heat = F.interpolate(heat, self.latents)[0]
        return heat > self.blend.threshold * heat.max()

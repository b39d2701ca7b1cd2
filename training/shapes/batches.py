"""What the base of the shapes world learns from: batches of scenes, and every so often of pairs.

A batch is a function of the seed and the step.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from inference.attention import RowSharing
from inference.files import written_atomically
from inference.progress import ProgressBar
from inference.shapes.captions import caption, describe
from inference.shapes.scene import Scene
from training.shapes.layout import LayoutPairs, draw_sharing
from training.shapes.loop import generator
from training.shapes.reshapes import draw_reshapes, reshaped
from training.shapes.scenes import Pictures, SceneSet, rng, to_model

Latents = NDArray[np.float16]
"""(N, 4, 16, 16), scaled."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """A batch of B pictures and how they are noised.

    Attributes:
        clean: (B, 4, 16, 16) scaled latents.
        captions: B texts, some of them empty.
        timesteps: (B,).
        noise: (B, 4, 16, 16), standard normal unless said otherwise where it is drawn.
        figures: (B, 1, 16, 16), 1 where a latent shows a figure.
        placed: Whether it is settled where the figures stand, whatever the noise.
        sharing: Rows that attend as others do.
    """

    clean: Tensor
    captions: list[str]
    timesteps: Tensor
    noise: Tensor
    figures: Tensor
    placed: bool = False
    sharing: RowSharing | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Batches:
    """Scenes and pairs to draw from.

    Attributes:
        scenes: Scenes and their pictures.
        latents: Of those pictures.
        chances: (N,) how likely each scene is.
        pairs: Pairs that keep the layout, and their pictures.
        pair_latents: Of those pictures.
        alphas: (T,) cumulative products of the noise schedule, on the CPU.
        size: B.
        pairs_every: Steps from one on pairs of `layout` to the next; the step after it is on those
            of `reshapes`.
        caption_dropout: Share of captions replaced by the empty one.
        seed: Of all that is drawn.
    """

    scenes: SceneSet
    latents: Latents
    chances: Tensor
    pairs: LayoutPairs
    pair_latents: Latents
    alphas: Tensor
    size: int
    pairs_every: int
    caption_dropout: float
    seed: int

    @functools.cached_property
    def _reshaped(self) -> list[int]:
        return reshaped(self.pairs)

    def draw(self, step: int) -> Drawn:
        """The batch of a step."""
        draw, key = generator(self.seed, step), f"{self.seed}/{step}"
        timesteps = draw_timesteps(self.size, len(self.alphas), draw)
        if step % self.pairs_every == 0:
            return self._sharing(timesteps, draw, key)
        if step % self.pairs_every == 1:
            return self._reshapes(timesteps, draw)
        rows = torch.multinomial(self.chances, self.size, True, generator=draw).numpy()
        clean = from_half(self.latents[rows])
        return Drawn(
            clean=clean,
            captions=draw_captions(self.scenes, rows, key, self.caption_dropout),
            timesteps=timesteps,
            noise=torch.randn(clean.shape, generator=draw),
            figures=figure_cells(to_model(self.scenes.pictures[rows])),
        )

    def _sharing(self, timesteps: Tensor, draw: torch.Generator, key: str) -> Drawn:
        rows, captions, timesteps, sharing = draw_sharing(
            self.pairs, timesteps, draw, key, self.caption_dropout
        )
        clean = from_half(self.pair_latents[rows])
        return Drawn(
            clean=clean,
            captions=captions,
            timesteps=timesteps,
            noise=torch.randn(clean[::2].shape, generator=draw).repeat_interleave(2, dim=0),
            figures=figure_cells(to_model(self.pairs.pictures[rows])),
            sharing=sharing,
        )

    def _reshapes(self, timesteps: Tensor, draw: torch.Generator) -> Drawn:
        found = draw_reshapes(
            self.pairs, self._reshaped, self.pair_latents, self.alphas, timesteps, draw
        )
        both = (self.pairs.pictures[rows] for rows in (found.sources, found.targets))
        return Drawn(
            clean=found.clean,
            captions=found.captions,
            timesteps=found.timesteps,
            noise=found.noise,
            figures=torch.maximum(*(figure_cells(to_model(some)) for some in both)),
            placed=True,
        )


def from_half(latents: Latents) -> Tensor:
    """Latents as they are trained on, in float32."""
    return torch.from_numpy(latents.astype(np.float32))


def figure_cells(images: Tensor) -> Tensor:
    """Which latents show a figure: (B, 3, 64, 64) images to (B, 1, 16, 16) of 0 and 1."""
    # No figure reaches the corner, so its pixel is the background.
    figure = (images != images[:, :, :1, :1]).any(dim=1, keepdim=True).float()
    # A cell more on every side: a latent also says what lies beside it.
    return F.max_pool2d(F.max_pool2d(figure, 4), 3, stride=1, padding=1)


def draw_timesteps(count: int, total: int, draw: torch.Generator) -> Tensor:
    """(count,) timesteps below `total`, one in each of `count` equal strata of their distribution.

    Shapes are settled between ᾱ = 0.05 and 0.8, 0.15 to 0.6 of this schedule, and where figures
    stand before that, up to 0.75. So three of four timesteps are logit-normal around the middle
    (as Esser et al. 2024, section 3.1, choose theirs), the fourth is uniform.
    """
    places = (torch.arange(count) + torch.rand(count, generator=draw)) / count
    focused = torch.sigmoid(torch.special.ndtri(places))
    spread = torch.where(torch.arange(count) % 4 == 0, places, focused)
    return (spread * total).long().clamp(max=total - 1)


def scene_chances(scenes: Sequence[Scene], crowded: float) -> Tensor:
    """(N,) chances with which scenes are drawn, such that two-figure ones are `crowded` of all."""
    two = torch.tensor([len(scene.figures) == 2 for scene in scenes])
    return torch.where(two, crowded / two.sum(), (1 - crowded) / (~two).sum())


def draw_captions(scenes: SceneSet, rows: NDArray[np.int64], key: str, dropout: float) -> list[str]:
    """Captions of some scenes; each is, with probability `dropout`, the empty one."""
    captions = []
    for place, row in enumerate(rows.tolist()):
        draw = rng("caption", f"{key}/{place}")
        kept = draw.random() >= dropout
        detail = draw.choice((0.3, 0.6, 1.0))
        captions.append(caption(describe(scenes.scenes[row], draw, detail=detail)) if kept else "")
    return captions


@torch.no_grad()
def cached_latents(vae: AutoencoderKL, pictures: Pictures, path: Path) -> Latents:
    """Scaled latents of N pictures, (N, 4, 16, 16) float16, encoded on first use."""
    if not path.exists():
        rows = []
        for start in ProgressBar(range(0, len(pictures), 64), desc="encoding", mininterval=5):
            images = to_model(pictures[start : start + 64]).to(vae.device)
            scaled = vae.encode(images).latent_dist.mean * vae.config.scaling_factor
            rows.append(scaled.cpu().numpy().astype(np.float16))
        with written_atomically(path) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(rows))
    latents: Latents = np.load(path)
    return latents

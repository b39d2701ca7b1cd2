"""Train the stable-diffusion of the shapes world: text tower first, then tower and UNet together.

The autoencoder comes finished from `autoencoder`. The text tower is pretrained on text alone (see
`sayings`) and keeps that task with a small weight while it learns to guide the UNet. Every third
step trains on pairs with shared self-attention, so that its maps carry the layout (see `layout`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from inference.attention import RowSharing, controlled
from inference.shapes.captions import caption, describe
from inference.shapes.phrasings import instruction, parse_instruction
from inference.shapes.scene import Scene, random_scene
from training.precision import bf16_with_float32_attention
from training.shapes.architecture import WIDTH, new_scheduler, new_text_encoder, new_unet
from training.shapes.layout import draw_sharing, layout_pairs
from training.shapes.loop import LoopKnobs, Losses, generator, optimise
from training.shapes.pairs import draw_pair
from training.shapes.read_back import read_back, unseen_descriptions
from training.shapes.reshapes import draw_reshapes, reshaped
from training.shapes.sayings import SayingHeads, labels, said_by_caption, said_by_instruction
from training.shapes.scenes import TEST_SEED, Pictures, SceneSet, rng, scene_set, to_model
from training.shapes.tokenizer import make_tokenizer


@dataclass(frozen=True, kw_only=True)
class DiffusionKnobs:
    """How to train the text tower and the UNet.

    Attributes:
        steps: Optimiser steps of the joint training.
        batch: Latents a step.
        rate: Peak learning rate.
        text_steps: Optimiser steps of the text tower alone, before.
        text_batch: Texts a step of the auxiliary task, half captions and half instructions.
        saying_weight: Weight of the auxiliary task in the joint training.
        saying_every: Steps from one time the auxiliary task counts to the next.
        caption_dropout: Share of captions replaced by the empty one.
        figure_weight: Weight of a clean latent that is not background, against one that is.
        scenes: Scenes to train on.
        crowded: Share of two-figure scenes in a batch; their captions are the harder ones.
        layout_pairs: Pairs of scenes that `layout` trains on.
        layout_every: Steps from one on such pairs to the next; the step after it is on those that
            `reshapes` trains on.
        preview_every: Steps between previews; each also saves the whole folder.
        seed: Of weights, scenes and batches.
    """

    steps: int = 15_600
    batch: int = 32
    rate: float = 1e-3
    text_steps: int = 800
    text_batch: int = 64
    saying_weight: float = 0.1
    saying_every: int = 4
    caption_dropout: float = 0.1
    figure_weight: float = 5.0
    scenes: int = 40_000
    crowded: float = 0.7
    layout_pairs: int = 12_000
    layout_every: int = 3
    preview_every: int = 500
    seed: int = 4


class Guided(nn.Module):
    """Everything that is trained together: UNet, text tower and the heads of the side task."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.heads = SayingHeads(WIDTH)

    @classmethod
    def untrained(cls, tokenizer: CLIPTokenizer) -> "Guided":
        """All of it with random weights."""
        return cls(new_unet(), new_text_encoder(tokenizer))

    @classmethod
    def from_folder(cls, folder: Path) -> "Guided":
        """UNet and text tower of a finished folder, in float32; the heads are new."""
        return cls(
            UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32),
            CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
        )


def train_diffusion(
    knobs: DiffusionKnobs,
    autoencoder: Path,
    work: Path,
    device: str = "cpu",
    start: Path | None = None,
) -> StableDiffusionPipeline:
    """Train and save a diffusers folder to `work/model`, earlier versions included.

    Args:
        knobs: How to train.
        autoencoder: Folder of the finished AutoencoderKL.
        work: Folder for checkpoints, logs, cached latents, previews and the finished `model`.
        device: Where to train.
        start: A finished folder whose weights to start from, where the checkpoint is gone.
    """
    torch.manual_seed(knobs.seed)
    vae = AutoencoderKL.from_pretrained(autoencoder).to(device).eval().requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(start / "tokenizer") if start else make_tokenizer()
    guided = Guided.from_folder(start) if start else Guided.untrained(tokenizer)
    guided.to(device).train()
    # A tower that guides a UNet already stays as it is until the heads have caught up with it.
    guided.text_encoder.requires_grad_(start is None)
    pretrain_text(guided, tokenizer, knobs, work / "text")
    guided.text_encoder.requires_grad_(True)
    scenes = scene_set(knobs.seed, knobs.scenes, work.parent / "scenes")
    latents = cached_latents(vae, scenes.pictures, work / "latents.npy")
    chances = scene_chances(scenes.scenes, knobs.crowded)
    alphas = new_scheduler().alphas_cumprod.to(device)
    pairs = layout_pairs(knobs.seed, knobs.layout_pairs, work.parent / "scenes")
    pair_latents = cached_latents(vae, pairs.pictures, work / "pair-latents.npy")
    reshapes = reshaped(pairs)

    def loss(step: int) -> Losses:
        draw, key = generator(knobs.seed, step), f"{knobs.seed}/{step}"
        timesteps = draw_timesteps(knobs.batch, len(alphas), draw)
        sharing = None
        reshaping = step % knobs.layout_every == 1
        if step % knobs.layout_every == 0:
            rows, captions, timesteps, sharing = draw_sharing(
                pairs, timesteps, draw, key, knobs.caption_dropout
            )
            pictures, clean = pairs.pictures[rows], pair_latents[rows]
            noise = torch.randn(clean[::2].shape, generator=draw).repeat_interleave(2, dim=0)
            figures = figure_cells(to_model(pictures))
        elif reshaping:
            found = draw_reshapes(pairs, reshapes, pair_latents, alphas.cpu(), timesteps, draw)
            captions, timesteps, noise = found.captions, found.timesteps, found.noise
            clean = pair_latents[found.targets]
            both = (pairs.pictures[rows] for rows in (found.sources, found.targets))
            figures = torch.maximum(*(figure_cells(to_model(some)) for some in both))
        else:
            rows = torch.multinomial(chances, knobs.batch, True, generator=draw).numpy()
            captions = draw_captions(scenes, rows, key, knobs.caption_dropout)
            pictures, clean = scenes.pictures[rows], latents[rows]
            noise = torch.randn(clean.shape, generator=draw)
            figures = figure_cells(to_model(pictures))
        denoising = denoising_loss(
            guided,
            clean=torch.from_numpy(clean.astype(np.float32)).to(device),
            tokens=tokenize(captions, tokenizer).to(device),
            alphas=alphas,
            timesteps=timesteps.to(device),
            noise=noise.to(device),
            weight=1 + (knobs.figure_weight - 1) * figures.to(device),
            placed=reshaping,
            sharing=sharing,
        )
        if step % knobs.saying_every:
            return {"loss": denoising}
        saying, right = saying_loss(guided, tokenizer, key, knobs.text_batch)
        total = denoising + knobs.saying_weight * saying
        return {"loss": total, "denoising": denoising, "saying": saying, "right": right}

    def preview(step: int, module: nn.Module) -> None:
        assert isinstance(module, Guided)
        pipeline = as_pipeline(module, vae, tokenizer)
        pipeline.save_pretrained(work / "model")
        for figures in (1, 2):
            sheet = work / f"preview-{step:05d}-{figures}.png"
            found = read_back(pipeline, unseen_descriptions(48, figures), sheet)
            print(f"stable-diffusion step {step}, {figures} figures: {found.summary()}", flush=True)

    loop = LoopKnobs(
        steps=knobs.steps,
        rate=knobs.rate,
        warmup=200,
        ema=0.998,
        preview_every=knobs.preview_every,
    )
    averaged = optimise(guided, loss, loop, work, preview=preview)
    assert isinstance(averaged, Guided)
    pipeline = as_pipeline(averaged, vae, tokenizer)
    pipeline.save_pretrained(work / "model")
    for figures in (1, 2):
        found = read_back(pipeline, unseen_descriptions(200, figures))
        print(f"stable-diffusion, {figures} figures: {found.summary()}")
    return pipeline


def pretrain_text(
    guided: Guided, tokenizer: CLIPTokenizer, knobs: DiffusionKnobs, work: Path
) -> None:
    """Teach the text tower what captions and instructions say, from text alone, in place."""
    tower = nn.ModuleDict({"text_encoder": guided.text_encoder, "heads": guided.heads})

    def loss(step: int) -> Losses:
        value, right = saying_loss(guided, tokenizer, f"text/{step}", 2 * knobs.text_batch)
        return {"loss": value, "right": right}

    optimise(tower, loss, LoopKnobs(steps=knobs.text_steps, rate=2e-3), work)


def saying_loss(
    guided: Guided, tokenizer: CLIPTokenizer, key: str, count: int
) -> tuple[Tensor, Tensor]:
    """The side task on `count` random texts: loss, and share of answers right."""
    texts, sayings = [], []
    for index in range(count // 2):
        draw = rng("saying", key, index)
        said = describe(random_scene(draw), draw, detail=draw.random())
        texts.append(caption(said))
        sayings.append(said_by_caption(said))
        pair = draw_pair(int(draw.random() * TEST_SEED), index)
        text = instruction(pair.edit, pair.description, draw)
        # A colour that names the target is known to the parser alone.
        _, named_colour = parse_instruction(text)
        texts.append(text)
        sayings.append(said_by_instruction(pair.edit, named_colour))
    device = guided.unet.device
    pooled = guided.text_encoder(tokenize(texts, tokenizer).to(device)).pooler_output
    loss, right = guided.heads(pooled, labels(sayings).to(device))
    return loss, right


def denoising_loss(
    guided: Guided,
    *,
    clean: Tensor,
    tokens: Tensor,
    alphas: Tensor,
    timesteps: Tensor,
    noise: Tensor,
    weight: Tensor,
    placed: bool,
    sharing: RowSharing | None,
) -> Tensor:
    """Weighted squared error of the predicted velocity (Salimans and Ho 2022, section 4).

    Where the figures stand is not yet settled in much noise, and a weight that knows makes every
    place where one may stand too likely: with √ᾱ below, in place of ᾱ³, captions of one figure came
    out with two, and with ᾱ still some captions of two with three. So it counts where hardly
    anything is open but the shapes.

    Args:
        guided: UNet and text tower.
        clean: (B, 4, 16, 16) scaled latents.
        tokens: (B, L) token ids.
        alphas: (T,) cumulative products of the noise schedule.
        timesteps: (B,) whole numbers below T.
        noise: (B, 4, 16, 16), standard normal.
        weight: (B, 1, 16, 16) weight of each latent, 1 for an ordinary one.
        placed: Whether it is settled where the figures stand, whatever the noise.
        sharing: Rows that attend as others do.
    """
    signal, spread = (
        a.sqrt()[:, None, None, None] for a in (alphas[timesteps], 1 - alphas[timesteps])
    )
    noisy = signal * clean + spread * noise
    velocity = signal * noise - spread * clean
    states = guided.text_encoder(tokens).last_hidden_state
    with controlled(guided.unet, sharing), bf16_with_float32_attention(clean.device.type):
        predicted = guided.unet(noisy, timesteps, encoder_hidden_states=states).sample
    if not placed:
        weight = 1 + (weight - 1) * signal.square() ** 3
    error: Tensor = (predicted.float() - velocity).square()
    return (weight * error).mean() / weight.mean()


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


def tokenize(texts: Sequence[str], tokenizer: CLIPTokenizer) -> Tensor:
    """(B, `MAX_LENGTH`) token ids, padded as Stable Diffusion's pipeline pads."""
    ids = tokenizer(list(texts), padding="max_length", return_tensors="pt").input_ids
    return torch.as_tensor(ids)


@torch.no_grad()
def cached_latents(vae: AutoencoderKL, pictures: Pictures, path: Path) -> NDArray[np.float16]:
    """Scaled latents of N pictures, (N, 4, 16, 16) float16, encoded on first use."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = []
        for start in tqdm(range(0, len(pictures), 64), desc="encoding", mininterval=5):
            images = to_model(pictures[start : start + 64]).to(vae.device)
            scaled = vae.encode(images).latent_dist.mean * vae.config.scaling_factor
            rows.append(scaled.cpu().numpy().astype(np.float16))
        partial = path.with_suffix(".partial.npy")
        np.save(partial, np.concatenate(rows))
        partial.rename(path)
    latents: NDArray[np.float16] = np.load(path)
    return latents


def as_pipeline(
    guided: Guided, vae: AutoencoderKL, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """The stock pipeline around the parts, without a safety checker."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=guided.text_encoder.eval(),
        tokenizer=tokenizer,
        unet=guided.unet.eval(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline

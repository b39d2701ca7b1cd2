"""Train the stable-diffusion of the shapes world: text tower first, then tower and UNet together.

The autoencoder comes finished from `autoencoder`. The text tower is pretrained on text alone (see
`sayings`) and keeps that task with a small weight while it learns to guide the UNet. Every third
step trains on pairs with shared self-attention, so that its maps carry the layout (see `layout`),
and the step after it on pairs that differ in a shape (see `reshapes`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from inference.attention import RowSharing, controlled
from inference.files import replaced_folder
from inference.loading import load_model, load_tokenizer
from inference.shapes.captions import caption, describe
from inference.shapes.phrasings import instruction, parse_instruction
from inference.shapes.scene import random_scene
from training.precision import bf16_with_float32_attention
from training.shapes.architecture import WIDTH, new_scheduler, new_text_encoder, new_unet
from training.shapes.batches import Batches, cached_latents, scene_chances
from training.shapes.layout import layout_pairs
from training.shapes.loop import LoopKnobs, Losses, optimise
from training.shapes.pairs import draw_pair
from training.shapes.read_back import read_back, unseen_descriptions
from training.shapes.sayings import SayingHeads, labels, said_by_caption, said_by_instruction
from training.shapes.scenes import TEST_SEED, rng, scene_set
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
            load_model(UNet2DConditionModel, folder / "unet"),
            load_model(CLIPTextModel, folder / "text_encoder"),
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
    vae = load_model(AutoencoderKL, autoencoder).to(device).eval().requires_grad_(False)
    tokenizer = load_tokenizer(CLIPTokenizer, start / "tokenizer") if start else make_tokenizer()
    guided = Guided.from_folder(start) if start else Guided.untrained(tokenizer)
    guided.to(device).train()
    # A tower that guides a UNet already stays as it is until the heads have caught up with it.
    guided.text_encoder.requires_grad_(start is None)
    pretrain_text(guided, tokenizer, knobs, work / "text")
    guided.text_encoder.requires_grad_(True)
    batches = prepared(knobs, vae, work)
    alphas = batches.alphas.to(device)

    def loss(step: int) -> Losses:
        drawn = batches.draw(step)
        denoising = denoising_loss(
            guided,
            clean=drawn.clean.to(device),
            tokens=tokenize(drawn.captions, tokenizer).to(device),
            alphas=alphas,
            timesteps=drawn.timesteps.to(device),
            noise=drawn.noise.to(device),
            weight=1 + (knobs.figure_weight - 1) * drawn.figures.to(device),
            placed=drawn.placed,
            sharing=drawn.sharing,
        )
        if step % knobs.saying_every:
            return {"loss": denoising}
        saying, right = saying_loss(guided, tokenizer, f"{knobs.seed}/{step}", knobs.text_batch)
        total = denoising + knobs.saying_weight * saying
        return {"loss": total, "denoising": denoising, "saying": saying, "right": right}

    def preview(step: int, module: nn.Module) -> None:
        assert isinstance(module, Guided)
        pipeline = as_pipeline(module, vae, tokenizer)
        with replaced_folder(work / "model") as folder:
            pipeline.save_pretrained(folder)
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
    with replaced_folder(work / "model") as folder:
        pipeline.save_pretrained(folder)
    for figures in (1, 2):
        found = read_back(pipeline, unseen_descriptions(200, figures))
        print(f"stable-diffusion, {figures} figures: {found.summary()}")
    return pipeline


def prepared(knobs: DiffusionKnobs, vae: AutoencoderKL, work: Path) -> Batches:
    """What to learn from; pictures and latents are made on first use, and kept beside `work`."""
    scenes = scene_set(knobs.seed, knobs.scenes, work.parent / "scenes")
    pairs = layout_pairs(knobs.seed, knobs.layout_pairs, work.parent / "scenes")
    return Batches(
        scenes=scenes,
        latents=cached_latents(vae, scenes.pictures, work / "latents.npy"),
        chances=scene_chances(scenes.scenes, knobs.crowded),
        pairs=pairs,
        pair_latents=cached_latents(vae, pairs.pictures, work / "pair-latents.npy"),
        alphas=new_scheduler().alphas_cumprod,
        size=knobs.batch,
        pairs_every=knobs.layout_every,
        caption_dropout=knobs.caption_dropout,
        seed=knobs.seed,
    )


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


def tokenize(texts: Sequence[str], tokenizer: CLIPTokenizer) -> Tensor:
    """(B, `MAX_LENGTH`) token ids, padded as Stable Diffusion's pipeline pads."""
    ids = tokenizer(list(texts), padding="max_length", return_tensors="pt").input_ids
    return torch.as_tensor(ids)


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

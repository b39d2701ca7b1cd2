"""Train the open_clip model of the shapes world: the filter's and the metrics' eye.

Two contrastive losses at once. The first matches pictures and captions, in batches that hold every
scene next to its edit, so that one changed word decides. The second matches the *difference* of two
pictures with the difference of their captions: the directional similarity by which pairs are kept
(InstructPix2Pix, section 3.1.2).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from inference.clip import CONFIG, WEIGHTS, ClipScorer, load_clip, save_thresholds
from inference.files import replaced_folder, write_lines
from inference.loading import load_tokenizer
from inference.shapes.captions import caption, describes
from inference.tensors import read_tensors
from training.shapes.clip_quality import another_of_its_type, measure_clip, thresholds
from training.shapes.loop import LoopKnobs, Losses, generator, optimise
from training.shapes.pairs import EditPair, draw_pair, pair_pictures
from training.shapes.scenes import TEST_SEED, to_model
from training.shapes.tokenizer import MAX_LENGTH, make_tokenizer

TEMPERATURE_LIMIT: Final = 100.0
"""Largest factor on cosine similarities (CLIP, section 2.5)."""


@dataclass(frozen=True, kw_only=True)
class ClipKnobs:
    """How to train the CLIP.

    Attributes:
        steps: Optimiser steps.
        batch: Edit pairs a step, two pictures each.
        rate: Peak learning rate.
        pairs: Edit pairs to train on.
        noise: Deviation of the pixel noise added in training, in units of [-1, 1]; decoded
            pictures are never as clean as drawn ones.
        seed: Of weights, pairs and batches.
    """

    steps: int = 4000
    batch: int = 48
    rate: float = 1e-3
    pairs: int = 16_000
    noise: float = 0.06
    seed: int = 2


def model_config(tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """Content of `open_clip_config.json`: a ViT of 64×64 in patches of 8, both towers 128 wide."""
    return {
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {
                "image_size": 64,
                "patch_size": 8,
                "width": 128,
                "layers": 4,
                "head_width": 32,
            },
            "text_cfg": {
                "context_length": MAX_LENGTH,
                "vocab_size": len(tokenizer),
                "width": 128,
                "heads": 4,
                "layers": 3,
                "pool_type": "eos",
                "eos_id": tokenizer.eos_token_id,
                # open_clip then reads the tokenizer from the model's own folder.
                "hf_tokenizer_name": "shapes",
            },
        },
        "preprocess_cfg": {
            "size": [64, 64],
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


def train_clip(
    knobs: ClipKnobs, work: Path, device: str = "cpu", start: Path | None = None
) -> ClipScorer:
    """Train, calibrate the thresholds, and save an open_clip folder to `work/model`.

    Args:
        knobs: How to train.
        work: Folder for checkpoint, log and the finished `model`.
        device: Where to train.
        start: A finished folder whose weights to start from, where the checkpoint is gone.
    """
    torch.manual_seed(knobs.seed)
    tokenizer = load_tokenizer(CLIPTokenizer, start) if start else make_tokenizer()
    model = open_clip.CLIP(**model_config(tokenizer)["model_cfg"])
    if start:
        model.load_state_dict(read_tensors(start / WEIGHTS, "cpu")[1])
    model.to(device)
    pairs = [draw_pair(knobs.seed, index) for index in range(knobs.pairs)]
    name = f"pairs-{knobs.seed}-{knobs.pairs}.npy"
    pictures = pair_pictures(pairs, work.parent / "scenes" / name)
    tokens = tokenize_pairs(pairs, tokenizer, knobs.seed)
    ambiguous = torch.tensor([also_true(pair) for pair in pairs])
    has_other = tokens[:, 1].ne(tokens[:, 2]).any(dim=1)

    def loss(step: int) -> Losses:
        draw = generator(knobs.seed, step)
        rows = torch.randint(len(pairs), (knobs.batch,), generator=draw)
        images = to_model(np.concatenate([pictures[rows, side] for side in (0, 1)]))
        images += (
            knobs.noise
            * torch.rand(len(images), 1, 1, 1, generator=draw)
            * torch.randn(images.shape, generator=draw)
        )
        texts = torch.cat([tokens[rows, column] for column in range(3)])
        return contrastive_losses(
            model,
            images.to(device),
            texts.to(device),
            same=ambiguous[rows].to(device),
            has_other=has_other[rows].to(device),
        )

    loop = LoopKnobs(steps=knobs.steps, rate=knobs.rate, weight_decay=0.05, ema=0.995)
    averaged = optimise(model, loss, loop, work)
    save_clip(averaged, tokenizer, work / "model")
    return calibrated(work / "model")


def calibrated(folder: Path, count: int = 1024) -> ClipScorer:
    """Measure a finished CLIP, say how good it is, and save its thresholds in its folder."""
    quality = measure_clip(load_clip(folder), count, TEST_SEED)
    print(f"clip: top-1 among 64 captions, near-misses included: {quality.top1:.3f}")
    print(f"clip: right edits against others of their type: AUC {quality.auc:.3f}")
    found = thresholds(quality)
    for name, values in quality.scores.items():
        print(f"clip: {name}: {values.summary()} -> threshold {found[name]}")
    save_thresholds(folder, found)
    return load_clip(folder)


def tokenize_pairs(pairs: list[EditPair], tokenizer: CLIPTokenizer, seed: int) -> Tensor:
    """Token ids (N, 3, `MAX_LENGTH`) of captions: before, after, and after another such edit.

    Where there is no other edit of the type, the third repeats the second.
    """
    texts = [
        caption(said)
        for index, pair in enumerate(pairs)
        for said in (
            pair.description,
            pair.edited_description,
            another_of_its_type(pair, seed, index) or pair.edited_description,
        )
    ]
    ids = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    return torch.as_tensor(ids).view(len(pairs), 3, MAX_LENGTH)


def also_true(pair: EditPair) -> tuple[bool, bool]:
    """Whether the first caption fits the second picture too, and the second the first.

    A caption that names no place stays true when the figure moves: no negative then.
    """
    return (
        describes(pair.description, pair.edited),
        describes(pair.edited_description, pair.source),
    )


def contrastive_losses(
    model: nn.Module, images: Tensor, texts: Tensor, *, same: Tensor, has_other: Tensor
) -> Losses:
    """Both losses of a batch of B pairs.

    Args:
        model: An open_clip CLIP.
        images: (2B, 3, 64, 64) in [-1, 1]: all sources, then all edited ones.
        texts: (3B, L) token ids of their captions, and of captions after another edit of the type.
        same: (B, 2) bool, `also_true` of each pair.
        has_other: (B,) bool, whether there is such another edit.
    """
    image = F.normalize(model.encode_image(images), dim=-1)  # type: ignore[operator]
    before, after, instead = F.normalize(
        model.encode_text(texts),  # type: ignore[operator]
        dim=-1,
    ).chunk(3)
    scale = model.logit_scale.exp().clamp(max=TEMPERATURE_LIMIT)  # type: ignore[operator]
    count = len(same)
    logits = scale * image @ torch.cat([before, after]).T
    row = torch.arange(count, device=images.device)
    mask = torch.zeros_like(logits, dtype=torch.bool)
    mask[row + count, row], mask[row, row + count] = same[:, 0], same[:, 1]
    match = info_nce(logits.masked_fill(mask, -1e4))
    image_change = _direction(image[:count], image[count:])
    along = scale * image_change @ _direction(before, after).T
    # An edit's hardest negatives are its undoing, and another edit of its type.
    undone = -along.diagonal()[:, None]
    other = scale * (image_change * _direction(before, instead)).sum(-1, keepdim=True)
    other = other.masked_fill(~has_other[:, None], -1e4)
    against = torch.cat([along, undone, other], dim=1)
    change = (F.cross_entropy(against, row) + F.cross_entropy(along.T, row)) / 2
    hit = (logits.argmax(dim=1) == torch.arange(2 * count, device=images.device)).float().mean()
    return {"loss": match + 0.5 * change, "match": match, "change": change, "top1": hit}


def _direction(start: Tensor, end: Tensor) -> Tensor:
    return F.normalize(end - start, dim=-1, eps=1e-4)


def info_nce(logits: Tensor) -> Tensor:
    """Symmetric cross-entropy of a (N, N) similarity matrix with its diagonal as the truth."""
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def save_clip(model: nn.Module, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write what `open_clip.create_model("local-dir:…")` and `get_tokenizer` read."""
    weights = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
    with replaced_folder(folder) as partial:
        tokenizer.save_pretrained(partial)
        write_lines(partial / CONFIG, [json.dumps(model_config(tokenizer), indent=2)])
        save_file(weights, partial / WEIGHTS, metadata={"format": "pt"})

"""How good are the shipped models of the shapes world? Every figure with its 95 % interval.

    python scripts/bench/shapes.py base        # 13 minutes on one core
    python scripts/bench/shapes.py clip        # 1 minute
    python scripts/bench/shapes.py writer      # 10 minutes
    python scripts/bench/shapes.py pairs       # an hour and a half
    python scripts/bench/shapes.py editor      # 20 minutes
    python scripts/bench/shapes.py guidance    # an hour

Everything is drawn from seeds on which nothing was trained or tuned. `everything` runs
them one after the other. Tables are Markdown, for `RESULTS.md`.
"""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

import random
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from jsonargparse import auto_cli
from shapes_captions import SEED, asked, kinds_of, unseen_captions
from shapes_editor import editor, guidance
from shapes_pairs import pairs
from tables import header, row, share

from data_gen.instructions.prompts import Question, parse_answer
from inference.clip import load_clip
from inference.shapes import MODELS
from inference.shapes.captions import alternatives, parse
from inference.shapes.edits import EDIT_TYPES, propose
from inference.shapes.scene import Combinations
from inference.shapes.vocabulary import COLOURS, PATTERNS, PLACES, SHAPES, SIZES
from training.shapes.autoencoder import psnr
from training.shapes.clip_quality import Similarities, auc, measure_clip
from training.shapes.read_back import read_back, unseen_descriptions
from training.shapes.scenes import SceneSet, draw_scenes, picture
from training.shapes.writer import judge as judge_answer


def base(
    count: int = 500,
    model: Path = MODELS / "stable-diffusion",
    combinations: tuple[Combinations, ...] = ("held_out", "train"),
) -> None:
    """The text-to-image model: captions read back from its pictures, and its autoencoder.

    Args:
        count: Captions of each kind.
        model: A diffusers folder.
        combinations: Of shape and colour: never trained on, or others.
    """
    pipeline = StableDiffusionPipeline.from_pretrained(
        model, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    pipeline.set_progress_bar_config(disable=True)
    header("captions of", "combinations", "count", "shapes, colours, background", "all they say")
    agreement = {}
    for kind in combinations:
        for figures in (1, 2):
            said = unseen_descriptions(count, figures, kind, seed=SEED)
            found = read_back(pipeline, said)
            agreement[figures, kind] = found.agreement
            row(figures, kind, count, share(found.essentials), share(found.right))
    print()
    header("captions of", "combinations", *next(iter(agreement.values())))
    for (figures, kind), shares in agreement.items():
        row(figures, kind, *(f"{value:.1%}" for value in shares.values()))
    scenes = draw_scenes(SEED, count)
    drawn = SceneSet(scenes=scenes, pictures=np.stack([picture(scene) for scene in scenes]))
    print(f"\nautoencoder: {psnr(pipeline.vae, drawn):.1f} dB PSNR on {count} scenes")


def clip(count: int = 1024, model: Path = MODELS / "clip") -> None:
    """The CLIP: retrieval among near-misses, and right edits against wrong ones of their type.

    Args:
        count: True pairs.
        model: An open_clip folder.
    """
    found = measure_clip(load_clip(model), count, seed=SEED)
    header("figure", "count", "value")
    row("top-1 among 64 captions, near-misses included", len(found.hits), share(found.hits.numpy()))
    interval = auc_interval(found.same_type)
    row(
        "AUC, edits against others of their type",
        len(found.same_type.right),
        f"{found.auc:.3f} ({interval})",
    )


def writer(count: int = 500) -> None:
    """The language model, asked through its server by the `openai` client.

    Args:
        count: Captions, each with every edit type.
    """
    _, answers = asked(unseen_captions(count), edits_per_caption=len(EDIT_TYPES))
    ends: dict[str, Counter[str]] = defaultdict(Counter)
    ways: dict[str, set[str]] = defaultdict(set)
    for entry in answers:
        question = Question(caption=entry["caption"], edit_type=entry["edit_type"])
        (kind,) = kinds_of(question.edit_type)
        end = judge_answer(entry["answer"], question)
        if propose(parse(question.caption), kind, random.Random(SEED)) is None:
            end = f"impossible: {end}"
        ends[kind][end] += 1
        if end == "right":
            ways[kind].add(wording(parse_answer(entry["answer"], question).instruction))
    header("edit type", "answerable", "right", "phrasings", "what else")
    for name in (*EDIT_TYPES, "all"):
        counts = sum((ends[kind] for kind in kinds_of(name)), Counter[str]())
        possible = sum(n for end, n in counts.items() if not end.startswith("impossible: "))
        others = ", ".join(f"{n} {end}" for end, n in counts.most_common() if end != "right")
        right = share(np.arange(possible) < counts["right"])
        row(name, possible, right, len(ways[name]) or "", others)


def everything() -> None:
    """All of them."""
    for part in (base, clip, writer, pairs, editor, guidance):
        print(f"\n## {part.__name__}\n", flush=True)
        part()


def wording(instruction: str) -> str:
    """An instruction without the words that the scene decides: one string for each phrasing."""
    words = [*COLOURS, *SHAPES, *PATTERNS, *SIZES, *PLACES]
    text = re.sub(rf"\b(?:{alternatives(words)})\b", "_", instruction.lower().rstrip(".!"))
    return re.sub(r"\b(?:an?|the) _(?: _)*", "_", text)


def auc_interval(values: Similarities, resamples: int = 500) -> str:
    """Bootstrap 95 % interval of the AUC, over pictures."""
    draw = torch.Generator().manual_seed(0)
    count = len(values.right)
    rows = torch.randint(count, (resamples, count), generator=draw)
    found = [auc(Similarities(right=values.right[r], wrong=values.wrong[r])) for r in rows]
    low, high = np.quantile(found, (0.025, 0.975))
    return f"{low:.3f} to {high:.3f}"


if __name__ == "__main__":
    parts = (base, clip, writer, pairs, editor, guidance, everything)
    auto_cli({part.__name__: part for part in parts}, as_positional=False)

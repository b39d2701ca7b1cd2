"""How good are the shipped models of the shapes world? Every figure with its 95 % interval.

    python scripts/bench/shapes.py base        # 13 minutes on one core
    python scripts/bench/shapes.py clip        # 1 minute
    python scripts/bench/shapes.py writer      # 10 minutes
    python scripts/bench/shapes.py pairs       # an hour and a half
    python scripts/bench/shapes.py editor      # 20 minutes
    python scripts/bench/shapes.py guidance    # an hour

Everything is drawn from the seeds below, on which nothing was trained or tuned. `everything` runs
them one after the other. Tables are Markdown, for `RESULTS.md`.
"""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

import random
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
import yaml
from diffusers import StableDiffusionPipeline
from jsonargparse import auto_cli
from matplotlib import pyplot as plt
from tables import header, row, share
from tqdm import tqdm

from data_gen.asking.journal import Journal
from data_gen.instructions.prompts import Question, parse_answer
from data_gen.instructions.stage import InstructionKnobs, write_triplets
from data_gen.judging.filter import FilterKnobs, Thresholds, judge, select
from data_gen.records import Caption, EditTriplet, ImagePair
from data_gen.rendering.painting import Painter
from data_gen.rendering.trees import RenderKnobs, Share
from data_gen.shards import ShardIndex
from inference.backbone import Backbone, load_backbone
from inference.clip import load_clip
from inference.editors.instruct import Instruct
from inference.shapes import MODELS
from inference.shapes.captions import alternatives, caption, describe, parse
from inference.shapes.edits import EDIT_TYPES, EditType, propose
from inference.shapes.evaluation import (
    Outcome,
    Trial,
    carried_out,
    draw_trials,
    measure,
    summarise,
)
from inference.shapes.judging import judge_pair
from inference.shapes.render import Field
from inference.shapes.render import render as draw_scene
from inference.shapes.scene import Combinations, random_scene
from inference.shapes.vocabulary import COLOURS, PATTERNS, PLACES, SHAPES, SIZES
from training.shapes.autoencoder import psnr
from training.shapes.clip_quality import Similarities, auc, measure_clip
from training.shapes.layout import KEEPING_LAYOUT
from training.shapes.read_back import read_back, unseen_descriptions
from training.shapes.scenes import SceneSet, draw_scenes, picture
from training.shapes.writer import judge as judge_answer
from training.unet import widen

SEED: Final = 20_000_000
GUIDANCE_SEED: Final = 21_000_000
"""The guidance study chooses settings, so it may not see the edits that then measure them."""
TEXT_SCALES: Final = (1.0, 1.5, 2.0, 3.0, 5.0, 7.5)
IMAGE_SCALES: Final = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
RECIPE: Final = Path("data_gen/recipes/shapes.yaml")
SHARES: Final[tuple[Share, ...]] = ("self", "cross")


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
    pipeline = StableDiffusionPipeline.from_pretrained(model)
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


def pairs(
    count: int = 1000,
    model: Path = MODELS / "stable-diffusion",
    shares: tuple[Share, ...] = SHARES,
    only: tuple[EditType, ...] = EDIT_TYPES,
) -> None:
    """Pair generation: what survives the filter, and how much of it is right, by reading.

    Args:
        count: Captions for the shipped writer, unseen, which say as much as the recipe's.
        model: Diffusers folder of the text-to-image model.
        shares: What source and target share.
        only: Edit types to render, of all that were asked for.
    """
    answered, _ = asked(unseen_captions(count, detail=recipe_detail()))
    triplets = [triplet for triplet in answered if triplet.edit_type in only]
    backbone, scorer = load_backbone(model, dtype=torch.bfloat16), load_clip(MODELS / "clip")
    thresholds = Thresholds.of_checkpoint(scorer.thresholds)
    chosen_by = {
        "direction": FilterKnobs(keep=1),
        "closeness": FilterKnobs(keep=1, prefer="closeness"),
        "recipe": recipe_filter(),
    }
    for sharing in shares:
        knobs = replace(recipe_knobs(), share=sharing)
        found: list[Candidate] = []
        painter = Painter(
            backbone=backbone, scorer=scorer, render=knobs, filter=chosen_by["recipe"]
        )
        for _, verdicts in tqdm(
            painter(triplets), total=len(triplets), desc=sharing, mininterval=10
        ):
            pairs = [verdict.pair for verdict in verdicts]
            kept = {
                name: {v.pair.key for v in select(pairs, thresholds, how) if v.reason is None}
                for name, how in chosen_by.items()
            }
            for pair in pairs:
                wrong = judge_pair(pair.source, pair.triplet.instruction, pair.edited)
                by = frozenset(name for name, keys in kept.items() if pair.key in keys)
                passes = pair.scores is not None and judge(pair.scores, thresholds) is None
                found.append(Candidate(pair, not wrong, passes, by))
        print(f"\nshare: {sharing}, {len(triplets)} triplets\n")
        columns = ("candidates", "passed", *(f"kept by {name}" for name in chosen_by))
        header("edit type", "triplets", *columns, "survive")
        for name in (*EDIT_TYPES, "all"):
            mine = [c for c in found if c.pair.triplet.edit_type in kinds_of(name)]
            row(name, *survival(mine, tuple(chosen_by)))
        for low in np.arange(0, 1, 0.2):
            mine = [c for c in found if low <= c.pair.p < low + 0.2]
            if mine:
                row(f"p from {low:.1f}", *survival(mine, tuple(chosen_by)))


def editor(
    count: int = 500, model: Path = MODELS / "instruct-pix2pix", data: Path | None = None
) -> None:
    """The editor: held-out edits, carried out and read back.

    Args:
        count: Edits, of all types together; as many again in held-out phrasings.
        model: A diffusers folder.
        data: The data set that it was trained on, for the share of right pairs in it.
    """
    backbone = load_backbone(model)
    parent = load_backbone(MODELS / "stable-diffusion")
    untrained = replace(parent, unet=widen(parent.unet), settings=backbone.settings)
    per_kind = -(-count // len(EDIT_TYPES))
    trials = draw_trials(EDIT_TYPES, per_kind, seed=SEED)
    elsewhere = draw_trials(EDIT_TYPES, per_kind, seed=SEED, held_out_phrasings=True)
    outcomes = {
        "editor": edited(backbone, trials),
        "held-out phrasings": edited(backbone, elsewhere),
        "base": edited(untrained, trials),
        "copy": [measure(trial, draw_scene(trial.before)) for trial in trials],
    }
    true_pairs = {} if data is None else right_pairs(data)
    header("edit type", "count", *outcomes, "pairs it learned from")
    groups = (*EDIT_TYPES, "recolour, background", ", ".join(sorted(KEEPING_LAYOUT)), "all")
    for name in groups:
        kinds = kinds_of(name)
        chosen = [n for n, trial in enumerate(trials) if trial.edit_type in kinds]
        cells = [share([rows[n].right for n in chosen]) for rows in outcomes.values()]
        learned = [right for kind in kinds for right in true_pairs.get(kind, ())]
        row(name, len(chosen), *cells, share(learned) if learned else "")
    print()
    header("error, mean absolute, on [-1, 1]", *outcomes)
    summaries = [summarise(rows) for rows in outcomes.values()]
    row("to the expected picture", *(f"{summary.error:.3f}" for summary in summaries))
    row("outside the edited region", *(f"{summary.error_elsewhere:.3f}" for summary in summaries))


def guidance(
    output: Path = Path("out/guidance"),
    per_kind: int = 40,
    model: Path = MODELS / "instruct-pix2pix",
) -> None:
    """The guidance study: accuracy and preservation over both scales, and `guidance.png`.

    Of the types that leave the layout as it is; the editor hardly manages the others at any scale.

    Args:
        output: Folder for the picture.
        per_kind: Edits of each type.
        model: The editor.
    """
    backbone = load_backbone(model, dtype=torch.bfloat16)
    trials = draw_trials(sorted(KEEPING_LAYOUT), per_kind, seed=GUIDANCE_SEED)
    right = np.zeros((len(TEXT_SCALES), len(IMAGE_SCALES)))
    changed = np.zeros_like(right)
    header("text scale", "image scale", "right", "error outside the edited region")
    for i, text_scale in enumerate(TEXT_SCALES):
        for j, image_scale in enumerate(IMAGE_SCALES):
            scales = {"text_scale": text_scale, "image_scale": image_scale}
            rows = edited(backbone, trials, **scales)
            summary = summarise(rows)
            right[i, j], changed[i, j] = summary.accuracy, summary.error_elsewhere
            hits = share([one.right for one in rows])
            row(text_scale, image_scale, hits, f"{summary.error_elsewhere:.3f}")
    output.mkdir(parents=True, exist_ok=True)
    draw_study(right, changed, output / "guidance.png")


def everything() -> None:
    """All of them."""
    for part in (base, clip, writer, pairs, editor, guidance):
        print(f"\n## {part.__name__}\n", flush=True)
        part()


class Candidate(NamedTuple):
    """A rendered pair: whether it is right, reaches CLIP's thresholds, and by whom it is kept."""

    pair: ImagePair
    right: bool
    passes: bool
    kept_by: frozenset[str]


# --- what is measured ----------------------------------------------------------------------------


def kinds_of(name: str) -> Sequence[EditType]:
    """The edit types that a row of a table is about: one, some with commas between, or all."""
    return [kind for kind in EDIT_TYPES if name == "all" or kind in name.split(", ")]


def recipe_detail() -> float:
    """How much the captions of the recipe `shapes.yaml` say."""
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    return float(recipe["captions"]["scenes"]["detail"])


def recipe_knobs() -> RenderKnobs:
    """How the recipe `shapes.yaml` renders."""
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["pairs"]["render"]
    ranges = {name: tuple(recipe.pop(name)) for name in ("p_range", "guidance_range")}
    of_kinds = {kind: tuple(found) for kind, found in recipe.pop("p_ranges").items()}
    return RenderKnobs(**recipe, **ranges, p_ranges=of_kinds)


def recipe_filter() -> FilterKnobs:
    """How the recipe `shapes.yaml` chooses."""
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    return FilterKnobs(**recipe["pairs"]["filter"])


def unseen_captions(count: int, detail: float = 0.5) -> list[Caption]:
    """Distinct captions of scenes that nothing else draws; `detail` as in `describe`."""
    texts: dict[str, None] = {}
    index = 0
    while len(texts) < count:
        draw = random.Random(f"bench caption/{SEED}/{index}")
        texts[caption(describe(random_scene(draw), draw, detail=detail))] = None
        index += 1
    return [Caption.of(text) for text in texts]


def asked(
    captions: Sequence[Caption], edits_per_caption: int = 1
) -> tuple[list[EditTriplet], list[dict[str, Any]]]:
    """What the shipped writer's server makes of captions: the triplets, and all its answers."""
    knobs = InstructionKnobs(model=str(MODELS / "writer"), edits_per_caption=edits_per_caption)
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "answers.jsonl"
        triplets = write_triplets(
            captions, knobs, journal=journal, triplets=Path(folder) / "triplets.jsonl"
        )
        with Journal(journal) as answers:
            return triplets, list(answers.entries())


def wording(instruction: str) -> str:
    """An instruction without the words that the scene decides: one string for each phrasing."""
    words = [*COLOURS, *SHAPES, *PATTERNS, *SIZES, *PLACES]
    text = re.sub(rf"\b(?:{alternatives(words)})\b", "_", instruction.lower().rstrip(".!"))
    return re.sub(r"\b(?:an?|the) _(?: _)*", "_", text)


def edited(backbone: Backbone, trials: Sequence[Trial], **scales: float) -> list[Outcome]:
    """Edit the pictures of trials and measure what came out."""
    editor = Instruct(backbone=backbone, batch_size=64, progress=True, **scales)
    outputs = carried_out(editor, trials)
    return [measure(trial, output) for trial, output in zip(trials, outputs, strict=True)]


def right_pairs(data: Path) -> dict[str, list[bool]]:
    """Edit type -> whether each pair of a data set is right, by reading it."""
    found: dict[str, list[bool]] = defaultdict(list)
    index = ShardIndex(data)
    for position in tqdm(range(len(index)), desc="reading pairs"):
        pair = index.read(position)
        wrong = judge_pair(pair.source, pair.triplet.instruction, pair.edited)
        found[pair.triplet.edit_type].append(not wrong)
    return found


# --- tables and pictures -------------------------------------------------------------------------


def auc_interval(values: Similarities, resamples: int = 500) -> str:
    """Bootstrap 95 % interval of the AUC, over pictures."""
    draw = torch.Generator().manual_seed(0)
    count = len(values.right)
    rows = torch.randint(count, (resamples, count), generator=draw)
    found = [auc(Similarities(right=values.right[r], wrong=values.wrong[r])) for r in rows]
    low, high = np.quantile(found, (0.025, 0.975))
    return f"{low:.3f} to {high:.3f}"


def survival(candidates: Sequence[Candidate], chosen_by: Sequence[str]) -> Iterator[object]:
    """Triplets; how many of the candidates, of those that pass and of those kept are right.

    Last, the share of the triplets of which the last way of choosing keeps a pair.
    """
    triplets = {one.pair.triplet.id for one in candidates}
    yield len(triplets)
    kept = [[one for one in candidates if name in one.kept_by] for name in chosen_by]
    for some in (candidates, [one for one in candidates if one.passes], *kept):
        yield f"{share([one.right for one in some])} of {len(some)}"
    yield f"{len(kept[-1]) / max(1, len(triplets)):.0%}"


def draw_study(right: Field, changed: Field, path: Path) -> None:
    """Two heat maps side by side: accuracy, and what changed elsewhere."""
    mpl.use("agg")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for place, values, title, colours, form in (
        (axes[0], 100 * right, "exactly right, %", "viridis", ".0f"),
        (axes[1], changed, "error outside the edited region", "viridis_r", ".3f"),
    ):
        place.imshow(values, cmap=colours, aspect="auto")
        place.set_xticks(range(len(IMAGE_SCALES)), IMAGE_SCALES)
        place.set_yticks(range(len(TEXT_SCALES)), TEXT_SCALES)
        place.set(xlabel="image scale", ylabel="text scale", title=title)
        middle = (values.min() + values.max()) / 2
        for (i, j), value in np.ndenumerate(values):
            dark = (value < middle) == (colours == "viridis")
            place.text(
                j, i, f"{value:{form}}", ha="center", va="center", color="w" if dark else "k"
            )
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    parts = (base, clip, writer, pairs, editor, guidance, everything)
    auto_cli({part.__name__: part for part in parts}, as_positional=False)

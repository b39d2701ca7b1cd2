"""What the pair stage will need, before it runs: UNet rows and images.

Rendering is the cost by three orders of magnitude, and it can be told beforehand: what is random
about a tree, p and guidance, is a function of the triplet. Where the triplets are not written yet,
stand-ins are drawn as the recipe has it. What is done is not counted again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from transformers import CLIPTextConfig, CLIPTokenizer

from data_gen.captions.stage import read_captions
from data_gen.instructions.stage import plan_questions
from data_gen.instructions.triplets import read_triplets
from data_gen.judging.surprise import LOOKED_AT
from data_gen.recipe import PairKnobs, Recipe
from data_gen.records import Caption, EditTriplet
from data_gen.rendering.prefix_tree import forks_of, unet_rows
from data_gen.rendering.trees import draw_tree
from data_gen.runs.executors import Partition
from data_gen.runs.receipts import Receipt, Unit, done_receipt
from data_gen.stages import plan_units
from inference.loading import load_tokenizer, loading, require_vocabulary
from inference.model_names import located
from inference.outside import read_object
from inference.progress import ProgressBar

MOST_TREES = 300_000
"""Of larger sets as many are looked at, evenly, and the rest taken to be like them."""
STAND_INS = 1_000
"""Captions that stand for those that are not there yet, however many."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the pair stage has to do; expected values where they are not known.

    Attributes:
        triplets: Triplets to render.
        drawing: UNet rows to draw their candidates.
        judging: UNet rows to judge those that are to be kept.
        images: Distinct images to decode and to score.
    """

    triplets: float = 0
    drawing: float = 0
    judging: float = 0
    images: float = 0

    @property
    def rows(self) -> float:
        """All UNet rows."""
        return self.drawing + self.judging

    def __add__(self, other: Self) -> "Work":
        return Work(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def __mul__(self, times: float) -> "Work":
        return Work(**{name: value * times for name, value in vars(self).items()})


def work_of(triplet: EditTriplet, knobs: PairKnobs) -> Work:
    """Count what one triplet takes, if nothing is given up: the trees of the p of its seeds.

    The generator judges what is to be kept, if all that it sees first is good.
    """
    steps = knobs.render.steps
    drawing = images = 0
    guided = knobs.render.guidance_range != (1.0, 1.0)
    for seed_index in range(knobs.render.seeds_for(triplet)):
        tree = draw_tree(triplet, seed_index, knobs.render)
        drawing += unet_rows(tree.ps, steps, tree.together) // (1 if guided else 2)
        images += 1 + len(set(forks_of(tree.ps, steps, tree.together)))
    seeds = knobs.render.seeds_for(triplet)
    most = seeds if knobs.filter.best_p_per_seed else images - seeds
    kept = min(knobs.filter.keep, most)
    judged = kept + (seeds if knobs.early.source else min(kept, seeds))  # edited and sources
    judging = len(LOOKED_AT) * judged if "surprise" in knobs.filter.bounded else 0
    return Work(triplets=1, drawing=drawing, judging=judging, images=images)


def work_of_all(triplets: Sequence[EditTriplet], knobs: PairKnobs) -> Work:
    """Count what many triplets take; of very many, an even sample stands for all."""
    trees = sum(map(knobs.render.seeds_for, triplets))
    looked_at = triplets[:: -(-trees // MOST_TREES) or 1]
    shown = ProgressBar(looked_at, desc="estimate", unit="triplet", leave=False, delay=2)
    total = sum((work_of(triplet, knobs) for triplet in shown), Work())
    return total * (len(triplets) / max(1, len(looked_at)))


def stand_ins(captions: Sequence[Caption], recipe: Recipe) -> list[EditTriplet]:
    """Triplets as they may be written for captions: of the types that will be asked for."""
    return [
        EditTriplet.of(
            caption=asked.caption,
            instruction="",
            edited_caption=asked.edit_type,
            edit_type=asked.edit_type,
            inverse_instruction="",
        )
        for asked in plan_questions(captions, recipe.instructions).values()
    ]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a recipe's pair stage will need.

    Attributes:
        basis: What it was told from, in words.
        left: What is still to be made.
        done: What has been made.
        receipts: Those of what has been made.
    """

    basis: str
    left: Work
    done: Work
    receipts: tuple[Receipt, ...]


def forecast(recipe: Recipe) -> Forecast:
    """Tell what this partition's pair stage will need, from the best that is there.

    Raises:
        ValueError: What an earlier stage left is damaged, or a knob is wrong.
        FileNotFoundError: The text-to-image model is not there.
    """
    root, knobs, share = recipe.output, recipe.pairs, Partition.parse(recipe.partition)
    if (root / "triplets.jsonl").is_file():
        units = share.of(plan_units(read_triplets(root / "triplets.jsonl"), knobs))
        return _of_units(units, recipe)
    captions, count, basis = planned_captions(recipe)
    work = work_of_all(stand_ins(captions, recipe), knobs) * (count / len(captions) / share.count)
    return Forecast(basis=f"at most: {basis}", left=work, done=Work(), receipts=())


def _of_units(units: Sequence[Unit], recipe: Recipe) -> Forecast:
    receipts = {unit.name: done_receipt(recipe.output, unit) for unit in units}
    fits = fitting(recipe.pairs.model)

    def work(*, done: bool) -> Work:
        some = [t for u in units if bool(receipts[u.name]) == done for t in u.triplets if fits(t)]
        return work_of_all(some, recipe.pairs)

    found = tuple(receipt for receipt in receipts.values() if receipt is not None)
    basis = f"from triplets.jsonl, {len(found)} of {len(units)} units done"
    return Forecast(basis=basis, left=work(done=False), done=work(done=True), receipts=found)


def planned_captions(recipe: Recipe) -> tuple[list[Caption], int, str]:
    """Captions, or what stands for them; how many there will be, and what that is told from.

    Raises:
        ValueError: There are no captions yet, and the recipe does not say how many there will be.
    """
    path = recipe.output / "captions.jsonl"
    if path.is_file():
        captions = read_captions(path)
        return captions, len(captions), "every question of captions.jsonl may be answered"
    count = recipe.captions.count
    if count is None:
        raise ValueError(
            "captions.count is null, so nobody knows how many captions there are: collect them "
            "first with `captions`, or give a count"
        )
    drawn = [Caption.of(f"caption {number}") for number in range(STAND_INS)]
    return drawn, count, f"there may be {count:,} captions and every question may be answered"


def fitting(name: str) -> Callable[[EditTriplet], bool]:
    """Whether a triplet's captions fit a model's text encoder, without its weights.

    Raises:
        FileNotFoundError: There is no such model.
    """
    model = located(name, weights=False)
    if not (model / "tokenizer").is_dir():
        raise FileNotFoundError(f"there is no model folder {model}, or it has no tokenizer")
    tokenizer = load_tokenizer(CLIPTokenizer, model / "tokenizer")
    with loading(str(model / "text_encoder")):
        config = CLIPTextConfig(**read_object(model / "text_encoder/config.json"))
    require_vocabulary(len(tokenizer), config.vocab_size, str(model / "tokenizer"))
    limit = min(tokenizer.model_max_length, config.max_position_embeddings)

    def fits(triplet: EditTriplet) -> bool:
        texts = (triplet.caption, triplet.edited_caption)
        return all(len(tokenizer(text, verbose=False).input_ids) <= limit for text in texts)

    return fits

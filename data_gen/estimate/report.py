"""What a run will cost, before it runs, in words: requests, UNet rows, hours and disk.

``forecast`` counts; here its counts become hours, on this machine or on devices that somebody has
measured, and a report that is printed.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from data_gen.estimate.forecast import (
    Forecast,
    Work,
    fitting,
    forecast,
    planned_captions,
    stand_ins,
)
from data_gen.instructions.cost import estimate_asking
from data_gen.instructions.stage import count_answers
from data_gen.instructions.triplets import read_triplets
from data_gen.judging.filter import score
from data_gen.judging.vision_judge import dearest
from data_gen.recipe import PairKnobs, Recipe
from data_gen.records import EditTriplet
from data_gen.rendering.pairs import NotFinite, denoise_trees, render_trees
from data_gen.rendering.trees import draw_tree
from data_gen.stages import load_models
from inference.backbone import Backbone, native_size
from inference.loading import model_config
from inference.model_names import located

MEASURED_STEPS = 3
"""Steps of the rendering that is timed."""
BYTES_A_PIXEL = 1.1
"""Of a picture full of detail as JPEG, quality 95, 4:4:4; flat ones need a third."""
BYTES_A_PAIR = 4096
"""What else a pair takes: three tar headers, padding, its description, rows in two tables."""


@torch.inference_mode()
def measured_rate(triplets: Sequence[EditTriplet], knobs: PairKnobs, work: Work) -> float:
    """Time the recipe's own models here, on a few steps of one batch.

    What comes once an image (decoding, scoring) is timed apart from the rows; a row to judge costs
    what a row to draw costs.

    Args:
        triplets: What to render; as many as fill a UNet call.
        knobs: The pair stage.
        work: How many rows and images the rate is for.

    Returns:
        UNet rows a second over the whole pair stage with one worker.
    """
    backbone, scorer = load_models(knobs)
    few = replace(knobs.render, steps=min(MEASURED_STEPS, knobs.render.steps))
    trees = [
        draw_tree(triplet, seed, few)
        for triplet in triplets
        for seed in range(few.seeds_for(triplet))
    ]
    rows: list[int] = []
    denoise_trees(backbone, trees[:1], replace(few, steps=2))  # warm-up
    begun = _now(backbone)
    denoise_trees(backbone, trees, few, progress=rows.append)
    drawing = _now(backbone) - begun
    begun = _now(backbone)
    pairs = [pair for grown in render_trees(backbone, trees, few) for pair in grown.pairs]
    if not pairs:
        raise NotFinite(backbone)
    score(pairs, scorer)
    images = len({id(image) for pair in pairs for image in (pair.source, pair.edited)})
    seconds_a_row = drawing / sum(rows)
    seconds_an_image = max(0.0, _now(backbone) - begun - drawing) / images
    return work.rows / (work.rows * seconds_a_row + work.images * seconds_an_image)


def _now(backbone: Backbone) -> float:
    """The time in seconds, once all that was asked of the device is done."""
    if backbone.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def receipts_rate(found: Forecast) -> float | None:
    """UNet rows a second of one worker, by the receipts of what is done; None where none says."""
    seconds = sum(receipt.seconds.get("total", 0.0) for receipt in found.receipts)
    return found.done.rows / seconds if seconds else None


def report(recipe: Recipe, rates: Mapping[str, float], *, measure: bool) -> Iterator[str]:
    """Tell all that a run of the recipe will need, line by line.

    Args:
        recipe: The recipe.
        rates: Device -> UNet rows a second, as `measure` says on it, of this recipe's models.
        measure: Also time this machine.

    Raises:
        ValueError: A rate is not above 0, or as `forecast`.
        FileNotFoundError: A model is not there.
    """
    if wrong := {name: rate for name, rate in rates.items() if not rate > 0}:
        raise ValueError(f"rates are UNet rows a second, above 0, got {wrong}")
    recipe = replace(recipe, instructions=recipe.instructions.located())
    yield from request_lines(recipe)
    found = forecast(recipe)
    left = found.left
    yield f"pairs:     {left.triplets:,.0f} triplets to render ({found.basis})"
    yield f"UNet rows: {left.rows:,.0f}: {left.drawing:,.0f} to draw, {left.judging:,.0f} to judge"
    yield from judge_lines(recipe, left)
    yield from hour_lines(recipe, found, rates, measure=measure)
    yield f"disk:      at most about {disk_bytes(recipe, left) / 2**20:,.1f} MiB"


def request_lines(recipe: Recipe) -> Iterator[str]:
    """What is still to be asked of the language model."""
    if (recipe.output / "triplets.jsonl").is_file():
        yield "requests:  none to the language model, triplets.jsonl is there"
        return
    captions, count, _ = planned_captions(recipe)
    knobs, journal = recipe.instructions, recipe.output / "instructions.jsonl"
    answers: Counter[str] = Counter()
    if journal.is_file():
        answers = count_answers(captions, knobs, journal)
    each = knobs.edits_per_caption
    requests = count * each - sum(min(each, found) for found in answers.values())
    answered = answers.total()
    yield f"requests:  {requests:,} to the language model, {answered:,} are answered"
    cost = estimate_asking(captions, knobs)
    share = requests / max(1, cost.questions)
    prompts, texts = share * cost.prompt_tokens, share * cost.answer_tokens
    yield f"tokens:    about {prompts:,.0f} in, {texts:,.0f} out"
    if cost.dollars_at_most:
        about, most = (share * float(dollars) for dollars in (cost.dollars, cost.dollars_at_most))
        yield f"cost:      about ${about:,.2f}, at most ${most:,.2f}, by instructions.prices"
    elif knobs.base_url is not None:
        yield "cost:      unknown; instructions.prices say what a million tokens cost"


def judge_lines(recipe: Recipe, left: Work) -> Iterator[str]:
    """What a vision-language model will be shown, if it objects to nothing."""
    knobs, judge = recipe.pairs, recipe.pairs.scorers.judge
    if judge is None:
        return
    shown = left.triplets * knobs.filter.keep
    yield f"judge:     about {shown:,.0f} pairs to show to {judge.model}; more where it objects"
    if judge.prices:
        yield f"cost:      ${float(dearest(judge)):,.4f} a pair at most, by scorers.judge.prices"


def hour_lines(
    recipe: Recipe, found: Forecast, rates: Mapping[str, float], *, measure: bool
) -> Iterator[str]:
    """Hours of one worker on each device that a rate is known of."""
    known = dict(rates)
    if (so_far := receipts_rate(found)) is not None:
        known["what made the units so far"] = so_far
    if measure and found.left.rows:
        knobs = recipe.pairs
        count = max(1, knobs.render.batch_rows // 4 // knobs.render.seeds)  # fills one call
        known["this machine"] = measured_rate(_examples(recipe, count), knobs, found.left)
    for device, rate in known.items():
        hours = found.left.rows / rate / 3600
        yield f"hours:     {hours:,.2f} of one worker on {device}, at {rate:,.0f} rows a second"
    if not known:
        yield "hours:     unknown; --measure times this machine, --rates '{\"H200\": 900}' tells"


def _examples(recipe: Recipe, count: int) -> list[EditTriplet]:
    """So many triplets that can be rendered, or what stands for them."""
    path = recipe.output / "triplets.jsonl"
    if not path.is_file():
        return stand_ins(planned_captions(recipe)[0][:count], recipe)
    return list(islice(filter(fitting(recipe.pairs.model), read_triplets(path)), count))


def disk_bytes(recipe: Recipe, left: Work) -> float:
    """Bytes of the pairs still to be made: as many as may be kept, and photographs."""
    knobs = recipe.pairs
    side = knobs.render.size or _native_size(knobs.model)
    pairs = left.triplets * knobs.filter.keep
    return pairs * (2 * side**2 * BYTES_A_PIXEL + BYTES_A_PAIR)


def _native_size(name: str) -> int:
    model = located(name, weights=False)
    unet = model_config(UNet2DConditionModel, model / "unet")
    return native_size(unet, model_config(AutoencoderKL, model / "vae"))

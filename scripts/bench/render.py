"""What makes rendering cheap, idea by idea, against InstructPix2Pix's way of rendering.

    python scripts/bench/render.py --setting reference     # its own settings, scaled to this world
    python scripts/bench/render.py --setting recommended

The first row is the reference recipe (`generate_img_dataset.py`): one pair a call, attention maps
written out and copied, every candidate with a source of its own. Each of the next four adds one
idea to the row above it; the others give seeds until enough pairs are kept, and differ in how many
values of p a seed gets and when it gets no more. All go over the same triplets in turn, on one
thread, and are timed by its CPU time, so that whatever else the machine does hits all alike.

What users pay for is pairs of different sources that pass the filter (the best p of each), a second
and a thousand UNet rows. More values of p a seed give better pairs, not only more, so those are
counted too that are as directional as the better half of the reference's: there the ways are
compared at equal scores. About an hour on one core.
"""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jsonargparse import auto_cli
from tables import header, row
from torch import Tensor
from written_maps import Rewrite, written_maps

from data_gen.judging.config import FilterKnobs, Thresholds
from data_gen.judging.filter import failing, scored, thresholds_of
from data_gen.records import EditTriplet, ImagePair, Scores
from data_gen.rendering.config import EarlyKnobs, RenderKnobs
from data_gen.rendering.painting import Painter
from data_gen.rendering.trees import Tree, draw_tree
from data_gen.shapes import draw_triplets
from inference.backbone import Backbone, load_backbone
from inference.clip import ClipScorer, load_clip
from inference.guidance import cfg
from inference.images import to_numpy
from inference.noise import keyed_noise
from inference.progress import ProgressBar
from inference.samplers import SAMPLERS
from inference.shapes import MODELS

SEED = 4_300_000

REFERENCE = RenderKnobs(
    share="self",
    steps=50,
    branches=1,
    p_range=(0.1, 0.9),
    guidance_range=(7.5, 15.0),
    sampler="euler_ancestral",
)
RECOMMENDED = replace(
    REFERENCE,
    share="cross",
    steps=20,
    p_range=(0.3, 0.95),
    guidance_range=(3.0, 6.0),
    sampler="ddim",
)
SETTINGS = {"reference": REFERENCE, "recommended": RECOMMENDED}
KEEP = 4
FIRST = "one pair a call, maps written out"


@dataclass(kw_only=True)
class Way:
    """One way of rendering, and what it has cost and given so far.

    Attributes:
        name: What it adds to the way above it.
        knobs: How it renders.
        early: What it does not finish; None for the reference's loop.
        maps: Whether it is the reference's own loop, with maps written out.
    """

    name: str
    knobs: RenderKnobs
    early: EarlyKnobs = field(default_factory=EarlyKnobs)
    maps: bool = False
    rows: int = 0
    seconds: float = 0.0
    candidates: int = 0
    seeds: int = 0
    best: list[Scores] = field(default_factory=list)
    kept: int = 0


def ways(knobs: RenderKnobs, branches: int) -> list[Way]:
    """The ideas, one by one, then what users pay for, by the values of p a seed.

    The tree has as many candidates as the rows above it, from fewer seeds.
    """
    one = replace(knobs, batch_rows=4)
    tree = replace(knobs, branches=branches, seeds=max(1, knobs.seeds // branches))
    source = EarlyKnobs(source=True)
    enough = replace(source, enough=True)
    in_turn = replace(enough, p_in_turn=True)

    def many(number: int) -> RenderKnobs:
        return replace(knobs, branches=number)

    return [
        Way(name=FIRST, knobs=one, maps=True),
        Way(name="fused attention, no maps", knobs=one),
        Way(name="batches of 64 rows", knobs=knobs),
        Way(name=f"tree of {branches} p", knobs=tree),
        Way(name=f"tree of {branches} p, bad sources given up", knobs=tree, early=source),
        Way(name=f"1 p a seed, until {KEEP} are kept", knobs=knobs, early=enough),
        Way(name="2 p a seed, the same", knobs=many(2), early=enough),
        Way(name="2 p a seed in turn", knobs=many(2), early=in_turn),
        Way(name="4 p a seed in turn", knobs=many(4), early=in_turn),
        Way(name=f"{branches} p a seed in turn", knobs=many(branches), early=in_turn),
        *(
            Way(
                name=f"4 p a seed in turn, hopeless drafts given up at {draft_at}",
                knobs=many(4),
                early=replace(in_turn, draft_at=draft_at),
            )
            for draft_at in (0.5, 0.75)
        ),
    ]


def main(
    setting: Literal["reference", "recommended"] = "recommended",
    count: int = 8,
    chunk: int = 4,
    seeds: int = 16,
    branches: int = 8,
    precision: Literal["float32", "bfloat16"] = "float32",
    model: Path = MODELS / "stable-diffusion",
    clip: Path = MODELS / "clip",
    only: str = "",
) -> None:
    """Measure.

    Args:
        setting: Sampler, steps, guidance and sharing.
        count: Triplets.
        chunk: Triplets a turn: their trees fill calls together.
        seeds: Noises a triplet, at most.
        branches: Values of p a tree.
        precision: Of the weights; bfloat16 is the faster one where the CPU computes in it (AMX).
        model: Diffusers folder of a text-to-image model.
        clip: The CLIP that judges.
        only: Ways to measure, with semicolons between; empty measures all. The first one's scores
            are what the others are compared with.
    """
    torch.set_num_threads(1)
    backbone = load_backbone(model, dtype=getattr(torch, precision))
    scorer = load_clip(clip)
    knobs = FilterKnobs(keep=KEEP)
    thresholds = thresholds_of(knobs, scorer)
    known = {way.name: way for way in ways(replace(SETTINGS[setting], seeds=seeds), branches)}
    compared = [known[name] for name in only.split(";")] if only else list(known.values())
    triplets = draw_triplets(count, seed=SEED)
    starts = range(0, count, chunk)
    for turn, start in enumerate(ProgressBar(starts, desc=setting)):
        for offset in range(len(compared)):  # every way is sometimes the first
            way = compared[(turn + offset) % len(compared)]
            measure(way, backbone, scorer, triplets[start : start + chunk], knobs, thresholds)
    report(compared)


def report(compared: Sequence[Way]) -> None:
    """Print the table; the first way is what the others are compared with."""
    bar = np.median([scores.directional for scores in compared[0].best])
    print(f"better half: directional similarity of at least {bar:.3f}\n")
    header(
        *("", "candidates", "UNet rows a candidate", "candidates a second", "sources that pass"),
        *("a 1,000 rows", "a second", "of the better half, a 1,000 rows", "a second"),
        *(f"kept, {KEEP} a triplet", "a 1,000 rows", "a second", "directional", "image to image"),
    )
    for way in compared:
        passing = len(way.best)
        better = sum(scores.directional >= bar for scores in way.best)
        row(
            way.name,
            way.candidates,
            f"{way.rows / way.candidates:.1f}",
            f"{way.candidates / way.seconds:.2f}",
            f"{passing} of {way.seeds}",
            f"{1000 * passing / way.rows:.2f}",
            f"{passing / way.seconds:.3f}",
            f"{1000 * better / way.rows:.2f}",
            f"{better / way.seconds:.3f}",
            way.kept,
            f"{1000 * way.kept / way.rows:.2f}",
            f"{way.kept / way.seconds:.3f}",
            quartiles([scores.directional for scores in way.best]),
            quartiles([scores.image_image for scores in way.best]),
        )


def quartiles(values: Sequence[float]) -> str:
    """Of a distribution, as text."""
    return ", ".join(f"{one:.2f}" for one in np.quantile(values, (0.25, 0.5, 0.75)))


def measure(
    way: Way,
    backbone: Backbone,
    scorer: ClipScorer,
    triplets: Sequence[EditTriplet],
    knobs: FilterKnobs,
    thresholds: Thresholds,
) -> None:
    """Render some triplets one way, judge, and add up."""
    rows: list[int] = []
    start = time.process_time()
    if way.maps:
        pairs = [
            pair
            for triplet in triplets
            for seed in range(way.knobs.seeds)
            for pair in written_out(backbone, draw_tree(triplet, seed, way.knobs), way.knobs, rows)
        ]
        pairs, given_up = scored(pairs, scorer, knobs, backbone), []
    else:
        painter = Painter(
            backbone=backbone,
            scorer=scorer,
            render=way.knobs,
            filter=knobs,
            early=way.early,
            progress=rows.append,
        )
        painted = list(painter(triplets))
        pairs = [verdict.pair for _, verdicts in painted for verdict in verdicts]
        given_up = [one for rendered, _ in painted for one in rendered.given_up]
    way.seconds += time.process_time() - start
    way.rows += sum(rows)
    way.candidates += len(pairs) + len(given_up)
    way.seeds += len({(one.triplet.id, one.seed_index) for one in (*pairs, *given_up)})
    best: dict[tuple[str, int], Scores] = {}
    for pair in pairs:
        scores, key = pair.scores, (pair.triplet.id, pair.seed_index)
        if scores and failing(scores, thresholds, knobs) is None:
            best[key] = max(best.get(key, scores), scores, key=lambda one: one.directional)
    way.best += best.values()
    for triplet in triplets:
        way.kept += min(KEEP, sum(name == triplet.id for name, _ in best))


# --- the reference's loop -----------------------------------------------------------------------


def copying(*, cross: bool) -> Rewrite:
    """Give the target the source's maps, in cross-attention or else in self-attention.

    Rows are [unconditional source, unconditional target, conditional source, conditional target].
    """
    rows = [0, 1, 2, 2] if cross else [0, 0, 2, 2]
    return lambda maps, is_cross: maps[rows] if is_cross == cross else maps


@torch.inference_mode()
def written_out(
    backbone: Backbone, tree: Tree, knobs: RenderKnobs, rows: list[int]
) -> list[ImagePair]:
    """One candidate, as the reference renders it: source and target in one call of four rows."""
    [p] = tree.ps
    sampler = SAMPLERS[knobs.sampler](backbone.scheduler, knobs.steps)
    text = backbone.encode_text(["", "", tree.triplet.caption, tree.triplet.edited_caption])
    side = backbone.native_size // backbone.latent_factor
    shape = (backbone.unet.config.in_channels, side, side)

    def noise(*what: str | int) -> Tensor:
        drawn = keyed_noise(tree.triplet.id, tree.seed_index, *what, shape=shape)
        return drawn.to(backbone.device)[None]

    x = sampler.init_scale * noise("start").expand(2, -1, -1, -1)
    with written_maps(backbone.unet, copying(cross=knobs.share == "cross")) as maps:
        for i in range(knobs.steps):
            maps.active = i / (knobs.steps - 1) < p
            scaled = sampler.scale_input(i, x).to(backbone.dtype).repeat(2, 1, 1, 1)
            output = backbone.unet_output(scaled, sampler.timesteps[i], text).float()
            guided = cfg(*output.chunk(2), tree.guidance)
            x = sampler.step(i, x, guided, noise("step", i) if sampler.fresh[i] else None)
            rows.append(4)
    source, edited = map(to_numpy, backbone.decode(x))
    return [
        ImagePair(
            triplet=tree.triplet,
            key=ImagePair.key_of(tree.triplet.id, tree.seed_index, 0),
            source=source,
            edited=edited,
            seed_index=tree.seed_index,
            branch=0,
            p=p,
            guidance=tree.guidance,
        )
    ]


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

"""What makes rendering cheap, idea by idea, against InstructPix2Pix's way of rendering.

    python scripts/bench/render.py --setting reference     # its own settings, scaled to this world
    python scripts/bench/render.py --setting recommended

Every row of the table adds one idea to the row above it. The first is the reference recipe
(`generate_img_dataset.py`): one pair a call, attention maps written out and copied, every candidate
with a source of its own. All go over the same triplets in turn, so that whatever else the machine
does hits all of them. What users pay for is pairs of different sources that pass the filter (the
best p of each), a second and a thousand UNet rows; the mean directional similarity says whether
they are of the same kind. About an hour on one core.
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
from torch import Tensor
from tqdm import tqdm
from written_maps import Rewrite, written_maps

from data_gen.judging.filter import FilterKnobs, Thresholds, failing, scored, thresholds_of
from data_gen.records import EditTriplet, ImagePair
from data_gen.rendering.painting import EarlyKnobs, Painter
from data_gen.rendering.trees import RenderKnobs, Tree, draw_tree
from data_gen.shapes import draw_triplets
from inference.backbone import Backbone, load_backbone
from inference.clip import ClipScorer, load_clip
from inference.guidance import cfg
from inference.images import to_numpy
from inference.noise import keyed_noise
from inference.samplers import SAMPLERS
from inference.shapes import MODELS

SEED = 4_300_000

REFERENCE = RenderKnobs(
    share="self",
    steps=50,
    seeds=16,
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
    begun: int = 0
    seeds: int = 0
    directional: list[float] = field(default_factory=list)
    kept: int = 0


def ways(knobs: RenderKnobs, branches: int) -> list[Way]:
    """The ideas, one by one. The tree has an eighth of the seeds, and eight values of p a seed."""
    one = replace(knobs, batch_rows=4)
    tree = replace(knobs, branches=branches, seeds=max(1, knobs.seeds // branches))
    source = EarlyKnobs(source=True)
    draft = replace(source, draft_at=0.5)
    more = replace(tree, seeds=knobs.seeds)
    return [
        Way(name="one pair a call, maps written out", knobs=one, maps=True),
        Way(name="fused attention, no maps", knobs=one),
        Way(name="batches of 64 rows", knobs=knobs),
        Way(name=f"tree of {branches} p", knobs=tree),
        Way(name="bad sources given up", knobs=tree, early=source),
        Way(name="hopeless drafts given up", knobs=tree, early=draft),
        Way(name=f"seeds until {KEEP} are kept", knobs=more, early=replace(draft, enough=True)),
    ]


def main(
    setting: Literal["reference", "recommended"] = "recommended",
    count: int = 8,
    branches: int = 8,
    precision: Literal["float32", "bfloat16"] = "float32",
    model: Path = MODELS / "stable-diffusion",
    clip: Path = MODELS / "clip",
) -> None:
    """Measure.

    Args:
        setting: Sampler, steps, guidance and sharing.
        count: Triplets.
        branches: Values of p a tree.
        precision: Of the weights; bfloat16 is the faster one where the CPU computes in it (AMX).
        model: Diffusers folder of a text-to-image model.
        clip: The CLIP that judges.
    """
    backbone = load_backbone(model, dtype=getattr(torch, precision))
    scorer = load_clip(clip)
    knobs = FilterKnobs(keep=KEEP)
    thresholds = thresholds_of(knobs, scorer)
    compared = ways(SETTINGS[setting], branches)
    chunk = 4  # triplets whose trees fill calls together
    triplets = draw_triplets(count, seed=SEED)
    starts = range(0, count, chunk)
    for turn, start in enumerate(tqdm(starts, desc=setting)):
        for offset in range(len(compared)):  # every way is sometimes the first
            way = compared[(turn + offset) % len(compared)]
            measure(way, backbone, scorer, triplets[start : start + chunk], knobs, thresholds)
    print(
        "| | candidates | UNet rows a candidate | candidates a second | passing pairs of different "
        "sources | a 1,000 rows | a second | their directional similarity | kept, best 4 |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for way in compared:
        passing = len(way.directional)
        print(
            f"| {way.name} | {way.begun} | {way.rows / way.begun:.1f} "
            f"| {way.begun / way.seconds:.2f} | {passing} of {way.seeds} "
            f"| {1000 * passing / way.rows:.2f} | {passing / way.seconds:.3f} "
            f"| {np.mean(way.directional) if passing else float('nan'):.3f} | {way.kept} |"
        )


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
    start = time.perf_counter()
    if way.maps:
        pairs = [
            pair
            for triplet in triplets
            for seed in range(way.knobs.seeds)
            for pair in written_out(backbone, draw_tree(triplet, seed, way.knobs), way.knobs, rows)
        ]
        pairs, given_up = scored(pairs, scorer, knobs, backbone), 0
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
        given_up = sum(len(rendered.given_up) for rendered, _ in painted)
    way.seconds += time.perf_counter() - start
    way.rows += sum(rows)
    way.begun += len(pairs) + given_up
    best: dict[tuple[str, int], float] = {}
    for pair in pairs:
        if pair.scores and failing(pair.scores, thresholds, knobs) is None:
            key = (pair.triplet.id, pair.seed_index)
            best[key] = max(best.get(key, -1.0), pair.scores.directional)
    way.seeds += len(triplets) * way.knobs.seeds
    way.directional += best.values()
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

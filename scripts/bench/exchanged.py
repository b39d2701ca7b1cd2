"""What becomes of exchanged words: three rules of alignment on five kinds of edits.

    python scripts/bench/exchanged.py       # about half an hour on one core

Scenes of two figures, of which the caption says size, colour, shape and place. The edited caption
exchanges the colours, the sizes, the places or the whole phrases, or gives both figures one colour.
Source and target are drawn from the same noise; where the source reads back as its caption says, it
is counted whether the target does as its own. A Markdown table for `RESULTS.md`.
"""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Final
from unittest.mock import patch

import numpy as np
import torch
from alignment_rules import by_number, each_its_own
from jsonargparse import auto_cli
from numpy.typing import NDArray
from tables import header, row

from data_gen.records import EditTriplet
from data_gen.rendering.config import RenderKnobs, Share
from data_gen.rendering.pairs import render_trees
from data_gen.rendering.trees import Tree
from inference.alignment import Alignment, align, read_prompt
from inference.backbone import Backbone, load_backbone
from inference.editors.editor import EditRequest
from inference.editors.prompt_to_prompt import PromptToPrompt
from inference.images import to_numpy
from inference.shapes import MODELS
from inference.shapes.captions import Description, FigureDescription, caption, describes
from inference.shapes.reading import read
from inference.shapes.scene import Scene
from inference.shapes.vocabulary import HELD_OUT_COMBINATIONS, TRAIN_COLOURS, TRAIN_SHAPES

SEED: Final = 31_000_000
STEPS: Final = 25
GUIDANCE: Final = 4.0
P: Final = 0.6
"""Share of the steps in which data generation shares attention."""
PLACES: Final = (
    ("on the left", "on the right"),
    ("at the top", "at the bottom"),
    ("in the top left", "in the bottom right"),
    ("in the top right", "in the bottom left"),
)

Image = NDArray[np.uint8]
Captions = tuple[Description, Description]
Draw = Callable[[Backbone, Sequence[Captions]], list[tuple[Image, Image]]]
Rule = Callable[..., Alignment]
RULES: Final[Mapping[str, Rule]] = {
    "by number": by_number,
    "each its own": each_its_own,
    "ours": align,
}


def exchanged(name: str) -> Callable[[Description], Description]:
    """Exchange an attribute of two figures."""

    def change(said: Description) -> Description:
        one, other = said.figures
        mine, its = getattr(one, name), getattr(other, name)
        return replace(said, figures=(replace(one, **{name: its}), replace(other, **{name: mine})))

    return change


def reordered(said: Description) -> Description:
    """Say the second figure first."""
    return replace(said, figures=said.figures[::-1])


def doubled(said: Description) -> Description:
    """Give the second figure the colour of the first."""
    one, other = said.figures
    return replace(said, figures=(one, replace(other, colour=one.colour)))


KINDS: Final[Mapping[str, Callable[[Description], Description]]] = {
    "colours exchanged": exchanged("colour"),
    "sizes exchanged": exchanged("size"),
    "places exchanged": exchanged("place"),
    "phrases exchanged": reordered,
    "one colour for both": doubled,
}


def by_prompt_to_prompt(
    backbone: Backbone, captions: Sequence[Captions]
) -> list[tuple[Image, Image]]:
    """Sources and targets as Prompt-to-Prompt draws them."""
    editor = PromptToPrompt(
        backbone=backbone,
        steps=STEPS,
        guidance_scale=GUIDANCE,
        cross=(0.0, 0.8),
        self_attention=(0.0, 0.4),
        batch_size=16,
    )
    requests = [
        EditRequest(source=caption(before), target=caption(after), seed=number)
        for number, (before, after) in enumerate(captions)
    ]
    return [(to_numpy(one), to_numpy(other)) for one, other in editor.edit_pairs(requests)]


def by_rendering(share: Share) -> Draw:
    """Sources and targets as data generation draws them."""

    def draw(backbone: Backbone, captions: Sequence[Captions]) -> list[tuple[Image, Image]]:
        trees = [
            Tree(
                triplet=EditTriplet.of(
                    caption=caption(before),
                    instruction="exchange them",
                    edited_caption=caption(after),
                    edit_type="exchange",
                    inverse_instruction="exchange them",
                ),
                seed_index=0,
                guidance=GUIDANCE,
                ps=(P,),
            )
            for before, after in captions
        ]
        found = render_trees(backbone, trees, RenderKnobs(share=share, steps=STEPS))
        return [(grown.pairs[0].source, grown.pairs[0].edited) for grown in found]

    return draw


WAYS: Final[Mapping[str, Draw]] = {
    "Prompt-to-Prompt": by_prompt_to_prompt,
    "share: cross": by_rendering("cross"),
    "share: both": by_rendering("both"),
}


def main(count: int = 16) -> None:
    """Draw, and read what came out.

    Args:
        count: Scenes of each kind, the same for all.
    """
    backbone = load_backbone(MODELS / "stable-diffusion")
    rng = random.Random(SEED)
    scenes = [draw_description(rng) for _ in range(count)]
    header("drawn by", "edit", *RULES)
    for way, draw in WAYS.items():
        for kind, change in KINDS.items():
            captions = [(said, change(said)) for said in scenes]
            found: dict[bytes, str] = {}  # rules that align all alike draw the same pictures
            for rule in RULES.values():
                key = alignments(backbone, captions, rule)
                found[key] = found.get(key) or right(draw, backbone, captions, rule)
            keys = (alignments(backbone, captions, rule) for rule in RULES.values())
            row(way, kind, *(found[key] for key in keys))


def alignments(backbone: Backbone, captions: Sequence[Captions], rule: Rule) -> bytes:
    """What a rule makes of all captions, to be compared."""
    prompts = [
        [read_prompt(backbone.tokenizer, caption(one), backbone.text_length) for one in both]
        for both in captions
    ]
    matrices = [rule(*both, substitute=True).matrix for both in prompts]
    return torch.stack(matrices).numpy().tobytes()


def right(draw: Draw, backbone: Backbone, captions: Sequence[Captions], rule: Rule) -> str:
    """Of how many pairs whose source is right the target is right too."""
    with (
        patch("inference.editors.prompt_to_prompt.align", rule),
        patch("data_gen.rendering.pairs.align", rule),
    ):
        pairs = draw(backbone, captions)
    found = [
        shows(edited, after)
        for (source, edited), (before, after) in zip(pairs, captions, strict=True)
        if shows(source, before)
    ]
    return f"{sum(found)} of {len(found)}"


def shows(image: Image, said: Description) -> bool:
    """Whether a picture reads back as a description says."""
    scene = scene_of(image.tobytes(), image.shape)
    return scene is not None and describes(said, scene)


@cache
def scene_of(pixels: bytes, shape: tuple[int, ...]) -> Scene | None:
    """What a picture shows; most sources are drawn many times."""
    return read(np.frombuffer(pixels, np.uint8).reshape(shape)).scene


def draw_description(rng: random.Random) -> Description:
    """Two figures that differ in all that is said of them, so that any of it can be exchanged."""
    while True:
        shapes, sizes = rng.sample(TRAIN_SHAPES, 2), rng.sample(("small", "large"), 2)
        background, *colours = rng.sample(TRAIN_COLOURS, 3)
        places = rng.sample(rng.choice(PLACES), 2)
        unseen = HELD_OUT_COMBINATIONS & {(shape, colour) for shape in shapes for colour in colours}
        if not unseen:
            break
    return Description(
        figures=tuple(
            FigureDescription(shape=shape, colour=colour, size=size, place=place)
            for shape, colour, size, place in zip(shapes, colours, sizes, places, strict=True)
        ),
        background=background,
    )


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

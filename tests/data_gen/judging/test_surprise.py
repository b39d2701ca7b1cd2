"""The generator tells its good pictures from malformed ones."""

import random

import numpy as np
import pytest

from data_gen.judging.surprise import surprise
from inference.backbone import load_backbone
from inference.shapes import MODELS
from inference.shapes.captions import caption, describe
from inference.shapes.render import render
from inference.shapes.scene import random_scene
from tests.conftest import BuildBackbone

SIDE = 32


def test_every_picture_is_judged_alike_in_any_batch(build_backbone: BuildBackbone) -> None:
    backbone = build_backbone()
    images = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    captions = ["red", "blue", "a cat"]
    together = surprise(backbone, images, captions)
    assert together == pytest.approx(surprise(backbone, images, captions, at_once=1), rel=1e-4)
    assert min(together) > 0
    assert surprise(backbone, images[:1], ["blue"])[0] != pytest.approx(together[0], rel=1e-4)
    assert surprise(backbone, images[:0], []) == []


def test_the_shapes_base_is_surprised_by_ghosts_and_by_what_a_caption_does_not_say() -> None:
    backbone = load_backbone(MODELS / "stable-diffusion")
    draw = random.Random(1)
    scenes = [random_scene(draw, figures=1) for _ in range(8)]
    clean = [np.round(render(scene) * 255).astype(np.uint8) for scene in scenes]
    others = clean[1:] + clean[:1]
    ghosts = [(0.6 * a + 0.4 * b).astype(np.uint8) for a, b in zip(clean, others, strict=True)]
    captions = [caption(describe(scene, draw, detail=1.0)) for scene in scenes]
    of_clean = np.array(surprise(backbone, clean, captions))
    assert (np.array(surprise(backbone, ghosts, captions)) > of_clean).all()
    assert np.mean(np.array(surprise(backbone, others, captions)) > of_clean) > 0.8

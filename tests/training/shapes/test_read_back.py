import random

import pytest
from diffusers import StableDiffusionPipeline

from inference.shapes import MODELS
from inference.shapes.captions import describe
from inference.shapes.reading import read
from inference.shapes.render import render
from inference.shapes.scene import random_scene
from training.shapes.read_back import compare, read_back, unseen_descriptions


@pytest.mark.parametrize("figures", [1, 2])
def test_drawn_scenes_read_back_as_their_own_descriptions_and_not_as_others(figures):
    rng = random.Random(0)
    scenes = [random_scene(rng, figures=figures) for _ in range(6)]
    said = [describe(scene, rng, detail=1.0) for scene in scenes]
    readings = [read(render(scene)) for scene in scenes]
    own = compare(said, readings)
    assert own.right.all()
    assert own.essentials.all()
    assert own.sure.all()
    assert set(own.agreement.values()) == {1.0}
    others = compare(said[1:] + said[:1], readings)
    assert not others.right.any()
    assert others.agreement["shape"] < 1.0


def test_the_shipped_base_draws_what_captions_of_one_figure_say():
    # 200 captions are in scripts/bench/RESULTS.md; these are the first of them.
    pipeline = StableDiffusionPipeline.from_pretrained(MODELS / "stable-diffusion")
    pipeline.set_progress_bar_config(disable=True)
    assert read_back(pipeline, unseen_descriptions(48)).right.mean() >= 0.8

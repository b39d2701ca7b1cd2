import random

from diffusers import StableDiffusionPipeline

from inference.shapes import MODELS
from inference.shapes.captions import describe
from inference.shapes.reading import read
from inference.shapes.render import render
from inference.shapes.scene import random_scene
from training.shapes.read_back import compare, read_back


def test_drawn_scenes_read_back_as_their_own_descriptions_and_not_as_others():
    rng = random.Random(0)
    scenes = [random_scene(rng, figures=1) for _ in range(6)]
    said = [describe(scene, rng, detail=1.0) for scene in scenes]
    readings = [read(render(scene)) for scene in scenes]
    own = compare(said, readings)
    assert (own.right, own.sure) == (1.0, 1.0)
    assert set(own.agreement.values()) == {1.0}
    others = compare(said[1:] + said[:1], readings)
    assert others.right == 0.0
    assert others.agreement["shape"] < 1.0


def test_the_shipped_base_draws_what_captions_of_one_figure_say():
    # 200 captions are in scripts/bench/RESULTS.md; these are the first of them.
    pipeline = StableDiffusionPipeline.from_pretrained(MODELS / "stable-diffusion")
    pipeline.set_progress_bar_config(disable=True)
    assert read_back(pipeline, 48).right >= 0.8

"""What is measured on held-out pairs tells right edits from none, and counts as it says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from inference.clip import load_clip
from inference.images import from_numpy
from inference.shapes import MODELS
from inference.shapes.evaluation import draw_trials
from inference.shapes.render import render
from training.module import EditorTraining
from training.running import measures
from training.running.flops import peak_of, training_flops
from training.running.measures import (
    HeldOut,
    carried_out_share,
    distance,
    losses_by_timestep,
    similarities,
)


@pytest.fixture(scope="module")
def held() -> HeldOut:
    trials = draw_trials(("recolour", "background"), 2)
    before, after = (
        [(255 * render(scene)).round().astype(np.uint8) for scene in scenes]
        for scenes in ([t.before for t in trials], [t.expected for t in trials])
    )
    return HeldOut(
        instructions=[trial.instruction for trial in trials],
        captions=["a red circle on a white background"] * len(trials),
        edited_captions=["a green circle on a white background"] * len(trials),
        sources=before,
        edited=after,
    )


def test_perfect_edits_count_and_none_do_not(held: HeldOut) -> None:
    perfect, none = ([from_numpy(i) for i in side] for side in (held.edited, held.sources))
    assert carried_out_share(held, perfect) == 1
    assert carried_out_share(held, none) == 0
    assert carried_out_share(held, [*perfect[:2], *none[2:]]) == 0.5
    assert distance(perfect, held.edited) == 0
    assert distance(none, held.edited) > 0.01


def test_an_untouched_picture_is_alike_and_goes_nowhere(held: HeldOut) -> None:
    scorer = load_clip(MODELS / "clip")
    untouched = similarities(scorer, held, [from_numpy(image) for image in held.sources])
    assert untouched["image_similarity"] == pytest.approx(1, abs=1e-5)
    assert untouched["directional_similarity"] == 0
    edited = similarities(scorer, held, [from_numpy(image) for image in held.edited])
    assert edited["image_similarity"] < 0.999


def test_a_direction_is_measured_where_captions_are_known(held: HeldOut) -> None:
    scorer, outputs = load_clip(MODELS / "clip"), [from_numpy(image) for image in held.edited]
    count = len(held.captions)
    one = replace(held, captions=[held.captions[0], *[""] * (count - 1)])
    assert one.captioned == [True, *[False] * (count - 1)]
    alone = HeldOut(**{name: value[:1] for name, value in vars(held).items()})
    found, expected = (
        similarities(scorer, some, outputs[: len(some.captions)]) for some in (one, alone)
    )
    assert found["directional_similarity"] == pytest.approx(expected["directional_similarity"])
    none = similarities(scorer, replace(held, edited_captions=[""] * count), outputs)
    assert none.keys() == {"image_similarity"}


def test_the_loss_is_that_of_all_pairs_however_many_at_a_time(
    held: HeldOut, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = EditorTraining(tiny_folder)
    held = replace(held, instructions=[f"edit {n}" for n in range(len(held.sources))])
    whole = losses_by_timestep(module, held)
    monkeypatch.setattr(measures, "TOGETHER", 3)
    assert losses_by_timestep(module, held) == pytest.approx(whole, rel=1e-5)
    assert losses_by_timestep(module, held.first(3)) != pytest.approx(whole, rel=1e-3)
    assert list(whole) == [0, 250, 500, 750]


def test_stable_diffusion_costs_what_is_known_of_it() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(in_channels=8, cross_attention_dim=768)
    flops = training_flops(unet, height=32, width=32, text_length=77)
    assert flops == pytest.approx(537.4e9, rel=0.01)


def test_a_cpu_has_no_known_peak() -> None:
    assert peak_of(torch.device("cpu")) is None

"""Pairs of one figure in two shapes: where the captions change places, the pictures look alike."""

import numpy as np
import pytest
import torch

from inference.shapes.captions import describes, parse
from training.shapes.architecture import new_scheduler
from training.shapes.layout import layout_pairs
from training.shapes.loop import generator
from training.shapes.reshapes import PARTED, draw_reshapes, reshaped


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return layout_pairs(7, 40, tmp_path_factory.mktemp("cache"))


def test_only_shapes_differ(pairs):
    chosen = reshaped(pairs)
    assert 0 < len(chosen) < len(pairs.pairs)
    for number in chosen:
        pair = pairs.pairs[number]
        shapes = [{f.shape for f in scene.figures} for scene in (pair.source, pair.edited)]
        assert shapes[0] != shapes[1]


def test_the_source_is_a_ghost_in_the_noise_of_its_edit(pairs):
    alphas = new_scheduler().alphas_cumprod
    latents = np.random.default_rng(0).standard_normal((80, 4, 16, 16)).astype(np.float16)
    asked = torch.arange(20, 980, 60)
    found = draw_reshapes(pairs, reshaped(pairs), latents, alphas, asked, generator(1))
    moved = found.timesteps < asked
    assert bool((found.timesteps <= asked).all())
    assert 0 < moved.sum() < len(asked)
    assert bool((found.timesteps[moved] >= PARTED[0]).all())
    assert set((found.targets % 2).tolist()) == {0, 1}  # both pictures serve as source
    assert (found.targets // 2 == found.sources // 2).all()
    assert (found.targets != found.sources).all()
    for row, said in zip(found.targets.tolist(), found.captions, strict=True):
        pair = pairs.pairs[row // 2]
        assert describes(parse(said), pair.edited if row % 2 else pair.source)
    # Moved samples stand where the captions change: there the edit is noised to the noised source.
    before, after = (
        torch.from_numpy(latents[rows].astype(np.float32))
        for rows in (found.sources, found.targets)
    )
    a = alphas[found.timesteps][:, None, None, None]
    looks = (a.sqrt() * after + (1 - a).sqrt() * found.noise)[moved]
    plain = (looks - (a.sqrt() * before)[moved]) / (1 - a).sqrt()[moved]
    assert abs(plain.mean().item()) < 0.05
    assert abs(plain.std().item() - 1) < 0.05
    ghost = found.noise[moved] - plain
    wanted = ((a / (1 - a)).sqrt() * (before - after))[moved]
    torch.testing.assert_close(ghost, wanted, rtol=1e-3, atol=1e-4)

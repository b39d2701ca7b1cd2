"""Reading: drawn scenes come back, also from spoilt pictures; near-misses and noise do not."""

import io
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from inference.backbone import load_backbone
from inference.shapes import MODELS
from inference.shapes.confidence import residual
from inference.shapes.layers import Placed, compose
from inference.shapes.near_misses import NEAR_MISSES, any_scene, one_cell_off
from inference.shapes.reading import PHASES, read, to_canvas
from inference.shapes.render import Field, colour, render
from inference.shapes.scene import Figure, Scene, random_scene
from inference.shapes.vocabulary import COLOURS, SHAPES

HEART = Figure(shape="heart", colour="red", pattern="striped", size="small", column=4, row=4)
SCENE = Scene(figures=(HEART,), background="blue")
AUTOENCODER = MODELS / "stable-diffusion"


def drawn(count: int, seed: int = 0) -> Iterator[tuple[Scene, Field]]:
    rng = random.Random(seed)
    for _ in range(count):
        scene = any_scene(rng)
        yield scene, render(scene)


def share_read(samples: Iterable[tuple[Scene, Field]]) -> float:
    """Share of pictures that are read, surely, as their scene."""
    right = [is_read_as(scene, picture) for scene, picture in samples]
    return sum(right) / len(right)


def is_read_as(scene: Scene, picture: Field) -> bool:
    found = read(picture).scene
    return found is not None and found.canonical() == scene.canonical()


def jpeg(picture: Field, subsampling: int) -> Field:
    buffer = io.BytesIO()
    image = Image.fromarray(np.round(picture * 255).astype(np.uint8))
    image.save(buffer, "JPEG", quality=95, subsampling=subsampling)
    return np.asarray(Image.open(buffer)).astype(np.float32) / 255


def test_what_is_drawn_is_read() -> None:
    assert share_read(drawn(200)) == 1


def test_a_drawn_scene_leaves_no_residual() -> None:
    reading = read(render(SCENE))
    assert reading.scene == reading.guess == SCENE
    assert reading.residual == pytest.approx(0, abs=1e-6)
    assert reading.error == pytest.approx(0, abs=1e-9)


def test_whole_numbers_read_like_shares() -> None:
    picture = np.round(render(SCENE) * 255).astype(np.uint8)
    assert read(picture).scene == SCENE


@pytest.mark.parametrize("size", [48, 96, 128, 256])
def test_pictures_of_any_size_are_read(size: int) -> None:
    rng = random.Random(size)
    scenes = [any_scene(rng) for _ in range(12)]
    least = 0.8 if size < 64 else 1
    assert share_read((scene, render(scene, size)) for scene in scenes) >= least


@pytest.mark.parametrize(("subsampling", "least"), [(0, 1), (2, 0.97)])
def test_jpeg_is_read(subsampling: int, least: float) -> None:
    assert share_read((s, jpeg(p, subsampling)) for s, p in drawn(100, 1)) >= least


def test_noisy_pictures_are_read() -> None:
    rng = np.random.default_rng(0)
    spoilt = ((s, np.clip(rng.normal(p, 0.05), 0, 1)) for s, p in drawn(80, 2))
    assert share_read(spoilt) >= 0.98


@pytest.mark.parametrize("move", [(1, 1), (-1, 0)])
def test_a_pixel_off_the_grid_is_read(move: tuple[int, int]) -> None:
    assert share_read((s, np.roll(p, move, axis=(0, 1))) for s, p in drawn(60, 3)) >= 0.98


def test_a_pattern_is_known_wherever_it_lies_on_its_figure() -> None:
    for pattern, phases in PHASES.items():
        figure = replace(HEART, pattern=pattern, size="large", column=8, row=8)
        for phase in phases:
            picture = compose("blue", "flat", [Placed(figure=figure, phase=phase)])
            assert read(picture).scene == Scene(figures=(figure,), background="blue")


def test_a_texture_that_is_no_pattern_is_unsure() -> None:
    scene = Scene(
        figures=(replace(HEART, pattern="solid", size="large", column=8, row=8),), background="blue"
    )
    picture = render(scene)
    inside = np.isclose(picture, colour("red"), atol=1e-3).all(axis=-1)
    checks = (np.indices((64, 64)) // 3).sum(axis=0) % 2 == 1
    picture[inside & checks] = colour("white")
    picture[inside & ~checks] = colour("red") - (colour("white") - colour("red"))
    assert read(picture.clip(0, 1)).scene is None


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_misses_are_not_taken_for_the_scene(name: str) -> None:
    rng = random.Random(4)
    mistaken = [is_read_as(*NEAR_MISSES[name](rng)) for _ in range(100)]
    assert sum(mistaken) <= 1


def test_a_figure_one_cell_off_is_seen_where_it_stands() -> None:
    rng = random.Random(5)
    for _ in range(60):
        scene, picture = one_cell_off(rng)
        found = read(picture).scene
        assert found is not None
        assert found.canonical() != scene.canonical()
        np.testing.assert_array_equal(render(found), picture)


def test_noise_is_unsure() -> None:
    rng = np.random.default_rng(6)
    for spread in (0.05, 0.3):
        for name in COLOURS:
            noise = np.clip(rng.normal(colour(name), spread, (64, 64, 3)), 0, 1)
            assert read(noise).scene is None
    assert all(read(rng.random((64, 64, 3))).scene is None for _ in range(10))


def test_flat_colours_and_gradients_are_unsure() -> None:
    share = np.linspace(0, 1, 64, dtype=np.float32)[:, None, None]
    for first in COLOURS:
        assert read(np.broadcast_to(colour(first), (64, 64, 3))).scene is None
        ramp = (1 - share) * colour(first) + share * colour("blue")
        assert read(np.broadcast_to(ramp, (64, 64, 3))).scene is None


def test_the_residual_of_a_colour_over_a_figure_is_its_distance() -> None:
    error = np.array([0.1, 0.2, -0.2], dtype=np.float32)
    for shape in SHAPES:
        figure = Figure(shape=shape, colour="red", pattern="solid", size="large", column=8, row=8)
        drawn_picture = render(Scene(figures=(figure,), background="white"))
        mask = (np.abs(drawn_picture - 1).max(axis=-1, keepdims=True) > 0.1).astype(np.float32)
        assert residual(drawn_picture + mask * error, drawn_picture) == pytest.approx(0.3, rel=0.15)


def test_pictures_are_checked() -> None:
    with pytest.raises(ValueError, match=r"shape \(height, width, 3\), found \(64, 64\)"):
        to_canvas(np.zeros((64, 64)))
    with pytest.raises(ValueError, match=r"found \(3, 64, 64\)"):
        read(np.zeros((3, 64, 64)))
    with pytest.raises(ValueError, match="uint8 or float, found int64"):
        read(np.zeros((64, 64, 3), dtype=np.int64))
    with pytest.raises(ValueError, match=r"lie in \[0, 1\], found \[-1, 1\]"):
        read(2 * render(SCENE).round() - 1)
    with pytest.raises(ValueError, match="nan"):
        read(np.full((64, 64, 3), np.nan))


@pytest.mark.slow
def test_five_thousand_drawn_scenes_are_read() -> None:
    assert share_read(drawn(5000, 10)) >= 0.995


@pytest.mark.slow
def test_of_two_thousand_near_misses_hardly_any_is_taken_for_the_scene() -> None:
    rng = random.Random(11)
    draws = list(NEAR_MISSES.values())
    mistaken = [is_read_as(*draws[number % len(draws)](rng)) for number in range(2000)]
    assert sum(mistaken) <= 20


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_the_autoencoder_and_jpeg_leave_is_read() -> None:
    backbone = load_backbone(AUTOENCODER)
    rng = random.Random(12)
    scenes = [random_scene(rng) for _ in range(5000)]
    right = 0.0
    for start in range(0, len(scenes), 50):
        chunk = scenes[start : start + 50]
        pictures = torch.from_numpy(np.stack([render(scene) for scene in chunk]))
        latents = backbone.encode_image(pictures.permute(0, 3, 1, 2) * 2 - 1)
        decoded = (backbone.decode(latents).permute(0, 2, 3, 1).numpy() + 1) / 2
        right += share_read((s, jpeg(p, 0)) for s, p in zip(chunk, decoded, strict=True))
    assert 50 * right / len(scenes) >= 0.98

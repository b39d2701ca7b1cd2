"""Both images of a pair are cut alike, without squashing, and only chance that was asked for."""

import numpy as np
import pytest
from PIL import Image

from training.data.config import Framing, buckets
from training.data.framing import frame, nearest, plan_cut, survives_a_mirror


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("place", range(8))
def test_source_and_edited_image_get_the_same_cut(place: int) -> None:
    image = picture(40, 56)
    knobs = Framing(resolution=24, enlarge_to=32, flip=True)
    source, edited = frame((image, image), knobs, np.random.default_rng(place))
    assert source.shape == (24, 24, 3)
    assert np.array_equal(source, edited)


def test_chance_moves_and_mirrors() -> None:
    image = picture(40, 40)
    knobs = Framing(resolution=24, enlarge_to=32, flip=True)
    cuts = {frame((image, image), knobs, np.random.default_rng(n))[0].tobytes() for n in range(9)}
    assert len(cuts) == 9
    mirrored = {
        bool(np.array_equal(frame((image,) * 2, Framing(flip=True), rng)[0], image[:, ::-1]))
        for rng in map(np.random.default_rng, range(20))
    }
    assert mirrored == {True, False}


def test_without_chance_the_centre_is_cut_and_nothing_by_default() -> None:
    image = picture(24, 40)
    for number in range(3):
        rng = np.random.default_rng(number)
        centre, _ = frame((image, image), Framing(resolution=24), rng)
        assert np.array_equal(centre, image[:, 8:32])
        left_alone, _ = frame((image, image), Framing(), rng)
        assert np.array_equal(left_alone, image)


def test_a_range_that_runs_backwards_is_refused() -> None:
    with pytest.raises(ValueError, match=r"enlarge_to is 200, expected at least .* 256"):
        Framing(resolution=256, enlarge_to=200)


@pytest.mark.parametrize("place", range(6))
def test_a_cut_is_that_of_the_whole_resized_image(place: int) -> None:
    image = picture(90, 130)
    knobs = Framing(resolution=48, enlarge_to=64)
    cut = plan_cut((90, 130), knobs, np.random.default_rng(place))
    assert 48 <= min(cut.resized) <= 64
    whole = Image.fromarray(image).resize(cut.resized[::-1], Image.Resampling.LANCZOS)
    box = (cut.left, cut.top, cut.left + 48, cut.top + 48)
    expected = np.asarray(whole.crop(box)).astype(int)
    assert np.abs(cut.of(image) - expected).max() <= 1
    assert cut.sizes == (90, 130, cut.top, cut.left, 48, 48)


def test_the_sizes_of_a_mirrored_cut_are_those_of_the_mirrored_image() -> None:
    image = picture(40, 64)
    knobs = Framing(resolution=32, enlarge_to=40, flip=True)
    drawn = (plan_cut((40, 64), knobs, np.random.default_rng(n)) for n in range(20))
    cut = next(one for one in drawn if one.mirrored and one.left)
    whole = np.asarray(Image.fromarray(image).resize(cut.resized[::-1], Image.Resampling.LANCZOS))
    left, top = cut.sizes.left, cut.sizes.top
    expected = whole[:, ::-1][top : top + 32, left : left + 32].astype(int)
    assert np.abs(cut.of(image) - expected).max() <= 1


def test_an_image_stored_in_another_size_shows_the_same_piece() -> None:
    smooth = np.add.outer(np.arange(64), np.arange(96))[..., None].repeat(3, 2).astype(np.uint8)
    large = np.asarray(Image.fromarray(smooth).resize((192, 128), Image.Resampling.LANCZOS))
    cut = plan_cut((64, 96), Framing(resolution=32, enlarge_to=40), np.random.default_rng(1))
    assert np.abs(cut.of(smooth).astype(int) - cut.of(large)).max() <= 3


def test_a_pair_that_a_mirror_would_make_wrong_is_not_mirrored() -> None:
    knobs = Framing(flip=True)
    rngs = (np.random.default_rng(n) for n in range(20))
    assert not any(plan_cut((8, 8), knobs, rng, may_mirror=False).mirrored for rng in rngs)
    for said in (
        "move the circle to the left",
        "Make the right-hand one red",
        "turn it counter-clockwise",
        "add the word 'open' to the sign",
        "put the leftmost figure on top",
    ):
        assert not survives_a_mirror(said)
    for said in ("make it bright", "leave the rest", "keep the copyrighted one", "add a designer"):
        assert survives_a_mirror(said)


def test_buckets_have_the_area_of_the_square_and_sides_that_are_multiples() -> None:
    shapes = buckets(512, 64)
    assert (512, 512) in shapes
    assert {(width, height) for height, width in shapes} == set(shapes)
    for height, width in shapes:
        assert height % 64 == width % 64 == 0
        assert 0.7 * 512**2 < height * width <= 512**2
        assert max(height, width) <= 2 * min(height, width)
    assert buckets(256, 64) == ((320, 192), (256, 256), (192, 320))


@pytest.mark.parametrize(("height", "width"), [(300, 900), (900, 300), (480, 640), (512, 500)])
def test_a_picture_is_cut_to_the_nearest_bucket_and_hardly_more_than_it_must(
    height: int, width: int
) -> None:
    knobs = Framing(resolution=256, bucket_multiple=64)
    number = nearest(knobs.buckets, height, width)
    cut = plan_cut((height, width), knobs, np.random.default_rng(0), bucket=number)
    assert cut.of(picture(height, width)).shape[:2] == knobs.buckets[number]
    assert 0 in (cut.resized[0] - cut.target[0], cut.resized[1] - cut.target[1])
    ratios = [abs(np.log(w / h) - np.log(width / height)) for h, w in knobs.buckets]
    assert ratios[number] == min(ratios)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"bucket_multiple": 64}, "bucket_multiple is 64, expected .* resolution"),
        ({"resolution": 32, "bucket_multiple": 64}, "at most the resolution"),
        ({"flip_all": True}, "flip_all is true"),
        ({"resolution": 0}, "resolution is 0"),
    ],
)
def test_knobs_that_mean_nothing_are_refused(knobs: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Framing(**knobs)  # type: ignore[arg-type]

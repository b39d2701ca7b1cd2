"""Both images of a pair are cut alike, without squashing, and only chance that was asked for."""

import numpy as np
import pytest

from training.framing import Framing, frame, framed


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


def test_what_was_done_is_told() -> None:
    image = picture(24, 40)
    knobs = Framing(resolution=24, enlarge_to=24, flip=True)
    lefts = set()
    for number in range(20):
        source, _, sizes = framed((image, image), knobs, np.random.default_rng(number))
        height, width, top, left, *cut = sizes
        assert (height, width, *cut) == (24, 40, 24, 24)
        # of the stored picture or of its mirror image
        windows = [whole[top : top + 24, left : left + 24] for whole in (image, image[:, ::-1])]
        assert any(np.array_equal(source, window) for window in windows)
        lefts.add(left)
    assert len(lefts) > 5
    assert framed((image, image), Framing(), np.random.default_rng(0)).sizes == (
        24,
        40,
        0,
        0,
        24,
        40,
    )
    twice = framed((image, image), Framing(resolution=48), np.random.default_rng(0))
    assert twice.sizes == (24, 40, 0, 16, 48, 48)


def test_a_range_that_runs_backwards_is_refused() -> None:
    with pytest.raises(ValueError, match=r"enlarge_to is 200, expected at least .* 256"):
        Framing(resolution=256, enlarge_to=200)

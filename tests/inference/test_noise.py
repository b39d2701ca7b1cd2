"""Draws are functions of their key alone."""

import pytest
import torch

from inference.noise import keyed_noise, keyed_seed


def test_equal_keys_draw_equal_noise_whatever_came_before() -> None:
    first = keyed_noise("triplet", 3, "ancestral", 7, shape=(4, 8, 8))
    torch.manual_seed(1)
    torch.randn(5)
    assert torch.equal(first, keyed_noise("triplet", 3, "ancestral", 7, shape=(4, 8, 8)))


def test_different_keys_draw_different_noise() -> None:
    keys = [("a", "bc"), ("ab", "c"), ("a", "b", "c"), ("abc",), (1,), ("1",), (1, 2), (12,)]
    assert len({keyed_seed(*key) for key in keys}) == len(keys)
    assert all(0 <= keyed_seed(*key) < 2**63 for key in keys)


def test_the_whole_seed_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's CPU generator would take these two for one."""
    drawn = []
    for seed in (1, 1 + 2**32):
        monkeypatch.setattr("inference.noise.keyed_seed", lambda *_, seed=seed: seed)
        drawn.append(keyed_noise("x", shape=(8,)))
    assert not torch.equal(*drawn)


def test_every_dtype_sees_the_same_noise() -> None:
    single = keyed_noise("x", shape=(4, 8, 8))
    assert torch.equal(keyed_noise("x", shape=(4, 8, 8), dtype=torch.float64), single.double())


def test_noise_is_standard_normal() -> None:
    noise = keyed_noise("x", shape=(100_000,))
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


def test_seeds_stay_what_they_are() -> None:
    assert keyed_seed("a", 1) == 1381375925460027057
    expected = [-0.486653, 1.495377, -2.474288]
    torch.testing.assert_close(keyed_noise("a", 1, shape=(3,)), torch.tensor(expected))

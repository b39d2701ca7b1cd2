"""The moving average follows its definition."""

import torch
from torch import nn

from training.ema import ramped_decay, update


def test_decay_ramps_up_to_its_limit() -> None:
    assert ramped_decay(1, 0.9999) == 2 / 11
    assert ramped_decay(90, 0.9999) == 91 / 100
    assert ramped_decay(10**6, 0.9999) == 0.9999


def test_update_is_the_weighted_mean() -> None:
    average, live = nn.Linear(3, 2), nn.Linear(3, 2)
    expected = [
        0.9 * a + 0.1 * p for a, p in zip(average.parameters(), live.parameters(), strict=True)
    ]
    update(average, live, decay=0.9)
    for got, wanted in zip(average.parameters(), expected, strict=True):
        torch.testing.assert_close(got, wanted)

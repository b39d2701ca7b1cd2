"""Texts of one and of two encoders are put together alike."""

import pytest
import torch

from inference.text import Text


@pytest.fixture(params=[False, True])
def text(request: pytest.FixtureRequest) -> Text:
    """Two prompts of three tokens."""
    states = torch.arange(2 * 3 * 4.0).view(2, 3, 4)
    return Text(states, torch.arange(2 * 5.0).view(2, 5) if request.param else None)


def parts(text: Text) -> list[torch.Tensor]:
    return [part for part in (text.states, text.pooled) if part is not None]


def test_rows(text: Text) -> None:
    assert len(text) == 2
    for rows in ([1], slice(1, 2), torch.tensor([1])):
        for found, whole in zip(parts(text[rows]), parts(text), strict=True):
            assert torch.equal(found, whole[1:])


def test_the_same_again_and_again(text: Text) -> None:
    assert all(len(part) == 7 for part in parts(text[:1].expand(7)))
    for found, whole in zip(parts(text.expand(5, 2)), parts(text), strict=True):
        assert found.shape == (5, *whole.shape)
        assert torch.equal(found[3], whole)


def test_one_after_the_other_and_on_top(text: Text) -> None:
    for found, whole in zip(parts(Text.cat([text, text[:1]])), parts(text), strict=True):
        assert torch.equal(found, torch.cat([whole, whole[:1]]))
    for found, whole in zip(parts(Text.stack([text, text])), parts(text), strict=True):
        assert torch.equal(found, torch.stack([whole, whole]))


def test_dtype_follows(text: Text) -> None:
    wide = text.to(torch.zeros((), dtype=torch.float64))
    assert {part.dtype for part in parts(wide)} == {torch.float64}

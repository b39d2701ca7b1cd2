"""Fixtures that ask a provider of language models on loopback; conftests import them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from data_gen.instructions.knobs import InstructionKnobs
from inference.endpoints import pacing
from tests.provider import Provider, listening


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back off for hundredths of a second, where a server does not ask for more."""
    monkeypatch.setattr(pacing, "FIRST_WAIT_S", 0.02)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with listening(Provider()) as one:
        yield one


@pytest.fixture
def knobs_for(provider: Provider) -> Callable[..., InstructionKnobs]:
    """`knobs_for(**knobs)`: asks the provider plainly, once, of one kind of edit."""

    def make(**knobs: Any) -> InstructionKnobs:
        plain: dict[str, Any] = {
            "model": "small",
            "base_url": provider.base_url,
            "edit_types": {"recolour": 1.0},
            "rounds": 1,
            "form": "plain",
            "timeout_s": 20.0,
        }
        return InstructionKnobs(**(plain | knobs))

    return make

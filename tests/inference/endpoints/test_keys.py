"""Each endpoint gets the key that is meant for it, and no other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_gen.instructions.fine_tune import FineTuneKnobs
from data_gen.instructions.stage import write_triplets
from data_gen.judging.judge_knobs import JudgeKnobs
from data_gen.records import Caption
from inference.endpoints.keys import NO_KEY, api_key
from tests.provider import Provider


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hosted")
    monkeypatch.setenv("OTHER_KEY", "sk-other")


@pytest.mark.parametrize(
    ("key_env", "sent"),
    [("OPENAI_API_KEY", "sk-hosted"), ("OTHER_KEY", "sk-other"), (None, NO_KEY)],
)
def test_the_writer_gets_its_own_key(
    tmp_path: Path,
    provider: Provider,
    knobs_for: Callable[..., Any],
    key_env: str | None,
    sent: str,
) -> None:
    captions = [Caption.of("a red circle")]
    write_triplets(
        captions, knobs_for(key_env=key_env), journal=tmp_path / "j", triplets=tmp_path / "t"
    )
    assert provider.keys == {f"Bearer {sent}"}


def test_a_variable_that_was_named_must_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTHER_KEY")
    with pytest.raises(ValueError, match="OTHER_KEY, named by key_env, is not set"):
        api_key("OTHER_KEY")
    monkeypatch.delenv("OPENAI_API_KEY")
    assert api_key("OPENAI_API_KEY") == NO_KEY  # a server of one's own asks for none


@pytest.mark.parametrize(
    "field", ["instructions.key_env", "pairs.scorers.judge.key_env", "key_env"]
)
def test_a_key_in_place_of_its_variables_name_is_not_repeated(
    knobs_for: Callable[..., Any], field: str
) -> None:
    key = "sk-very-secret"
    make = {
        "instructions.key_env": lambda: knobs_for(key_env=key),
        "pairs.scorers.judge.key_env": lambda: JudgeKnobs(model="m", base_url="u", key_env=key),
        "key_env": lambda: FineTuneKnobs(
            triplets=Path("t"), output=Path("o"), model="m", key_env=key
        ),
    }[field]
    with pytest.raises(ValueError, match=f"^{field} must be the name of an env") as caught:
        make()
    assert key not in str(caught.value)

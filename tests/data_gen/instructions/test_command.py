"""The instruction stage from the command line: knobs, exit codes, limits, several jobs at once."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from data_gen import __main__, stages
from data_gen.instructions.stage import write_triplets
from data_gen.instructions.triplets import read_triplets
from data_gen.recipe import Recipe
from data_gen.records import Caption
from tests.provider import CHILDREN


@pytest.fixture
def line(tmp_path: Path, provider: Any) -> Sequence[str]:
    """Captions, and the command that asks for them."""
    (tmp_path / "captions.txt").write_text(
        "".join(f"a red circle number {number}\n" for number in range(15))
    )
    source = ("--captions.file", str(tmp_path / "captions.txt"), "--output", str(tmp_path / "out"))
    assert __main__.main(["captions", *source]) == 0
    knobs = {"model": "small", "base_url": provider.base_url, "edit_types": '{"recolour": 1.0}'}
    return [
        "instructions",
        *source,
        *(word for name, value in knobs.items() for word in (f"--instructions.{name}", value)),
    ]


def test_a_budget_from_the_command_line_ends_the_run_in_one_sentence(
    tmp_path: Path, provider: Any, line: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    prices = ("--instructions.prices.input", "0.25", "--instructions.prices.output", "2")
    provider.greedy = True
    assert __main__.main([*line, *prices, "--instructions.budget", "0.005"]) == 1
    said = capsys.readouterr()
    assert "error: the budget is met: $0.0" in said.err
    assert "of $0.005 are spent" in said.err
    assert "15 captions: {'left': " in said.out
    assert 0 < provider.billed <= 0.005
    assert 0 < len((tmp_path / "out/triplets.jsonl").read_text().splitlines()) < 15
    assert __main__.main([*line, *prices, "--instructions.budget", "1"]) == 0
    assert len((tmp_path / "out/triplets.jsonl").read_text().splitlines()) == 15
    assert "spent so far" in capsys.readouterr().out


def test_a_budget_without_prices_is_one_sentence(
    line: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main([*line, "--instructions.budget", "1"]) == 1
    assert "instructions.budget needs prices" in capsys.readouterr().err


def test_a_run_makes_the_pairs_of_what_was_answered_and_fails_for_the_rest(
    tmp_path: Path,
    provider: Any,
    line: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made: list[int] = []

    def make_pairs(recipe: Recipe) -> None:
        made.append(len(read_triplets(recipe.output / "triplets.jsonl")))

    monkeypatch.setattr(stages, "make_pairs", make_pairs)
    run = ["run", *line[1:], "--instructions.max_retries", "0"]
    provider.behave = lambda asked, nth: "503" if asked["caption"].endswith(" 7") else "good"
    assert __main__.main(run) == 1
    said = capsys.readouterr().err
    assert "warning: 1 of 15 questions got no answer (the last: HTTP 503" in said
    assert "error: 1 of 15 questions got no answer" in said
    provider.behave = lambda asked, nth: "good"
    assert __main__.main(run) == 0
    assert made == [14, 15]
    # Nothing is made of what an earlier run left when this one gets no answers at all.
    provider.behave = lambda asked, nth: "401"
    assert __main__.main([*run, "--instructions.temperature", "0.1"]) == 1
    assert made == [14, 15]


def test_requests_keep_to_the_limits(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    knobs = knobs_for(requests_per_minute=600, tokens_per_minute=10**9, concurrency=8)
    captions = [Caption.of(f"a red circle number {number}") for number in range(12)]
    write_triplets(captions, knobs, journal=tmp_path / "j", triplets=tmp_path / "t")
    assert provider.times[-1] - provider.times[0] > 1.0
    # Twelve prompts of some 900 tokens at most, and answers of 256: two a second.
    knobs = knobs_for(tokens_per_minute=140_000, concurrency=8, temperature=0.1)
    before = len(provider.times)
    write_triplets(captions[:4], knobs, journal=tmp_path / "j", triplets=tmp_path / "t")
    assert provider.times[-1] - provider.times[before] > 0.5


def _job(line: Sequence[str]) -> None:
    os._exit(__main__.main(line))


def test_jobs_that_start_together_ask_everything_once(
    tmp_path: Path, provider: Any, line: Sequence[str]
) -> None:
    provider.latency_s = 0.02
    jobs = [CHILDREN.Process(target=_job, args=(line,)) for _ in range(3)]
    for one in jobs:
        one.start()
    for one in jobs:
        one.join(60)
    assert [one.exitcode for one in jobs] == [0, 0, 0]
    assert len(provider.seeds) == len(set(provider.seeds)) == 15 + 1  # the probe
    assert len((tmp_path / "out/triplets.jsonl").read_text().splitlines()) == 15

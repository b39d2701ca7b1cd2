"""The Batch API brings what direct questions bring, and is found again after a kill."""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from data_gen.instructions import batch_api
from data_gen.instructions.stage import write_triplets
from data_gen.records import Caption, EditTriplet
from inference.endpoints.budget import BudgetMet, Ledger, Prices
from inference.endpoints.failures import ServerError
from inference.endpoints.history import History
from inference.endpoints.journal import Journal
from tests.provider import CHILDREN

CAPTIONS = [Caption.of(f"a red circle number {number}") for number in range(10)]
PRICES = Prices(input=0.5, output=4.0, batch_share=0.5)  # half of it is what the provider bills


def write(folder: Path, knobs: Any) -> list[EditTriplet]:
    return write_triplets(
        CAPTIONS, knobs, journal=folder / "journal.jsonl", triplets=folder / "triplets.jsonl"
    )


@pytest.fixture
def knobs(knobs_for: Callable[..., Any]) -> Any:
    return knobs_for(batch=True, batch_poll_s=0.01, prices=PRICES)


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").open()]


@pytest.mark.parametrize("rounds", [1, 3])
def test_batches_bring_what_direct_questions_bring(
    tmp_path: Path, provider: Any, knobs: Any, rounds: int
) -> None:
    provider.say = lambda asked: (
        "{}" if asked["caption"][-1] in "37" and asked["edit_type"] == "move" else BLUE
    )
    mix = {"edit_types": {"recolour": 1.0, "move": 1.0}, "rounds": rounds}
    one_by_one = write(tmp_path / "one", replace(knobs, batch=False, **mix))
    cost = provider.billed
    in_batches = write(tmp_path / "batches", replace(knobs, budget=1.0, **mix))
    assert in_batches == one_by_one
    paid = sum(
        Decimal(entry["dollars"]) for entry in journal(tmp_path / "batches") if "answer" in entry
    )
    assert paid == provider.billed - cost == cost
    before = len(provider.requests)
    # The journal is the same, so either way goes on where the other ended.
    assert write(tmp_path / "batches", replace(knobs, batch=False, **mix)) == in_batches
    assert len(provider.requests) == before


BLUE = json.dumps(
    {"instruction": "make it blue", "edited_caption": "blue", "inverse_instruction": "red"}
)


def test_a_batch_that_expires_brings_what_it_has(
    tmp_path: Path, provider: Any, knobs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    provider.batch_end = "expired"
    with pytest.raises(ServerError, match="5 of 10 questions got no answer.*not in time"):
        write(tmp_path, replace(knobs, budget=1.0))
    assert "10 captions: {'failed': 5, 'written': 5}" in capsys.readouterr().out
    provider.batch_end = "completed"
    assert len(write(tmp_path, replace(knobs, budget=1.0))) == 10
    assert len(provider.seeds) == len(set(provider.seeds)) == 10
    assert spent(tmp_path) == provider.billed


@pytest.mark.parametrize("at", ["files", "batches", "batches/batch-0"])
def test_an_error_within_http_200_is_told_and_not_waited_on(
    tmp_path: Path, provider: Any, knobs: Any, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    route = provider.route

    def failing(method: str, path: str, content: bytes) -> Any:
        if path == f"/v1/{at}":
            return 200, {}, b'{"error": {"message": "no credit left"}}'
        return route(method, path, content)

    with monkeypatch.context() as patch:
        patch.setattr(provider, "route", failing)
        with pytest.raises(ServerError, match="Batch API .* failed: HTTP 200 with no credit left"):
            write(tmp_path, replace(knobs, budget=1.0))
    assert len(write(tmp_path, replace(knobs, budget=1.0))) == 10


def spent(folder: Path) -> Decimal:
    ledger = Ledger(PRICES, None)
    with Journal(folder / "journal.jsonl") as file:
        History(file, ledger)
    return ledger.spent


def test_a_batch_may_be_completed_without_a_file(tmp_path: Path, provider: Any, knobs: Any) -> None:
    provider.batch_end = "completed nothing"
    with pytest.raises(
        ServerError, match="10 of 10 questions got no answer.*is completed, without"
    ):
        write(tmp_path, replace(knobs, budget=1.0))
    assert spent(tmp_path) > 0  # it may have been charged all the same
    provider.batch_end = "completed"
    assert len(write(tmp_path, replace(knobs, budget=1.0))) == 10


def test_results_that_failed_or_make_no_sense_are_failures(
    tmp_path: Path, provider: Any, knobs: Any
) -> None:
    provider.behave = lambda asked, nth: "500" if asked["caption"][-1] in "12" else "good"
    with pytest.raises(ServerError, match="2 of 10 questions got no answer.*HTTP 500"):
        write(tmp_path, replace(knobs, budget=1.0))
    assert spent(tmp_path) == provider.billed


def test_the_budget_bounds_batches(
    tmp_path: Path, provider: Any, knobs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    provider.greedy = True
    with pytest.raises(BudgetMet, match="the budget is met"):
        write(tmp_path, replace(knobs, budget=0.004))
    assert 0 < provider.billed <= spent(tmp_path) <= Decimal("0.004")
    assert "'left'" in capsys.readouterr().out


def test_what_batches_did_not_cost_pays_for_more(tmp_path: Path, provider: Any, knobs: Any) -> None:
    # Four requests are set aside for at most, and cost a fifth of that.
    assert len(write(tmp_path, replace(knobs, budget=0.004))) == 10
    sizes = [
        provider.files[batch["input_file_id"]].count(b"custom_id")
        for batch in provider.batches.values()
    ]
    assert len(sizes) > 1
    assert sum(sizes) == len(provider.seeds) == 10
    assert spent(tmp_path) == provider.billed <= Decimal("0.004")


def test_large_sets_are_cut_into_several_batches(
    tmp_path: Path, provider: Any, knobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_api, "MAX_REQUESTS", 4)
    assert len(write(tmp_path, knobs)) == 10
    sizes = [
        provider.files[batch["input_file_id"]].count(b"custom_id")
        for batch in provider.batches.values()
    ]
    assert sorted(sizes) == [2, 4, 4]


@pytest.mark.parametrize("moment", ["created", "running", "not listed", "unsent"])
def test_a_killed_run_finds_its_batch_again(
    tmp_path: Path, provider: Any, knobs: Any, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    knobs = replace(knobs, budget=1.0)
    provider.batch_looks = 10**9
    child = CHILDREN.Process(target=write, args=(tmp_path, knobs))
    child.start()
    deadline = time.monotonic() + 60
    while not (provider.batches and any("remote" in entry for entry in journal(tmp_path))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    if moment != "running":  # as if the kill had come before the batch's own name was written
        gone = {"remote"} | ({"starting"} if moment == "unsent" else set())
        kept = [entry for entry in journal(tmp_path) if not gone & entry.keys()]
        text = "".join(f"{json.dumps(entry)}\n" for entry in kept)
        (tmp_path / "journal.jsonl").write_text(text)
    if moment in ("not listed", "unsent"):
        provider.batches.clear()
    for batch in provider.batches.values():
        batch["looks"] = 0
    provider.batch_looks = 2
    assert len(write(tmp_path, knobs)) == 10
    assert len(provider.batches) == 1
    assert len(provider.seeds) == 10
    # What was started and is not listed may run, and cost, all the same.
    reserved = next(entry["requests"] for entry in journal(tmp_path) if "requests" in entry)
    lost = sum(map(Decimal, reserved.values())) if moment == "not listed" else Decimal()
    assert spent(tmp_path) == provider.billed + lost


def test_a_batch_whose_start_was_answered_with_an_error_is_not_started_twice(
    tmp_path: Path, provider: Any, knobs: Any
) -> None:
    route, broken = provider.route, []

    def breaks_once(method: str, path: str, content: bytes) -> tuple[int, dict[str, str], bytes]:
        answer = route(method, path, content)
        if method == "POST" and path == "/v1/batches" and not broken:
            broken.append(path)
            return 500, {}, b"{}"
        return answer

    provider.route = breaks_once
    with pytest.raises(ServerError, match="Run again; batches that are out are collected then"):
        write(tmp_path, replace(knobs, budget=1.0))
    assert len(write(tmp_path, replace(knobs, budget=1.0))) == 10
    assert len(provider.batches) == 1
    assert spent(tmp_path) == provider.billed


def test_answers_of_a_batch_are_neither_lost_nor_charged_twice_by_a_kill(
    tmp_path: Path, provider: Any, knobs: Any
) -> None:
    whole = write(tmp_path, replace(knobs, budget=1.0))
    path = tmp_path / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    answers = [place for place, line in enumerate(lines) if '"answer"' in line]
    path.write_text("".join(lines[: answers[3]]) + lines[answers[3]][:20])
    assert write(tmp_path, replace(knobs, budget=1.0)) == whole
    assert len(provider.batches) == 1
    assert spent(tmp_path) == provider.billed


def test_a_batch_that_is_gone_is_spent_and_sent_again(
    tmp_path: Path, provider: Any, knobs: Any
) -> None:
    write(tmp_path, replace(knobs, budget=1.0))
    path = tmp_path / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    answers = [place for place, line in enumerate(lines) if '"answer"' in line]
    path.write_text("".join(lines[: answers[0]]))
    provider.batches.clear()
    assert len(write(tmp_path, replace(knobs, budget=1.0))) == 10
    assert provider.billed < spent(tmp_path) < Decimal("0.02")

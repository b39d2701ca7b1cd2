"""No budget is exceeded, at the cent, whatever the endpoint, the kernel or the user does."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_gen.instructions.prompts import SYSTEM
from data_gen.instructions.stage import write_triplets
from data_gen.records import Caption, EditTriplet
from inference.content_id import content_id
from inference.endpoints.budget import BudgetMet, Ledger, Prices, Usage, prompt_bound
from inference.endpoints.failures import ServerError
from tests.provider import CHILDREN

PRICES = Prices(input=0.25, output=2.0)
CAPTIONS = [Caption.of(f"a red circle number {number}") for number in range(60)]


def write(folder: Path, knobs: Any) -> list[EditTriplet]:
    return write_triplets(
        CAPTIONS, knobs, journal=folder / "journal.jsonl", triplets=folder / "triplets.jsonl"
    )


def test_money_is_exact() -> None:
    prices = Prices(input=0.1, cached_input=0.03, output=0.7)
    assert prices.cost(Usage(prompt=3, cached=2, answer=1)) == Decimal("0.00000086")
    assert prices.worst(10, 1) == Decimal("0.0000017")
    half = Prices(input=0.15, output=0.6, batch_share=0.5).batched()
    assert (half.input, half.output) == (0.075, 0.3)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ({"total_tokens": 500}, 490),  # hidden reasoning is in the total alone
        ({"total_tokens": 15}, 5),
        ({"total_tokens": 3}, 5),
        ({"total_tokens": "many"}, 5),
        ({}, 5),
    ],
)
def test_all_that_an_answer_took_is_counted(said: dict[str, Any], answer: int) -> None:
    usage = Usage.of({"prompt_tokens": 10, "completion_tokens": 5, **said})
    assert usage == Usage(prompt=10, cached=0, answer=answer)


def test_what_was_reserved_and_never_answered_stays_spent() -> None:
    ledger = Ledger(PRICES, Decimal(1))
    for entry in [
        {"reserved": "a", "dollars": "0.4"},
        {"reserved": "b", "dollars": "0.4"},
        {"request": "b", "answer": "", "dollars": "0.1"},
        {"reserved": "a", "dollars": "0.4"},  # a kill in between: it is sent once more
        {"freed": "a", "dollars": "0"},
    ]:
        ledger.apply(entry)
    assert ledger.spent == Decimal("0.5")
    assert ledger.fits(Decimal("0.5"))
    assert not ledger.fits(Decimal("0.500001"))


@given(st.text())
def test_no_tokenizer_makes_more_tokens_than_the_bound(text: str) -> None:
    body = {"messages": [{"content": SYSTEM}, {"content": text}]}
    alone = prompt_bound({"messages": [{"content": SYSTEM}, {"content": ""}]})
    for form in (text, normalize("NFKC", text)):
        assert prompt_bound(body) - alone >= len(form.encode("utf-8", "surrogatepass"))


TROUBLE = ("500", "429 0.01", "cut", "cut within", "gateway", "slow", "garbage", "prose", "good")


def troubled(asked: dict[str, Any], nth: int) -> str:
    number = int(content_id(asked["caption"], str(nth)), 16)
    return TROUBLE[number // 2 % len(TROUBLE)] if number % 2 else "good"


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("greedy", [True, False])
def test_the_budget_is_met_and_not_exceeded(
    tmp_path: Path,
    provider: Any,
    knobs_for: Callable[..., Any],
    greedy: bool,
    concurrency: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    provider.behave, provider.greedy, provider.slow_s = troubled, greedy, 1.4
    knobs = knobs_for(prices=PRICES, concurrency=concurrency, timeout_s=1.0, max_retries=1)
    budget = 0.01
    with pytest.raises(
        BudgetMet, match=r"the budget is met: \$0\.0\d+ of \$0.01 are spent, \d+ tri"
    ):
        write(tmp_path, replace(knobs, budget=budget))
    # Another question would have cost at most so much.
    assert Decimal("0.01") - Decimal("0.00098") < spent(tmp_path) <= Decimal("0.01")
    assert provider.billed <= spent(tmp_path)
    assert "'left':" in capsys.readouterr().out
    # A larger budget goes on from there.
    before = len(provider.seeds)
    with pytest.raises(BudgetMet):
        write(tmp_path, replace(knobs, budget=0.02))
    assert len(provider.seeds) > before
    assert provider.billed <= spent(tmp_path) <= Decimal("0.02")


def spent(folder: Path) -> Decimal:
    ledger = Ledger(PRICES, None)
    for line in (folder / "journal.jsonl").open():
        ledger.apply(json.loads(line))
    return ledger.spent


def test_an_endpoint_that_charges_more_than_it_may_ends_the_run(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    knobs = knobs_for(prices=PRICES, budget=1.0, max_tokens=300)
    provider.say = lambda asked: "x" * 10_000
    provider._usage = lambda body, text: {"prompt_tokens": 100, "completion_tokens": 2500}
    with pytest.raises(ServerError, match="does not keep to max_completion_tokens=300"):
        write(tmp_path, knobs)
    assert len(provider.seeds) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"budget": 1.0}, "instructions.budget needs prices"),
        ({"budget": -1.0, "prices": PRICES}, "budget is -1.0; expected a number from 0"),
        ({"extra": {"n": 2}}, r"extra must not hold \['n'\]"),
        ({"extra": {"max_tokens": 300}}, "extra.max_tokens must be at most max_tokens, 256"),
        ({"rounds": 0}, "rounds is 0; expected a whole number from 1"),
        ({"rounds": 10**30}, "rounds is 1000000000000000000000000000000; expected"),
        ({"concurrency": 2000}, "concurrency is 2000; expected a whole number from 1 to 1,000"),
        ({"requests_per_minute": 0}, "requests_per_minute is 0; expected a number above 0"),
        ({"moderation": "m", "base_url": None}, "moderation needs an endpoint"),
    ],
)
def test_wrong_knobs_are_named(
    knobs_for: Callable[..., Any], wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        knobs_for(**wrong)


def _run(folder: Path, knobs: Any) -> None:
    """A child's life: it may meet its budget or be killed."""
    with Path(os.devnull).open("w") as null:
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
        try:
            write(folder, knobs)
        except (BudgetMet, ServerError):
            os._exit(3)
    os._exit(0)


def answered(folder: Path) -> set[int]:
    """Seeds of the questions whose answers stand in the journal."""
    path = folder / "journal.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    entries = [json.loads(line) for line in lines]
    return {int(entry["request"], 16) % 2**31 for entry in entries if "answer" in entry}


def killed_again_and_again(
    folder: Path, provider: Any, knobs: Any, rng: random.Random, kills: int
) -> int:
    """Kill a run at random moments until it ends by itself; return how often it was killed."""
    done = 0
    while True:
        known, before = answered(folder), len(provider.seeds)
        child = CHILDREN.Process(target=_run, args=(folder, knobs))
        child.start()
        deadline = time.monotonic() + (rng.uniform(0.05, 0.45) if done < kills else 60)
        while child.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        time.sleep(0.1)  # the provider finishes what it was at, and charges for it
        assert not known & set(provider.seeds[before:]), "an answer in the journal was asked again"
        assert provider.billed <= Decimal(str(knobs.budget))
        if child.exitcode != -signal.SIGKILL:
            return done
        done += 1


@pytest.mark.parametrize(
    ("budget", "moments"),
    [(0.008, 4), (1.0, 4), pytest.param(1.0, 20, marks=pytest.mark.slow)],
)
def test_a_killed_run_neither_exceeds_the_budget_nor_asks_twice(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any], budget: float, moments: int
) -> None:
    provider.latency_s = 0.03
    provider.say = picky
    knobs = knobs_for(
        prices=PRICES,
        budget=budget,
        concurrency=4,
        rounds=3,
        edit_types={"recolour": 2.0, "move": 1.0, "remove": 1.0},
    )
    rng = random.Random(f"{budget} {moments}")
    if moments > 4:  # so that there is enough to be killed in
        knobs, provider.latency_s = replace(knobs, concurrency=2), 0.15
    assert killed_again_and_again(tmp_path, provider, knobs, rng, moments) >= moments // 2
    if budget == 1.0:
        whole = write(tmp_path, knobs)
        assert write(tmp_path / "unbroken", knobs) == whole
        assert len(whole) > 50


def picky(asked: dict[str, Any]) -> str:
    """Refuses most removals; its answers are a function of the question."""
    if asked["edit_type"] == "remove" and int(content_id(asked["caption"]), 16) % 3:
        return "{}"
    return json.dumps(
        {
            "instruction": f"{asked['edit_type']} it",
            "edited_caption": asked["caption"].replace("red", asked["edit_type"]),
            "inverse_instruction": "back",
        }
    )

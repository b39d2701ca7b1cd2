"""An endpoint that does everything wrong: each caption ends as written, rejected or failed."""

import email.utils
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from data_gen.instructions.stage import write_triplets
from data_gen.records import Caption, EditTriplet
from inference.content_id import content_id
from inference.endpoints.budget import BudgetMet, Ledger, Prices
from inference.endpoints.failures import ServerError

CAPTIONS = [Caption.of(f"a red circle number {number}") for number in range(80)]
PRICES = Prices(input=0.25, output=2.0)  # what the provider bills
PASSING = ("429 0.01", "500", "503", "gateway", "slow", "cut", "cut within")
LASTING = ("prose", "ignores", "wrong keys", "huge", "long", "code content_filter")


def write(folder: Path, knobs: Any, captions: list[Caption] = CAPTIONS) -> list[EditTriplet]:
    return write_triplets(
        captions, knobs, journal=folder / "journal.jsonl", triplets=folder / "triplets.jsonl"
    )


def draw(caption: str) -> int:
    return int(content_id("behaviour", caption), 16) % 100


def flaky(asked: dict[str, Any], nth: int) -> str:
    """Four of ten questions meet trouble at first; four never get an answer of use, one garbage."""
    number = draw(asked["caption"])
    if number < 40:
        return PASSING[number % len(PASSING)] if nth == 0 else "good"
    if number < 60:
        return "good"
    return "garbage" if number < 70 else LASTING[number % len(LASTING)]


NUMBERS = Counter(flaky({"caption": caption.text}, 1) for caption in CAPTIONS)


def spent(folder: Path) -> Decimal:
    ledger = Ledger(PRICES, None)
    for line in (folder / "journal.jsonl").open():
        ledger.apply(json.loads(line))
    return ledger.spent


def test_every_caption_is_written_rejected_or_failed(
    tmp_path: Path,
    provider: Any,
    knobs_for: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert NUMBERS["garbage"] >= len(CAPTIONS) / 10
    assert min(NUMBERS[manner] for manner in LASTING) > 0
    provider.behave, provider.slow_s = flaky, 4.0
    patience = {"concurrency": 16, "timeout_s": 3.0, "max_retries": 2, "rounds": 2}
    knobs = knobs_for(form="json_schema", prices=PRICES, budget=0.02, **patience)
    with pytest.raises(BudgetMet, match=r"of \$0.02 are spent"):
        write(tmp_path, knobs)
    assert provider.billed <= spent(tmp_path) <= Decimal("0.02")
    assert "'left'" in capsys.readouterr().out
    # A larger budget goes on from there, to an end for each caption.
    knobs = replace(knobs, budget=1.0)
    with pytest.raises(ServerError, match=r"got no answer.*run again"):
        write(tmp_path, knobs)
    failed, written = NUMBERS["garbage"], NUMBERS["good"]
    rejected = len(CAPTIONS) - written - failed
    counts = f"{{'failed': {failed}, 'rejected': {rejected}, 'written': {written}}}"
    assert f"{len(CAPTIONS)} captions: {counts}" in capsys.readouterr().out
    assert provider.billed <= spent(tmp_path) <= 1
    # Run again, it asks for the failed ones alone, and this time gets them.
    provider.behave = lambda asked, nth: "good"
    before = len(provider.requests)
    assert len(write(tmp_path, knobs)) == written + failed
    assert len(provider.requests) - before == failed


@pytest.mark.parametrize("form", ["json_schema", "json_object", "tagged"])
def test_a_form_that_is_ignored_is_found_out_answer_by_answer(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any], form: str
) -> None:
    provider.behave = lambda asked, nth: "ignores" if draw(asked["caption"]) < 30 else "good"
    if form == "tagged":
        provider.say = lambda asked: "<none/>" if draw(asked["caption"]) < 50 else TAGGED
    write(tmp_path, knobs_for(form=form, concurrency=8), CAPTIONS[:30])
    entries = [json.loads(line) for line in (tmp_path / "journal.jsonl").open()]
    for entry in entries:
        number = draw(entry["caption"])
        if form == "tagged" and number >= 30:
            expected = "no such edit suits the caption" if number < 50 else None
        else:
            wrong = "not the tags asked for" if form == "tagged" else "not one JSON object"
            expected = wrong if number < 30 else None
        assert entry["rejected"] == expected


TAGGED = (
    "<instruction>make it blue</instruction>\n<edited_caption>a blue circle</edited_caption>\n"
    "<inverse_instruction>make it red</inverse_instruction>"
)


def test_no_answer_fills_the_memory_or_the_journal(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    provider.behave = lambda asked, nth: "good" if asked["caption"].endswith("0") else "huge"
    assert len(write(tmp_path, knobs_for(), CAPTIONS[:3])) == 1
    assert (tmp_path / "journal.jsonl").stat().st_size < 2000


def test_a_busy_endpoint_is_waited_for(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    provider.behave = lambda asked, nth: "good" if nth == 5 else "429 0.01"
    assert len(write(tmp_path, knobs_for(concurrency=8), CAPTIONS[:8])) == 8


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any], as_date: bool
) -> None:
    def wait() -> str:
        # A date has no fractions of a second: two from now are more than one.
        return email.utils.formatdate(time.time() + 2, usegmt=True) if as_date else "1.2"

    provider.behave = lambda asked, nth: "good" if len(provider.times) > 4 else f"429 {wait()}"
    write(tmp_path, knobs_for(concurrency=4), CAPTIONS[:6])
    assert provider.times[4] - provider.times[0] > 0.95
    assert len(provider.times) == 4 + 6


def test_a_server_that_asks_for_an_hour_is_not_waited_for(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    provider.behave = lambda asked, nth: "429 3600"
    with pytest.raises(ServerError, match="1 of 1 questions got no answer.*429"):
        write(tmp_path, knobs_for(), CAPTIONS[:1])


def test_an_empty_purse_is_not_a_busy_server(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    provider.behave = lambda asked, nth: "code insufficient_quota"
    with pytest.raises(ServerError, match="refuses.*insufficient_quota"):
        write(tmp_path, knobs_for())
    assert len(provider.requests) == 1


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("place", [0, 5, 11])
def test_a_question_that_is_not_taken_is_rejected_once_others_are_answered(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any], place: int, batch: bool
) -> None:
    bad = CAPTIONS[place].text
    provider.behave = lambda asked, nth: "400" if asked["caption"] == bad else "good"
    knobs = knobs_for(prices=Prices(input=1, output=1), budget=1.0, batch=batch, batch_poll_s=0.01)
    assert len(write(tmp_path, knobs, CAPTIONS[:12])) == 11
    entries = [json.loads(line) for line in (tmp_path / "journal.jsonl").open()]
    [rejected] = [entry for entry in entries if entry.get("rejected")]
    assert rejected["caption"] == bad
    assert rejected["rejected"] == "refused by the endpoint, HTTP 400"
    assert "status 400" in rejected["answer"]
    assert rejected["dollars"] == "0"
    # It is not asked again.
    before = len(provider.requests)
    assert len(write(tmp_path, knobs, CAPTIONS[:12])) == 11
    assert len(provider.requests) == before


def test_questions_that_are_all_not_taken_are_asked_again_when_that_is_put_right(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    write(tmp_path, knobs_for(), CAPTIONS[:12])
    # Such as more tokens than the model has; earlier answers say nothing of that.
    provider.behave = lambda asked, nth: "400"
    with pytest.raises(ServerError, match="refuses: HTTP 400"):
        write(tmp_path, knobs_for(max_tokens=512), CAPTIONS[:20])
    with pytest.raises(ServerError, match=r"none of the last 20 questions \(it said: HTTP 400.*\)"):
        write(tmp_path, knobs_for(max_tokens=512))
    provider.behave = lambda asked, nth: "good"
    assert len(write(tmp_path, knobs_for())) == len(CAPTIONS)


def test_the_last_question_left_is_rejected_if_another_would_be_answered(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    bad = CAPTIONS[0].text
    provider.behave = lambda asked, nth: "400" if asked["caption"] == bad else "good"
    with pytest.raises(ValueError, match="none of 1 answers was usable.*HTTP 400"):
        write(tmp_path, knobs_for(), CAPTIONS[:1])
    assert len(provider.seeds) == 1
    assert len(write(tmp_path, knobs_for(), CAPTIONS[:2])) == 1


def test_a_server_that_stops_answering_ends_the_run(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    provider.behave = lambda asked, nth: "500" if len(provider.seeds) >= 5 else "good"
    with pytest.raises(ServerError, match="answered none of the last 20 questions"):
        write(tmp_path, knobs_for(max_retries=0))
    assert len(provider.requests) == 25


@pytest.mark.parametrize("where", ["error", "answer"])
def test_the_key_is_neither_journaled_nor_told(
    tmp_path: Path,
    provider: Any,
    knobs_for: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    where: str,
) -> None:
    key = "sk-very-secret"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    provider.behave = lambda asked, nth: f"code {key}" if where == "error" else "good"
    provider.say = lambda asked: f"your key is {key}"
    knobs = knobs_for(key_env="OPENAI_API_KEY", prices=Prices(input=1, output=1), budget=1.0)
    with pytest.raises((ServerError, ValueError)) as caught:
        write(tmp_path, knobs, CAPTIONS[:2])
    assert provider.keys == {f"Bearer {key}"}
    told = "".join([*capfd.readouterr(), str(caught.value)])
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert key not in told
    assert key.encode() not in kept
    assert "[key]" in told + kept.decode()


@pytest.mark.parametrize("stray", ["401", "403", "404", "page", "redirect", "redirect /nowhere"])
def test_one_stray_refusal_among_answers_does_not_end_the_run(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any], stray: str
) -> None:
    manner = stray.replace("redirect", "redirect /v1/nowhere") if stray == "redirect" else stray
    strays = {CAPTIONS[3].text, CAPTIONS[7].text}
    provider.behave = lambda asked, nth: (
        manner if asked["caption"] in strays and nth == 0 else "good"
    )
    assert len(write(tmp_path, knobs_for(), CAPTIONS[:10])) == 10


@pytest.mark.parametrize("refusal", ["401", "404", "page", "redirect /elsewhere"])
def test_what_the_first_answer_says_ends_the_run(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any], refusal: str
) -> None:
    write(tmp_path, knobs_for(), CAPTIONS[:2])
    before = len(provider.requests)
    provider.behave = lambda asked, nth: refusal
    with pytest.raises(ServerError, match="refuses: "):
        write(tmp_path, knobs_for())
    assert len(provider.requests) == before + 1


def test_a_key_that_is_taken_back_within_a_run_ends_it(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    provider.behave = lambda asked, nth: "401" if len(provider.seeds) >= 5 else "good"
    with pytest.raises(ServerError, match="refuses: HTTP 401.*no key was sent: key_env names"):
        write(tmp_path, knobs_for())
    assert len(provider.requests) == 5 + 3

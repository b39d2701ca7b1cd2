"""A vision-language model behind a real endpoint: what it sees, and that it is paid once."""

import io
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_gen.judging.judge_knobs import JudgeKnobs
from data_gen.judging.rubric import Unusable, parse_marks
from data_gen.judging.vision_judge import JOURNAL, JudgeError, VisionJudge, dearest
from data_gen.records import EditTriplet, ImagePair
from data_gen.shards.members import encode_jpeg
from inference.endpoints.budget import BudgetMet
from inference.endpoints.failures import ServerError
from tests.data_gen.judging.eyes import PICTURE_TOKENS, PRICES, Eyes, by_brightness
from tests.provider import CHILDREN, Provider


@pytest.fixture
def judge_of(eyes: Eyes, tmp_path: Path) -> Iterator[Callable[..., VisionJudge]]:
    judges = []

    def make(**knobs: Any) -> VisionJudge:
        judges.append(VisionJudge(knobs_for(eyes, **knobs), tmp_path))
        return judges[-1]

    yield make
    for judge in judges:
        judge.close()


def knobs_for(eyes: Eyes, **knobs: Any) -> JudgeKnobs:
    plain = {"model": "eyes", "base_url": eyes.base_url, "picture_tokens": PICTURE_TOKENS}
    return JudgeKnobs(**(plain | knobs))


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / JOURNAL).open()]


def test_marks_become_one_score() -> None:
    assert parse_marks('{"followed": 10, "preserved": 10, "quality": 10}') == 1
    assert parse_marks('{"followed": 10, "preserved": 0, "quality": 10}') == 0
    fenced = 'Here:\n```json\n{"followed": 8, "preserved": 8, "quality": 8}\n```'
    assert parse_marks(fenced) == pytest.approx(0.8)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ten",
        "[10, 10, 10]",
        '{"followed": 10, "preserved": 10}',
        '{"followed": 11, "preserved": 1, "quality": 1}',
        '{"followed": true, "preserved": 1, "quality": 1}',
        '{"followed": 9.5, "preserved": 1, "quality": 1}',
        '{"followed": NaN, "preserved": 1, "quality": 1}',
        '{"followed": 1, "preserved": 1, "quality": 1, "x": 1}',
        '{"a":' * 100_000,
    ],
)
def test_an_answer_that_says_nothing_is_no_score(text: str) -> None:
    with pytest.raises(Unusable):
        parse_marks(text)


def test_it_sees_what_the_shard_will_hold_and_is_asked_once(
    judged_pair: Callable[..., ImagePair],
    eyes: Eyes,
    judge_of: Callable[..., VisionJudge],
    tmp_path: Path,
) -> None:
    pairs = [judged_pair(0, 1), judged_pair(2, 3), judged_pair(4, 5)]
    seen: dict[str, Any] = {}
    eyes.say = lambda asked: seen.setdefault(asked["instruction"], asked) and by_brightness(asked)
    first = judge_of(form="json_object")(pairs)
    for pair, score in zip(pairs, first, strict=True):
        shown = seen[pair.triplet.instruction]["pictures"]
        expected = [
            np.asarray(Image.open(io.BytesIO(encode_jpeg(image))))
            for image in (pair.source, pair.edited)
        ]
        assert all(map(np.array_equal, shown, expected))
        marks = [int(image.mean()) % 11 / 10 for image in expected]
        assert score == pytest.approx((marks[0] * marks[1]) ** (1 / 3))
    [body, *_] = eyes.requests
    assert body["response_format"] == {"type": "json_object"}
    assert "make it waves" not in body["messages"][0]["content"]
    # A picture's bytes and the question are what counts, not who asks or at what price.
    again = judge_of(form="json_object", concurrency=1, prices=PRICES, budget=0.0)
    assert again(list(reversed(pairs))) == list(reversed(first))
    assert len(eyes.seeds) == 3
    assert {entry["pair"] for entry in journal(tmp_path)} == {pair.key for pair in pairs}


def test_an_unusable_answer_is_no_score_and_stands(
    judged_pair: Callable[..., ImagePair], eyes: Eyes, judge_of: Callable[..., VisionJudge]
) -> None:
    pairs = [judged_pair(0, 1), judged_pair(2, 3)]
    eyes.behave = lambda asked, nth: "garbage" if "waves 3" in asked["instruction"] else "good"
    good, bad = judge_of()(pairs)
    assert good >= 0
    assert math.isnan(bad)
    assert math.isnan(judge_of()(pairs)[1])
    assert len(eyes.seeds) == 2


def test_no_answer_is_an_error_and_what_was_answered_is_not_asked_again(
    judged_pair: Callable[..., ImagePair], eyes: Eyes, judge_of: Callable[..., VisionJudge]
) -> None:
    pairs = [judged_pair(0, 1), judged_pair(2, 3)]
    eyes.behave = lambda asked, nth: "503" if "waves 3" in asked["instruction"] else "good"
    with pytest.raises(JudgeError, match=r"no answer to 1 of 2 questions: HTTP 503.*not now"):
        judge_of(max_retries=1)(pairs)
    eyes.behave = lambda asked, nth: "good"
    assert all(score >= 0 for score in judge_of()(pairs))
    assert len(eyes.seeds) == 2
    eyes.behave = lambda asked, nth: "401"
    with pytest.raises(ServerError, match="refuses: HTTP 401"):
        judge_of()([judged_pair(4, 5)])


def test_a_pair_that_the_endpoint_does_not_take_is_no_score_and_stands(
    judged_pair: Callable[..., ImagePair],
    eyes: Eyes,
    judge_of: Callable[..., VisionJudge],
    tmp_path: Path,
) -> None:
    eyes.behave = lambda asked, nth: "400"
    with pytest.raises(ServerError, match="refuses: HTTP 400"):
        judge_of()([judged_pair(4, 5)])  # it may take none
    eyes.behave = lambda asked, nth: "400" if "waves 3" in asked["instruction"] else "good"
    pairs = [judged_pair(0, 1), judged_pair(2, 3)]
    good, bad = judge_of(concurrency=1, prices=PRICES, budget=1.0)(pairs)
    assert good >= 0
    assert math.isnan(bad)
    assert journal(tmp_path)[-1]["rejected"] == "refused by the endpoint, HTTP 400"
    before = len(eyes.requests)
    assert math.isnan(judge_of()(pairs)[1])
    assert len(eyes.requests) == before


def _judge(folder: Path, knobs: JudgeKnobs, pairs: list[ImagePair]) -> None:
    """A child's life: it may meet its budget or be killed."""
    judge = VisionJudge(knobs, folder)
    try:
        for start in range(0, len(pairs), 4):
            judge(pairs[start : start + 4])
    except BudgetMet:
        os._exit(3)
    os._exit(0)


def test_workers_share_one_budget_and_a_kill_repays_nothing(
    judged_pair: Callable[..., ImagePair], eyes: Eyes, tmp_path: Path
) -> None:
    eyes.greedy, eyes.latency_s = True, 0.03
    pairs = [judged_pair(number, number + 1) for number in range(40)]
    knobs = knobs_for(eyes, prices=PRICES, budget=0.012, max_tokens=64)

    def start(*shares: list[ImagePair]) -> list[Any]:
        args = [(tmp_path, knobs, share) for share in shares]
        children = [CHILDREN.Process(target=_judge, args=one) for one in args]
        for child in children:
            child.start()
        return children

    [killed] = start(pairs[:20])
    while len(eyes.seeds) < 5 and killed.is_alive():
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    time.sleep(0.1)
    asked = {int(e["request"], 16) % 2**31 for e in journal(tmp_path) if "answer" in e}
    before = len(eyes.seeds)
    workers = start(pairs[:20], pairs[20:])
    for child in workers:
        child.join(120)
    assert not asked & set(eyes.seeds[before:])
    assert {child.exitcode for child in workers} == {3}
    reserved = [Decimal(e["dollars"]) for e in journal(tmp_path) if "reserved" in e]
    assert max(reserved) <= dearest(knobs)
    assert Decimal("0.006") < eyes.billed <= Decimal("0.012")
    with pytest.raises(BudgetMet, match=r"the judge's budget is met: \$0.01.* of \$0.012 are"):
        VisionJudge(knobs, tmp_path)(pairs)


def test_wrong_knobs_are_named(eyes: Eyes) -> None:
    with pytest.raises(ValueError, match="pairs.scorers.judge.budget needs prices"):
        knobs_for(eyes, budget=1.0)
    with pytest.raises(ValueError, match="JudgeKnobs.concurrency is 0; expected a whole number"):
        knobs_for(eyes, concurrency=0)
    with pytest.raises(ValueError, match=r"pairs.scorers.judge.extra must not hold \['seed'\]"):
        knobs_for(eyes, extra={"seed": 1})
    with pytest.raises(ValueError, match=r"JudgeKnobs.timeout_s is 0.0; expected a number above 0"):
        knobs_for(eyes, timeout_s=0.0)


def test_the_judge_gets_its_own_key(
    tmp_path: Path,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    triplets: list[EditTriplet],
    make_pair: Callable[..., ImagePair],
) -> None:
    monkeypatch.setenv("OTHER_KEY", "sk-other")
    provider.chat = lambda body: (401, {}, b"{}")  # type: ignore[method-assign]
    knobs = JudgeKnobs(model="eyes", base_url=provider.base_url, key_env="OTHER_KEY")
    judge = VisionJudge(knobs, tmp_path)
    with pytest.raises(ServerError, match="refuses"):
        judge([make_pair(triplets[0])])
    judge.close()
    assert provider.keys == {"Bearer sk-other"}

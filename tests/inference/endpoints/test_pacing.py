"""Limits a minute hold, and a server's wish to be left alone is read however it is put."""

import random
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.endpoints import pacing
from inference.endpoints.pacing import LONGEST_BACKOFF_S, Pace, backoff, retry_after


@given(st.lists(st.floats(0, 5), min_size=1, max_size=60), st.integers(1, 600))
def test_no_minute_sees_more_requests_than_the_limit(gaps: list[float], limit: int) -> None:
    pace, now, sent = Pace(limit, None), 0.0, []
    for gap in gaps:
        now += gap
        sent.append(now + pace.delay(1, now))
    for start in sent:
        assert sum(start <= moment < start + 59.999 for moment in sent) <= limit


def test_tokens_are_counted_and_what_was_not_needed_comes_back() -> None:
    pace = Pace(None, 6000)  # a hundred a second
    assert pace.delay(200, 0.0) == 0
    assert pace.delay(100, 0.0) == pytest.approx(2)
    pace.give_back(150)
    assert pace.delay(100, 0.0) == pytest.approx(1.5)


def test_a_pause_holds_everything() -> None:
    pace = Pace(None, None)
    assert pace.delay(1, 0.0) == 0
    pace.pause(7.0, 1.0)
    pace.pause(2.0, 1.0)  # a shorter one does not cut it short
    assert pace.delay(1, 3.0) == 5
    assert pace.delay(1, 9.0) == 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": formatdate(time.time() - 60, usegmt=True)}, 0),
    ],
)
def test_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_a_date_is_seconds_from_now() -> None:
    date = formatdate(time.time() + 30, usegmt=True)
    assert retry_after({"retry-after": date}) == pytest.approx(30, abs=2)


def test_backing_off_doubles_up_to_a_minute_and_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "FIRST_WAIT_S", 0.5)
    rng = random.Random(0)
    waits = [backoff(attempt, rng) for attempt in (0, 1, 2, 50)]
    assert 0.25 <= waits[0] <= 0.5 <= waits[1] <= 1.0 <= waits[2] <= 2.0
    assert LONGEST_BACKOFF_S / 2 <= waits[3] <= LONGEST_BACKOFF_S
    assert backoff(3, rng) != backoff(3, rng)

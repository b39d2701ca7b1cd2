"""When the next request may go: limits a minute, what a server asks for, and how long to back off.

Plain arithmetic on the seconds of one clock; `ChatClient` does the waiting.
"""

import email.utils
import math
import random
import time
from collections.abc import Mapping

LONGEST_WAIT_S = 600.0
"""A server that asks for a longer pause than this is not waited for."""

FIRST_WAIT_S = 0.5
LONGEST_BACKOFF_S = 60.0


class Bucket:
    """A limit a minute, spent evenly: no 60 seconds see more than it.

    Args:
        per_minute: The limit; None for none.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._per_second = None if per_minute is None else per_minute / 60
        self._free_at = 0.0

    def take(self, amount: float, now: float) -> float:
        """Take an amount out, and return how many seconds to wait before using it."""
        if self._per_second is None:
            return 0.0
        start = max(now, self._free_at)
        self._free_at = start + amount / self._per_second
        return start - now

    def give_back(self, amount: float) -> None:
        """Put back what was taken and not used."""
        if self._per_second is not None:
            self._free_at -= amount / self._per_second


class Pace:
    """When requests may go.

    Args:
        requests_per_minute: The endpoint's limit; None for none.
        tokens_per_minute: The same of tokens, of prompts and answers together.
    """

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self._requests = Bucket(requests_per_minute)
        self._tokens = Bucket(tokens_per_minute)
        self._not_before = 0.0

    def delay(self, tokens: int, now: float) -> float:
        """Seconds until a request that may need so many tokens can go."""
        pause = max(0.0, self._not_before - now)
        start = now + pause
        return pause + max(self._requests.take(1, start), self._tokens.take(tokens, start))

    def give_back(self, tokens: int) -> None:
        """Return tokens that a request was let through with and did not need."""
        self._tokens.give_back(tokens)

    def pause(self, seconds: float, now: float) -> None:
        """Let nothing go for a while: the server asked for it."""
        self._not_before = max(self._not_before, now + seconds)


def backoff(attempt: int, rng: random.Random) -> float:
    """Seconds to wait after the attempt-th failure (from 0): doubling, the upper half drawn."""
    longest = min(LONGEST_BACKOFF_S, FIRST_WAIT_S * 2.0 ** min(attempt, 30))
    return longest * rng.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """How long a server asks to be left alone, in seconds, 0 or more; None where it does not say.

    Source: RFC 9110, section 10.2.3 (seconds or a date), and OpenAI's ``retry-after-ms``.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())

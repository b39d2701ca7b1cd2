"""Money: what a request may cost, what it did cost, and a budget that is never exceeded.

Dollars are exact decimals. The worst a request can cost is reserved, in the journal, before it is
sent; the answer's entry puts the true cost in its place. A reservation without an answer (the
process was killed, the connection cut) counts as spent for ever.
"""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self

from inference.errors import ExpectedError
from inference.number_types import Fraction, NonNegative, checks_numbers

_MILLION = Decimal(10**6)
_OVERHEAD_TOKENS = 64
"""More than any chat template puts around two messages."""


class BudgetMet(ExpectedError):
    """No further request fits into the budget."""


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class Prices:
    """What an endpoint charges, in dollars a million tokens.

    Attributes:
        input: Tokens of prompts.
        cached_input: Tokens of prompts that the endpoint had in its cache; null: as `input`.
        output: Tokens of answers, hidden reasoning included.
        batch_share: The part of it that the Batch API charges, such as 0.5.
    """

    input: NonNegative = 0.0
    cached_input: NonNegative | None = None
    output: NonNegative = 0.0
    batch_share: Fraction = 1.0

    def __bool__(self) -> bool:
        return bool(self.input or self.cached_input or self.output)

    def batched(self) -> "Prices":
        """What the Batch API charges."""
        share = _exact(self.batch_share)
        cached = self.cached_input
        return Prices(
            input=float(_exact(self.input) * share),
            cached_input=None if cached is None else float(_exact(cached) * share),
            output=float(_exact(self.output) * share),
        )

    def cost(self, usage: "Usage") -> Decimal:
        """Dollars for an answer."""
        cached = self.input if self.cached_input is None else self.cached_input
        parts = [
            (usage.prompt - usage.cached, self.input),
            (usage.cached, cached),
            (usage.answer, self.output),
        ]
        return sum((tokens * _exact(price) for tokens, price in parts), Decimal()) / _MILLION

    def worst(self, prompt: int, answer: int) -> Decimal:
        """Dollars for at most so many tokens."""
        dearest = max(self.input, self.cached_input or 0.0)
        return (prompt * _exact(dearest) + answer * _exact(self.output)) / _MILLION


def _exact(price: float) -> Decimal:
    """The price as it was written down."""
    return Decimal(str(price))


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The tokens of one request.

    Attributes:
        prompt: Tokens read.
        cached: How many of those came from the endpoint's cache.
        answer: Tokens written.
    """

    prompt: int
    cached: int
    answer: int

    @classmethod
    def of(cls, said: Any) -> Self | None:
        """Read what an endpoint says; None where that makes no sense."""
        if not isinstance(said, Mapping):
            return None
        details = said.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
        counts = [said.get("prompt_tokens"), cached or 0, said.get("completion_tokens")]
        known = [count for count in counts if isinstance(count, int) and count >= 0]
        if len(known) < len(counts) or known[1] > known[0]:
            return None
        prompt, cached, answer = known
        # Some count hidden reasoning, which is paid for, in the total alone.
        total = said.get("total_tokens")
        hidden = total - prompt - answer if isinstance(total, int) else 0
        return cls(prompt=prompt, cached=cached, answer=answer + max(0, hidden))


def prompt_bound(body: Mapping[str, Any]) -> int:
    """The tokens that the prompt of a request cannot exceed.

    Every token of a byte-level vocabulary, or of one that falls back to bytes, stands for a byte at
    least; some tokenizers read the text in a compatible form (NFKC), which may be longer. A schema,
    or whatever else goes along, may be put into the prompt in other words: it counts twice.
    """
    texts = [str(message["content"]) for message in body["messages"]]
    others = json.dumps({name: value for name, value in body.items() if name != "messages"})
    return sum(map(_bytes, texts)) + 2 * len(others) + _OVERHEAD_TOKENS


def _bytes(text: str) -> int:
    forms = (text, unicodedata.normalize("NFKC", text))
    return max(len(form.encode("utf-8", "surrogatepass")) for form in forms)


class Ledger:
    """What a journal's entries say about money.

    Args:
        prices: Today's prices, for answers that were journaled without their cost.
        budget: Dollars that may be spent; None for no limit.
    """

    def __init__(self, prices: Prices, budget: Decimal | None) -> None:
        self._prices = prices
        self._budget = budget
        self._spent = Decimal()
        self._reserved = Decimal()
        self._open: dict[str, Decimal] = {}

    @property
    def limited(self) -> bool:
        """Whether there is a budget."""
        return self._budget is not None

    @property
    def spent(self) -> Decimal:
        """Dollars spent, the reservations of requests in flight, or lost in flight, included."""
        return self._spent + self._reserved

    def fits(self, dollars: Decimal) -> bool:
        """Whether so much more can be spent."""
        return self._budget is None or self.spent + dollars <= self._budget

    def reserved(self, request: str) -> Decimal | None:
        """What is set aside for a request in flight; None where nothing is."""
        return self._open.get(request)

    def apply(self, entry: Mapping[str, Any]) -> None:
        """Take note of an entry of the journal."""
        if "reserved" in entry:
            request, dollars = str(entry["reserved"]), Decimal(entry["dollars"])
            self._settle(request, self._open.get(request, Decimal()))  # sent before, and lost
            self._open[request] = dollars
            self._reserved += dollars
        elif "requests" in entry:
            for request, worst in entry["requests"].items():
                self.apply({"reserved": request, "dollars": worst})
        elif "freed" in entry:
            self._settle(str(entry["freed"]), Decimal(entry["dollars"]))
        elif "answer" in entry:
            self._settle(str(entry["request"]), self._cost(entry))

    def _settle(self, request: str, dollars: Decimal) -> None:
        self._reserved -= self._open.pop(request, Decimal())
        self._spent += dollars

    def _cost(self, entry: Mapping[str, Any]) -> Decimal:
        if "dollars" in entry:
            return Decimal(entry["dollars"])
        usage = entry.get("usage")
        return self._prices.cost(Usage(**usage)) if usage else Decimal()

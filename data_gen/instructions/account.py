"""What became of every caption of the instruction stage."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal
from typing import Any, Literal

from data_gen.records import Caption, EditTriplet
from inference.endpoints.history import History

Status = Literal["written", "rejected", "failed", "left"]


@dataclass(frozen=True, kw_only=True)
class Account:
    """The end of a run, in numbers.

    Attributes:
        triplets: What was written, sorted by id.
        reasons: Why answers, or captions, were rejected -> how many.
        captions: Caption id -> what became of it: ``written`` (at least one edit), ``rejected``,
            ``failed`` (no answer came) or ``left`` (not asked yet).
        spent: Dollars spent on this data set's answers so far.
    """

    triplets: Sequence[EditTriplet]
    reasons: Mapping[str, int]
    captions: Mapping[str, Status]
    spent: Decimal

    def summary(self, mix: Mapping[str, float]) -> str:
        """Say it in a few lines."""
        rejected = Counter(self.reasons)
        found = Counter(triplet.edit_type for triplet in self.triplets)
        statuses = Counter(self.captions.values())
        total, weights = max(1, found.total()), sum(mix.values())
        shares = ", ".join(
            f"{name} {found[name] / total:.1%} of {weight / weights:.1%}"
            for name, weight in sorted(mix.items())
        )
        lines = [
            f"{found.total()} triplets, {rejected.total()} rejected {dict(rejected)}",
            f"{len(self.captions)} captions: {dict(sorted(statuses.items()))}",
            f"edit types, of what was wanted: {shares}",
        ]
        if self.spent:
            lines.append(f"{dollars(self.spent)} spent so far")
        return "\n".join(f"instructions: {line}" for line in lines)


def dollars(amount: Decimal) -> str:
    """Write an amount of money, rounded up to a hundredth of a cent."""
    return f"${amount.quantize(Decimal('0.0001'), rounding=ROUND_UP)}"


def account(
    captions: Sequence[Caption],
    asked: Mapping[str, Mapping[str, str]],
    flagged: Mapping[str, str],
    history: History,
    *,
    failed: Mapping[str, str],
    judge: Callable[[Mapping[str, Any]], EditTriplet | str],
) -> Account:
    """Count.

    Args:
        captions: All captions.
        asked: Caption id -> edit type -> request id.
        flagged: Caption id -> why it was not asked for at all.
        history: The answers.
        failed: Request id -> why it got no answer in this run.
        judge: Makes an answer's entry a triplet, or says why not.
    """
    triplets: list[EditTriplet] = []
    reasons = Counter(flagged.values())
    statuses: dict[str, Status] = {}
    for caption in captions:
        requests = list(asked.get(caption.id, {}).values())
        entries = [history.answer(request) for request in requests]
        results = [judge(entry) for entry in entries if entry is not None]
        written = [result for result in results if isinstance(result, EditTriplet)]
        triplets += written
        reasons.update(result for result in results if isinstance(result, str))
        statuses[caption.id] = _status(
            written=bool(written),
            failed=any(request in failed for request in requests),
            rejected=caption.id in flagged or (bool(entries) and None not in entries),
        )
    return Account(
        triplets=sorted(triplets, key=lambda triplet: triplet.id),
        reasons=reasons,
        captions=statuses,
        spent=history.ledger.spent,
    )


def _status(*, written: bool, failed: bool, rejected: bool) -> Status:
    if written:
        return "written"
    if failed:
        return "failed"
    return "rejected" if rejected else "left"

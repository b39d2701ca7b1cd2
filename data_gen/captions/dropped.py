"""What was turned down and why: a count and a few examples of each reason."""

from collections import Counter
from typing import Any

_EXAMPLES = 3
_CHARACTERS = 200


class Dropped:
    """Counts what is turned down, by reason."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, list[dict[str, str]]] = {}

    def add(self, reason: str, number: int = 1, **example: str) -> None:
        """Count what is turned down for a reason.

        Args:
            reason: Why, from a short list.
            number: How many.
            example: One of them, by what each of its texts is; the first few are kept, shortened.
        """
        self.counts[reason] += number
        examples = self._examples.setdefault(reason, [])
        if example and len(examples) < _EXAMPLES:
            examples.append({name: text[:_CHARACTERS] for name, text in example.items()})

    def to_json(self) -> dict[str, Any]:
        """Reason -> its count and examples, the most frequent reason first."""
        return {
            reason: {"count": number, "examples": self._examples[reason]}
            for reason, number in self.counts.most_common()
        }

    def table(self) -> str:
        """One line a reason: the count, the reason, where it was first found."""
        lines = []
        for reason, number in self.counts.most_common():
            examples = self._examples[reason]
            where = examples[0].get("where") if examples else None
            lines.append(f"{number:>12,}  {reason}" + (f", first in {where}" if where else ""))
        return "\n".join(lines)

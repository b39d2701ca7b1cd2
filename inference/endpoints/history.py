"""What a journal of questions and answers says, indexed.

Everything that happens becomes an entry of the journal, and every entry is applied to the indices
here by the same code whether it is new or read again after a restart. Entries are:

    {"request": id, "caption", "edit_type", "answer", "rejected", "usage", "dollars"}
    {"reserved": id, "dollars"}       sent next; if nothing else follows it was lost, and is spent
    {"freed": id, "dollars"}          came to nothing, at that cost
    {"round": n, "plan": id}          all before this line decides what round n asks for
    {"form": name, "endpoint": id}    how this endpoint's answers are written down
    {"without": fields, "endpoint": id}    what this endpoint does not take in a request
    {"moderated": id, "flagged"}      what moderation said of a text
    {"batch": id, "requests": {id: dollars}}    reserved together, sent next
    {"batch": id, "starting": file}   started next; it may run from here on
    {"batch": id, "remote": id}       what the endpoint calls it
    {"batch": id, "ended": status, "lost"}      those without an answer are spent if lost
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from inference.endpoints.budget import Ledger
from inference.endpoints.config import ResponseFormat
from inference.endpoints.journal import Journal, NoJournal, SharedJournal


@contextmanager
def applied(path: Path, line: int) -> Iterator[None]:
    """Apply an entry that others may have written; what is wrong with it is said of its line.

    Raises:
        ValueError: It is no entry as above.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise ValueError(
            f"{path}, line {line}: no entry of a journal of answers, "
            f"{type(error).__name__}: {error}"
        ) from error


class History:
    """Read a journal, and append to it.

    Args:
        journal: The open journal.
        ledger: Keeps the money.

    Attributes:
        redact: Takes the endpoint's key out of an entry before it is written.
    """

    def __init__(self, journal: Journal | SharedJournal | NoJournal, ledger: Ledger) -> None:
        self.ledger = ledger
        self.verdicts: dict[str, str | None] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.redact: Callable[[Any], Any] = lambda entry: entry
        self._journal = journal
        self._answers: dict[str, tuple[int, Mapping[str, Any]]] = {}
        self._marks: dict[tuple[str, int], int] = {}
        self._without: dict[str, frozenset[str]] = {}
        self._forms: dict[str, ResponseFormat] = {}
        self._length = 0
        for entry in journal.entries():
            self._read(entry)

    @property
    def has_answers(self) -> bool:
        """Whether anything has been answered yet."""
        return bool(self._answers)

    def record(self, entry: Mapping[str, Any]) -> None:
        """Journal an entry and take note of it."""
        with self._alone():
            self._write(entry)

    def reserve(self, request: str, dollars: Decimal) -> bool:
        """Set the worst cost of a request aside; False where it does not fit into the budget."""
        with self._alone():
            if not self.ledger.fits(dollars):
                return False
            if self.ledger.limited:
                self._write({"reserved": request, "dollars": str(dollars)})
            return True

    def catch_up(self) -> None:
        """Take note of what other processes have written."""
        with self._alone():
            pass

    def answer(self, request: str, *, before: int | None = None) -> Mapping[str, Any] | None:
        """The entry of a question's answer; None where it has none, or none before that place."""
        place, entry = self._answers.get(request, (0, None))
        return None if before is not None and place >= before else entry

    def unanswered(self, requests: Iterable[str]) -> list[str]:
        """Those of the questions that have no answer."""
        return [request for request in requests if request not in self._answers]

    def mark(self, plan: str, number: int) -> int:
        """The place in the journal where a round of a plan began; it begins now if it had not."""
        if (plan, number) not in self._marks:
            self.record({"round": number, "plan": plan})
        return self._marks[plan, number]

    def form(self, endpoint: str) -> ResponseFormat | None:
        """How answers of an endpoint are written down, where that has been found out."""
        return self._forms.get(endpoint)

    def without(self, endpoint: str) -> frozenset[str]:
        """Fields of requests that an endpoint does not take, as far as that has been found out."""
        return self._without.get(endpoint, frozenset())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Know all that is written, and be the only one who writes."""
        with self._journal.alone() as others:
            for entry in others:
                self._read(entry)
            yield

    def _write(self, entry: Mapping[str, Any]) -> None:
        entry = self.redact(dict(entry))
        self._journal.append(entry)
        self._apply(entry)

    def _read(self, entry: Mapping[str, Any]) -> None:
        """Apply an entry of the file, which others may have written."""
        with applied(self._journal.path, self._length + 1):
            self._apply(entry)

    def _apply(self, entry: Mapping[str, Any]) -> None:
        if "answer" in entry:
            # The first answer stands: what was decided on it is not to change.
            self._answers.setdefault(str(entry["request"]), (self._length, entry))
        elif "round" in entry:
            self._marks.setdefault((entry["plan"], entry["round"]), self._length)
        elif "form" in entry:
            self._forms[entry["endpoint"]] = entry["form"]
        elif "without" in entry:
            found = self.without(entry["endpoint"])
            self._without[entry["endpoint"]] = found | frozenset(entry["without"])
        elif "moderated" in entry:
            self.verdicts[entry["moderated"]] = entry["flagged"]
        elif "batch" in entry:
            self.batches.setdefault(entry["batch"], {}).update(entry)
            self._end_batch(entry)
        self.ledger.apply(entry)
        self._length += 1

    def _end_batch(self, entry: Mapping[str, Any]) -> None:
        """Settle what a batch that has ended leaves open."""
        if "ended" in entry:
            for request in self.batches[entry["batch"]]["requests"]:
                if (dollars := self.ledger.reserved(request)) is not None:
                    cost = dollars if entry["lost"] else 0
                    self.ledger.apply({"freed": request, "dollars": cost})

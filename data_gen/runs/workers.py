"""Workers in other processes: who makes which unit, and what happens when one of them dies.

A worker loads its models once and makes one unit at a time. It may die at any moment, of a lost
machine or a full memory: it is replaced and its unit made again, by whoever is free. What a worker
*is* does not matter here; ``processes`` and ``ray_actors`` each have a kind of their own. The
process that runs the crew, the *driver*, makes all decisions.
"""

import pickle
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch

from data_gen.runs.receipts import Outcome, Receipt, Unit, failure
from inference.errors import ExpectedError
from inference.progress import ProgressBar

MAX_STARTS = 3
"""So many starts of one worker that fail in a row end the run."""
MAX_DEATHS = 3
"""A unit that has cost so many workers fails: it may well be what kills them."""

Made = Generator[Outcome | Receipt, None, None]
"""What comes of units: the outcome of each prompt as it is done, a receipt for each unit."""

Make = Callable[[Unit], Iterator[Outcome | Receipt]]
"""Makes a unit: yields the outcome of each prompt, and at the end the receipt."""

Start = Callable[[], Make]
"""Loads what units are made with. It can be pickled: it is called where the units are made."""


class WorkerError(ExpectedError):
    """Workers cannot be had, or cannot start."""


@dataclass(frozen=True)
class Ready:
    """The worker has loaded its models."""


@dataclass(frozen=True)
class Raised:
    """Starting, or making a unit, raised an error."""

    error: Exception

    @classmethod
    def portable(cls, error: Exception) -> "Raised":
        """Make one that reaches another process, with the traceback as a note."""
        error.add_note("".join(traceback.format_exception(error)))
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 (it was made in the line itself)
        except Exception:  # whatever a class's own constructor thinks of it
            return cls(RuntimeError(f"{type(error).__name__}: {error}"))
        return cls(error)


@dataclass(frozen=True)
class Died:
    """The worker is no more."""

    reason: str


Message = Ready | Outcome | Receipt | Raised | Died
"""What a worker says: one ``Ready``, then for each unit its outcomes and its receipt."""


class Worker(Protocol):
    """One process, here or elsewhere. It starts by itself."""

    def make(self, unit: Unit) -> None:
        """Begin a unit; its messages come by and by."""

    def end(self) -> None:
        """End the process, whatever it is doing."""


W = TypeVar("W", bound=Worker)


class Staff(Protocol[W]):
    """Where workers come from."""

    def hire(self, place: int) -> W:
        """Begin to start a worker, for the first time in this place or in the stead of another."""

    def listen(self, workers: Sequence[W]) -> Iterable[tuple[W, Message]]:
        """Wait until a worker says something; return what there is to hear, one message each."""


def messages(start: Start, threads: int, units: Iterable[Unit]) -> Iterator[Message]:
    """Be a worker: start, make the units as they come, and say so.

    Args:
        start: Loads the models.
        threads: Threads to compute with. On a CPU bytes may move by rounding with their number.
        units: What to make.
    """
    try:
        torch.set_num_threads(threads)
        make = start()
        yield Ready()
        for unit in units:
            yield from make(unit)
    except Exception as error:  # every error is the driver's to judge
        yield Raised.portable(error)


@dataclass
class _Place(Generic[W]):
    """One of the crew's places, and how it goes there.

    Attributes:
        number: Which one.
        worker: Who is in it now.
        ready: Whether that worker has started.
        failed_starts: Starts that failed in a row.
        unit: What is being made.
        heard: Outcomes that have come of that unit from this worker.
    """

    number: int
    worker: W
    ready: bool = False
    failed_starts: int = 0
    unit: Unit | None = None
    heard: int = 0


@dataclass
class Crew(Generic[W]):
    """Makes units with several workers.

    Attributes:
        staff: Where workers come from.
        size: How many work at a time, at most.
    """

    staff: Staff[W]
    size: int
    _places: list[_Place[W]] = field(default_factory=list, init=False)
    _todo: deque[Unit] = field(default_factory=deque, init=False)
    _told: Counter[str] = field(default_factory=Counter, init=False)
    _deaths: Counter[str] = field(default_factory=Counter, init=False)

    def work(self, units: Sequence[Unit]) -> Made:
        """Make the units, yielding outcomes and receipts in the order in which they come.

        Raises:
            WorkerError: A worker failed to start again and again.
            Exception: What a worker raised while making a unit.
        """
        self._todo.extend(units)
        try:
            for number in range(min(self.size, len(units))):
                self._places.append(_Place(number=number, worker=self.staff.hire(number)))
            while self._todo or any(place.unit for place in self._places):
                places = {id(place.worker): place for place in self._places}
                for worker, message in self.staff.listen([p.worker for p in self._places]):
                    yield from self._hear(places[id(worker)], message)
                self._hand_out()
        finally:
            for place in self._places:
                place.worker.end()

    def _hand_out(self) -> None:
        for place in self._places:
            if self._todo and place.ready and place.unit is None:
                place.unit, place.heard = self._todo.popleft(), 0
                place.worker.make(place.unit)

    def _hear(self, place: _Place[W], message: Message) -> Iterator[Outcome | Receipt]:
        match message:
            case Ready():
                place.ready, place.failed_starts = True, 0
            case Outcome():
                yield from self._news(place, message)
            case Receipt():
                place.unit = None
                yield message
                if message.failed and self._todo:  # a GPU lost once is lost for the process
                    self._replace(place, f"unit {message.unit} failed")
            case Raised(error) if place.ready:
                raise error
            case Raised(error):
                self._replace(place, f"{type(error).__name__}: {error}")
            case Died(reason):
                yield from self._mourn(place, reason)

    def _news(self, place: _Place[W], outcome: Outcome) -> Iterator[Outcome]:
        """Pass an outcome on, unless the unit is made again and it has been told before."""
        assert place.unit is not None
        place.heard += 1
        if place.heard > self._told[place.unit.name]:
            self._told[place.unit.name] += 1
            yield outcome

    def _mourn(self, place: _Place[W], reason: str) -> Iterator[Receipt]:
        """Give a dead worker's unit back, or give it up."""
        unit, place.unit = place.unit, None
        if unit is not None:
            self._deaths[unit.name] += 1
            if self._deaths[unit.name] == MAX_DEATHS:
                yield failure(unit, f"{MAX_DEATHS} workers died of it, the last: {reason}", {})
            else:
                self._todo.appendleft(unit)
        self._replace(place, reason)

    def _replace(self, place: _Place[W], reason: str) -> None:
        place.worker.end()
        if not place.ready:
            place.failed_starts += 1
        if place.failed_starts == MAX_STARTS:
            raise WorkerError(
                f"worker {place.number} failed to start {MAX_STARTS} times in a row, "
                f"at last of this: {reason}"
            )
        ProgressBar.write(f"worker {place.number} is replaced: {reason}", file=sys.stderr)
        place.worker, place.ready = self.staff.hire(place.number), False

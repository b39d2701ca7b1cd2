"""The crew: whoever dies is replaced, and every unit is made and told once."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from data_gen.records import EditTriplet
from data_gen.runs.receipts import Outcome, Receipt, Unit, failure, plan
from data_gen.runs.workers import (
    MAX_DEATHS,
    MAX_STARTS,
    Crew,
    Died,
    Message,
    Raised,
    Ready,
    WorkerError,
    messages,
)

PASSED = Outcome(status="passed", kept=1, reasons={})


def make(unit: Unit) -> Iterator[Outcome | Receipt]:
    """What a worker says of a unit."""
    for _ in unit.triplets:
        yield PASSED
    yield Receipt(
        unit=unit.name,
        fingerprint=unit.fingerprint,
        files={},
        prompts={triplet.id: PASSED for triplet in unit.triplets},
        seconds={},
        versions={},
    )


@dataclass(eq=False)
class Scripted:
    """A worker whose messages are known beforehand, but for the units it is given."""

    says: deque[Message]
    dies_at: int | None = None
    made: int = 0
    ended: bool = False

    def make(self, unit: Unit) -> None:
        found: list[Message] = list(make(unit))
        if self.made == self.dies_at:
            found = [*found[:1], Died("its machine was lost")]
        self.made += 1
        self.says.extend(found)

    def end(self) -> None:
        self.ended = True


@dataclass
class Agency:
    """Starts scripted workers in turn; the last script serves for all that follow."""

    scripts: Sequence[tuple[Message, int | None]]
    hired: list[Scripted] = field(default_factory=list)

    def hire(self, place: int) -> Scripted:
        first, dies_at = self.scripts[min(len(self.hired), len(self.scripts) - 1)]
        self.hired.append(Scripted(deque([first]), dies_at))
        return self.hired[-1]

    def listen(self, workers: Sequence[Scripted]) -> list[tuple[Scripted, Message]]:
        found = [(worker, worker.says.popleft()) for worker in workers if worker.says]
        assert found, "the crew waits for workers that have nothing to do"
        return found


@pytest.fixture
def units(triplets: list[EditTriplet]) -> list[Unit]:
    return plan(triplets, unit_size=3, recipe="test")


def work(agency: Agency, units: Sequence[Unit], size: int = 2) -> tuple[list[str], int]:
    """Names of the units whose receipt came, and the number of outcomes told."""
    made = list(Crew(staff=agency, size=size).work(units))
    receipts = [one.unit for one in made if isinstance(one, Receipt)]
    return sorted(receipts), len(made) - len(receipts)


ALL = ["00000", "00001", "00002", "00003"]


@pytest.mark.parametrize("size", [1, 2, 9])
def test_every_unit_is_made_once(units: list[Unit], size: int) -> None:
    agency = Agency([(Ready(), None)])
    assert work(agency, units, size) == (ALL, 10)
    assert len(agency.hired) == min(size, 4)
    assert all(worker.ended for worker in agency.hired)


@pytest.mark.parametrize("dies_at", [0, 1])
def test_who_dies_is_replaced_and_nothing_is_told_twice(units: list[Unit], dies_at: int) -> None:
    agency = Agency([(Ready(), None), (Ready(), dies_at), (Ready(), None)])
    assert work(agency, units) == (ALL, 10)
    assert len(agency.hired) == 3
    assert all(worker.ended for worker in agency.hired)


def test_a_unit_that_kills_all_its_workers_fails_and_the_rest_is_made(units: list[Unit]) -> None:
    agency = Agency([(Ready(), 0)] * MAX_DEATHS + [(Ready(), None)])
    made = [m for m in Crew(staff=agency, size=1).work(units) if isinstance(m, Receipt)]
    assert [(receipt.unit, receipt.failed) for receipt in made] == [
        ("00000", True),
        ("00001", False),
        ("00002", False),
        ("00003", False),
    ]
    (reason,) = made[0].prompts[units[0].triplets[0].id].reasons
    assert "3 workers died of it, the last: its machine was lost" in reason


def test_who_failed_a_unit_makes_no_other(units: list[Unit]) -> None:
    agency = Agency([(Ready(), None)])
    crew = Crew(staff=agency, size=1).work(units)
    next(crew)
    says = agency.hired[0].says
    says.clear()
    says.append(failure(units[0], "CUDA error: device-side assert triggered", {}))
    receipts = [made for made in crew if isinstance(made, Receipt)]
    assert [receipt.failed for receipt in receipts] == [True, False, False, False]
    assert [worker.made for worker in agency.hired] == [1, 3]


def test_starts_that_fail_now_and_then_are_forgiven(units: list[Unit]) -> None:
    failing: list[tuple[Message, int | None]] = [
        (Raised(FileNotFoundError("no model here")), None),
        (Died("full memory"), None),
    ]
    agency = Agency([*failing, (Ready(), 0), *failing, (Ready(), None)])
    assert work(agency, units, 1) == (ALL, 10)


def test_starts_that_fail_again_and_again_end_the_run_with_the_reason(units: list[Unit]) -> None:
    agency = Agency([(Raised(FileNotFoundError("no model here")), None)])
    with pytest.raises(WorkerError, match=r"3 times in a row.*FileNotFoundError: no model here"):
        work(agency, units, 1)
    assert len(agency.hired) == MAX_STARTS
    assert all(worker.ended for worker in agency.hired)


def test_what_a_unit_raises_ends_the_run(units: list[Unit]) -> None:
    agency = Agency([(Ready(), None)])
    crew = Crew(staff=agency, size=1).work(units)
    next(crew)
    agency.hired[0].says.appendleft(Raised(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        list(crew)
    assert agency.hired[0].ended


class Unsendable(Exception):
    """Its pickle does not come back: the constructor wants a keyword."""

    def __init__(self, *, what: str) -> None:
        super().__init__(f"no {what}")


def test_a_worker_says_what_it_raised_and_where() -> None:
    def start() -> None:
        raise Unsendable(what="luck")

    (said,) = messages(start, 1, [])  # type: ignore[arg-type]
    assert isinstance(said, Raised)
    assert isinstance(said.error, RuntimeError)
    assert str(said.error) == "Unsendable: no luck"
    (sent,) = messages(lambda: int("x"), 1, [])  # type: ignore[arg-type,return-value]
    assert isinstance(sent, Raised)
    assert type(sent.error) is ValueError
    assert 'int("x")' in sent.error.__notes__[0]

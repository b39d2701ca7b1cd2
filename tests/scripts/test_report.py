"""The report's verdicts say what its table says, above all where the editor loses."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from inference.shapes.captions import parse
from inference.shapes.domain import Domain
from inference.shapes.evaluation import Outcome

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(name="report")
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import report_editors

    return report_editors


def outcomes(errors: Sequence[float], right: int = 0) -> list[Outcome]:
    return [
        Outcome(right=n < right, reason="", error=error, error_elsewhere=0.0)
        for n, error in enumerate(errors)
    ]


def around(mean: float) -> list[float]:
    return [mean + 0.001 * (n % 5 - 2) for n in range(20)]


@pytest.fixture(name="comparison")
def fixture(report: ModuleType):
    """`comparison({contestant: [(errors, number right)] * 2})`, of recolour and background."""

    def make(columns):
        parts = [
            report.Part(edit_type=kind, scenes=report.LIKE_DATA, trials=())
            for kind in ("recolour", "background")
        ]
        contestants = [
            report.Contestant(name=name, outputs=(), outcomes=[outcomes(*each) for each in rows])
            for name, rows in columns.items()
        ]
        return parts, contestants

    return make


def test_an_editor_that_loses_in_one_type_is_said_to(report: ModuleType, comparison) -> None:
    """In the mean of both types it beats copying, by far; in recolouring it does not."""
    parts, contestants = comparison(
        {
            report.COPY: [(around(0.040),), (around(0.770),)],
            report.BEFORE: [(around(0.640),), (around(0.650),)],
            report.OURS: [(around(0.230), 1), (around(0.090), 3)],
        }
    )
    recolour, background = report.verdicts(parts, contestants)
    assert not recolour.won
    assert "worse than “copy the input” (error 0.230 against 0.040" in recolour.text
    assert "better than “before training” (error 0.230 against 0.640" in recolour.text
    assert background.won
    assert report.headline([recolour, background]) == (
        "This run beats all others in background, but not in recolour."
    )
    assert "not beat all others in any" in report.headline([recolour])
    assert "beats all others in every" in report.headline([background])


def test_a_difference_within_chance_is_no_win(report: ModuleType, comparison) -> None:
    scattered = [0.05 + 0.04 * (-1) ** n for n in range(20)]
    others = [0.05 - 0.04 * (-1) ** n + 0.001 for n in range(20)]
    parts, contestants = comparison(
        {
            report.COPY: [(scattered,), (scattered,)],
            report.OURS: [(others, 9), (scattered, 9)],
        }
    )
    for verdict in report.verdicts(parts, contestants):
        assert not verdict.won
        assert "not to be told from" in verdict.text


def test_closer_but_less_often_right_is_no_win(report: ModuleType, comparison) -> None:
    parts, contestants = comparison(
        {
            report.BEFORE: [(around(0.05), 9), (around(0.05), 9)],
            report.OURS: [(around(0.04), 5), (around(0.04), 9)],
        }
    )
    assert [verdict.won for verdict in report.verdicts(parts, contestants)] == [False, True]


def test_the_least_error_is_marked_in_the_table(report: ModuleType, comparison) -> None:
    parts, contestants = comparison(
        {report.COPY: [(around(0.1),), (around(0.3),)], report.OURS: [(around(0.2), 5)] * 2}
    )
    rows = report.table(parts, contestants)
    assert [[cell["best"] for cell in row["cells"]] for row in rows] == [
        [True, False],
        [False, True],
    ]
    assert rows[0]["cells"][1]["right"] == "5 of 20"
    assert rows[0]["cells"][1]["interval"] == "11 to 47 %"


def test_trials_are_like_the_data_or_never_seen(report: ModuleType) -> None:
    captions = ["a small red star in the middle on a blue background"]
    captions += ["a large blue circle at the top on a red background"]
    domain = Domain.of(captions)
    assert all(domain.holds(parse(caption)) for caption in captions)
    parts = report.draw_parts(["move", "resize"], domain, 4)
    assert [(part.edit_type, part.scenes, len(part.trials)) for part in parts] == [
        ("move", report.LIKE_DATA, 4),
        ("move", report.NEVER_SEEN, 2),
        ("resize", report.LIKE_DATA, 4),
        ("resize", report.NEVER_SEEN, 2),
    ]
    for part in parts:
        for trial in part.trials:
            assert domain.holds(trial.before) == (part.scenes == report.LIKE_DATA)
    removes = report.draw_parts(["remove"], domain, 4)  # of the only figure
    assert [part.scenes for part in removes] == [report.NEVER_SEEN]

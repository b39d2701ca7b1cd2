"""How good an editor has become: measured against copying and against what it was trained from.

Every edit type is measured twice: on scenes like those that were trained on, and on scenes that
show something the data set never had. A verdict is computed from the outcomes that the table shows.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from report_pictures import data_uri

from inference.backbone import Backbone
from inference.editors.instruct import Instruct
from inference.shapes.domain import Domain
from inference.shapes.edits import EditType
from inference.shapes.evaluation import (
    Outcome,
    Trial,
    carried_out,
    draw_trials,
    measure,
    summarise,
)
from inference.shapes.render import Field, render

COPY: Final = "copy the input"
BEFORE: Final = "before training"
OURS: Final = "this run"
LIKE_DATA: Final = "like the data"
NEVER_SEEN: Final = "never seen"

Comparison = Literal["better than", "worse than", "not to be told from"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Trials of one edit type, from within the data set's domain or from outside it."""

    edit_type: EditType
    scenes: str
    trials: Sequence[Trial]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One column of the comparison: its outputs, (64, 64, 3) in [0, 1], and how good they are."""

    name: str
    outputs: Sequence[Sequence[Field]]
    outcomes: Sequence[Sequence[Outcome]]
    """Part by part, trial by trial."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a row of the table says of this run.

    Attributes:
        won: Better than all others.
        text: One sentence.
    """

    edit_type: str
    won: bool
    text: str


def draw_parts(kinds: Sequence[EditType], domain: Domain, trials: int) -> list[Part]:
    """Draw trials of each type: `trials` within a data set's domain, half as many outside it."""
    parts = []
    for kind in kinds:
        for scenes, count, wanted in (
            (LIKE_DATA, trials, _within(domain)),
            (NEVER_SEEN, max(1, trials // 2), lambda trial: not domain.holds(trial.before)),
        ):
            try:
                drawn = draw_trials([kind], count, wanted=wanted)
            except ValueError:  # the domain holds all scenes, or none of this type
                continue
            parts.append(Part(edit_type=kind, scenes=scenes, trials=drawn))
    return parts


def _within(domain: Domain) -> Callable[[Trial], bool]:
    return lambda trial: domain.holds(trial.before) and domain.holds(trial.expected)


def copying(parts: Sequence[Part]) -> Contestant:
    """The contestant that does nothing."""
    return _measured(COPY, parts, [[render(t.before) for t in part.trials] for part in parts])


def edited_by(name: str, backbone: Backbone, parts: Sequence[Part], steps: int) -> Contestant:
    """What an editor makes of all trials."""
    editor = Instruct(backbone=backbone, batch_size=32, steps=steps, progress=True)
    pictures = iter(carried_out(editor, [trial for part in parts for trial in part.trials]))
    return _measured(name, parts, [[next(pictures) for _ in part.trials] for part in parts])


def _measured(name: str, parts: Sequence[Part], outputs: Sequence[Sequence[Field]]) -> Contestant:
    outcomes = [
        [measure(trial, output) for trial, output in zip(part.trials, made, strict=True)]
        for part, made in zip(parts, outputs, strict=True)
    ]
    return Contestant(name=name, outputs=outputs, outcomes=outcomes)


# --- the table and what it says ------------------------------------------------------------------


def table(parts: Sequence[Part], contestants: Sequence[Contestant]) -> list[dict[str, Any]]:
    """A row a part: how often each contestant is right, and how far off it is."""
    rows = []
    for number, part in enumerate(parts):
        summaries = [summarise(one.outcomes[number]) for one in contestants]
        least = min(summary.error for summary in summaries)
        cells = [
            {
                "name": one.name,
                "right": f"{round(summary.accuracy * summary.count)} of {summary.count}",
                "interval": "{:.0f} to {:.0f} %".format(*(100 * end for end in summary.interval)),
                "error": f"{summary.error:.3f}",
                "best": summary.error == least,
            }
            for one, summary in zip(contestants, summaries, strict=True)
        ]
        rows.append({"edit_type": part.edit_type, "scenes": part.scenes, "cells": cells})
    return rows


def compare(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> Comparison:
    """Compare two contestants on the same trials, by the 95 % interval of the mean difference."""
    differences = [a.error - b.error for a, b in zip(ours, theirs, strict=True)]
    mean = sum(differences) / len(differences)
    variance = sum((each - mean) ** 2 for each in differences) / max(1, len(differences) - 1)
    spread = 1.96 * math.sqrt(variance / len(differences))
    if mean + spread < 0:
        return "better than"
    return "worse than" if mean - spread > 0 else "not to be told from"


def verdicts(parts: Sequence[Part], contestants: Sequence[Contestant]) -> Iterator[Verdict]:
    """What the table says of this run: a sentence for each edit type, on scenes like the data."""
    ours = next(one for one in contestants if one.name == OURS)
    others = [one for one in contestants if one is not ours]
    for number, part in enumerate(parts):
        if part.scenes != LIKE_DATA:
            continue
        mine = summarise(ours.outcomes[number])
        said, won = [], True
        for other in others:
            found = compare(ours.outcomes[number], other.outcomes[number])
            theirs = summarise(other.outcomes[number])
            won = won and found == "better than" and mine.accuracy >= theirs.accuracy
            said.append(
                f"{found} “{other.name}” (error {mine.error:.3f} against {theirs.error:.3f}, "
                f"exactly right {mine.accuracy:.0%} against {theirs.accuracy:.0%})"
            )
        text = f"{part.edit_type}: {' and '.join(said)}."
        yield Verdict(edit_type=part.edit_type, won=won, text=text)


def headline(found: Sequence[Verdict]) -> str:
    """All verdicts in one sentence."""
    won = [one.edit_type for one in found if one.won]
    lost = [one.edit_type for one in found if not one.won]
    if not lost:
        return f"This run beats all others in every edit type of its data: {', '.join(won)}."
    if not won:
        return f"This run does not beat all others in any edit type: {', '.join(lost)}."
    return f"This run beats all others in {', '.join(won)}, but not in {', '.join(lost)}."


def examples(
    parts: Sequence[Part], contestants: Sequence[Contestant], count: int
) -> list[dict[str, Any]]:
    """The first trials of each part, right or wrong, as they come: nothing is picked."""
    editors = [one for one in contestants if one.name != COPY]
    rows = []
    for number, part in enumerate(parts):
        for n, trial in enumerate(part.trials[:count]):
            rows.append(
                {
                    "instruction": trial.instruction,
                    "edit_type": part.edit_type,
                    "scenes": part.scenes,
                    "input": data_uri(render(trial.before)),
                    "expected": data_uri(render(trial.expected)),
                    "outputs": [
                        {
                            "name": one.name,
                            "image": data_uri(one.outputs[number][n]),
                            "right": one.outcomes[number][n].right,
                            "reason": one.outcomes[number][n].reason,
                        }
                        for one in editors
                    ],
                }
            )
    return rows

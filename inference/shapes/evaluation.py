"""Held-out edits of the shapes world, and how well an editor carries them out.

Whether an output is right is read off the picture (see `judging`); how far it is from right is its
distance to the picture that a perfect editor would have made.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inference.editors.editor import Editor, EditRequest
from inference.images import from_numpy
from inference.proportions import wilson_interval
from inference.shapes.captions import describe
from inference.shapes.edits import EditType, Inapplicable, edit_scene, propose
from inference.shapes.judging import judge_edit
from inference.shapes.phrasings import instruction
from inference.shapes.render import Field, render
from inference.shapes.scene import Scene, random_scene

EVALUATION_SEED: Final = 2_000_000
"""Scenes drawn from this seed on are for measuring editors; nothing is trained or tuned on them."""
DRAWS: Final = 10_000
"""Trials that are drawn in search of one that is wanted."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One edit to measure an editor by: a scene, an instruction, and the scene asked for."""

    before: Scene
    instruction: str
    edit_type: EditType
    expected: Scene


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one output compares with what was asked.

    Attributes:
        right: It reads back as the scene asked for, all else unchanged.
        reason: Why it is not right, in a few words; empty where it is.
        error: Mean absolute distance to the expected picture, on [-1, 1].
        error_elsewhere: The same, over the pixels that the edit leaves as they were.
    """

    right: bool
    reason: str
    error: float
    error_elsewhere: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Outcomes of one kind put together; `interval` is the 95 % Wilson interval of `accuracy`."""

    count: int
    accuracy: float
    interval: tuple[float, float]
    error: float
    error_elsewhere: float


def draw_trials(
    kinds: Sequence[EditType],
    per_kind: int,
    *,
    seed: int = EVALUATION_SEED,
    held_out_phrasings: bool = False,
    wanted: Callable[[Trial], bool] | None = None,
) -> tuple[Trial, ...]:
    """Draw edits that no model has seen; trial i of a kind is a function of (seed, kind, i).

    Args:
        kinds: Edit types.
        per_kind: How many of each.
        seed: Of the scenes.
        held_out_phrasings: Ask in words that no model was trained on.
        wanted: Which trials to take; the others are drawn again.

    Raises:
        ValueError: Not one of many trials of a kind is wanted.
    """
    return tuple(
        _draw_trial(kind, random.Random(f"trial/{seed}/{kind}/{index}"), held_out_phrasings, wanted)
        for kind in kinds
        for index in range(per_kind)
    )


def _draw_trial(
    kind: EditType,
    rng: random.Random,
    held_out_phrasings: bool,
    wanted: Callable[[Trial], bool] | None,
) -> Trial:
    figures = 1 if kind == "add" else 2 if kind == "remove" else None
    for _ in range(DRAWS):
        before = random_scene(rng, figures=figures)
        description = describe(before, rng, detail=1.0)
        edit = propose(description, kind, rng)
        if edit is None:
            continue
        try:
            expected = edit_scene(edit, before)
        except Inapplicable:
            continue
        text = instruction(edit, description, rng, held_out=held_out_phrasings)
        trial = Trial(before=before, instruction=text, edit_type=kind, expected=expected)
        if wanted is None or wanted(trial):
            return trial
    raise ValueError(f"none of {DRAWS:,} {kind} edits is as wanted")


def measure(trial: Trial, output: NDArray[np.float32]) -> Outcome:
    """Compare an editor's output with what was asked.

    Args:
        trial: The edit.
        output: The edited picture, (H, W, 3) in [0, 1].
    """
    size = output.shape[0]
    before, expected = render(trial.before, size), render(trial.expected, size)
    distance = 2 * np.abs(output - expected).mean(axis=-1)
    unchanged = np.abs(before - expected).max(axis=-1) == 0
    verdict = judge_edit(trial.before, trial.instruction, output)
    return Outcome(
        right=verdict.right,
        reason=verdict.reason,
        error=float(distance.mean()),
        error_elsewhere=float(distance[unchanged].mean()) if unchanged.any() else 0.0,
    )


def carried_out(editor: Editor, trials: Sequence[Trial]) -> list[Field]:
    """What an editor makes of trials, (64, 64, 3) in [0, 1] each; a seed is a place among them."""
    requests = [
        EditRequest(
            image=from_numpy(render(trial.before)), instruction=trial.instruction, seed=number
        )
        for number, trial in enumerate(trials)
    ]
    return [(image.permute(1, 2, 0).numpy() + 1) / 2 for image in editor.edit(requests)]


def summarise(outcomes: Iterable[Outcome]) -> Summary:
    """Put outcomes together.

    Raises:
        ValueError: There are none.
    """
    rows = list(outcomes)
    if not rows:
        raise ValueError("there are no outcomes to summarise")
    right = sum(row.right for row in rows)
    return Summary(
        count=len(rows),
        accuracy=right / len(rows),
        interval=wilson_interval(right, len(rows)),
        error=sum(row.error for row in rows) / len(rows),
        error_elsewhere=sum(row.error_elsewhere for row in rows) / len(rows),
    )

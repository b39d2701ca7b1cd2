"""The pictures of `stats`: survival by stage, reasons, scores by edit type, and what p does.

`draw` writes them as PNG; `panels` gives them one by one, for a page that wraps on a small screen.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import matplotlib
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_gen.shards.members import SCORES
from data_gen.survey.fates import Fate, fate, recipe_key
from inference.files import written_atomically

_KEPT, _SOFT = "#3451d1", "#98a2b3"
_COLOURS: Final[Mapping[Fate, str]] = {
    "kept": _KEPT,
    "outranked": "#9aa7e8",
    "turned down": "#d97706",
}
_STAGES: Final = {
    "asked": ("answers asked for", "#e4e7ec"),
    "triplets": ("triplets", "#c3cbdb"),
    "prompts": ("prompts rendered", "#8ea2ff"),
    "survived": ("prompts with a pair kept", _KEPT),
}
_TYPES_SHOWN: Final = 12
_REASONS_SHOWN: Final = 15
_BINS: Final = 12
SHARE_KEPT: Final = "share kept"
_FEWEST: Final = 5
"""Candidates that a bin of p needs to have a mean worth drawing."""
_THRESHOLD: Final = re.compile(r"(\w+) [<>] (-?[\d.]+)")


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Candidates as columns of N values each.

    Attributes:
        columns: ``p`` and each score that was computed -> values, nan where it is missing.
        kinds: Edit types.
        fates: What became of each.
        cuts: Score -> the threshold that turned some down.
    """

    columns: Mapping[str, Any]
    kinds: Any
    fates: Any
    cuts: Mapping[str, float]

    @classmethod
    def of(cls, candidates: "pa.Table", reasons: Counter[str]) -> Self:
        """Read the columns of `units.CANDIDATE_SCHEMA`."""
        columns = {name: _values(candidates, name) for name in ("p", *SCORES)}
        return cls(
            columns={
                name: values
                for name, values in columns.items()
                if name == "p" or np.isfinite(values).any()
            },
            kinds=np.array(
                [kind or "unknown" for kind in candidates["edit_type"].to_pylist()], object
            ),
            fates=np.array([fate(reason) for reason in candidates["reason"].to_pylist()], object),
            cuts={m[1]: float(m[2]) for r in reasons if (m := _THRESHOLD.fullmatch(r))},
        )

    @property
    def scores(self) -> list[str]:
        """The scores that there are."""
        return [name for name in self.columns if name != "p"]

    @property
    def varies_p(self) -> bool:
        """Whether there is more than one p."""
        p = self.columns["p"]
        return np.unique(p[np.isfinite(p)]).size > 1


# Edit types and reasons are shown as they are: dollars are no mathematics.
@matplotlib.rc_context({"text.parse_math": False})
def draw(
    candidates: "pa.Table",
    stages: Mapping[str, Counter[str]],
    reasons: Counter[str],
    edit_types: Sequence[str],
    output: Path,
) -> list[Path]:
    """Draw what there is to draw.

    Args:
        candidates: Every candidate, the columns of `units.CANDIDATE_SCHEMA`.
        stages: Stage -> edit type -> how many; see `stats.Survey`.
        reasons: Why candidates were not kept -> how many.
        edit_types: The edit types, the most frequent first.
        output: Folder for the pictures.

    Returns:
        The files written.
    """
    kinds = list(edit_types[:_TYPES_SHOWN])
    scored = Scored.of(candidates, reasons)
    figures = {"survival.png": _survival(stages, kinds)}
    if reasons:
        figures["reasons.png"] = _reasons(reasons)
    if scored.scores:
        figures["scores.png"] = _scores(scored, scored.scores, kinds)
    if scored.scores and scored.varies_p:
        figures["p.png"] = _of_p(scored, [*scored.scores, SHARE_KEPT], kinds)
    for name, figure in figures.items():
        with written_atomically(output / name) as temporary:
            figure.savefig(temporary, format="png", dpi=144)
    return [output / name for name in figures]


@matplotlib.rc_context({"text.parse_math": False})
def panels(
    candidates: "pa.Table", reasons: Counter[str], edit_types: Sequence[str]
) -> Iterator[tuple[str, Figure]]:
    """The histogram of each score, and each score against p, with what it shows in words."""
    kinds = list(edit_types[:_TYPES_SHOWN])
    scored = Scored.of(candidates, reasons)
    for score in scored.scores:
        said = f"{score}: histograms by edit type of kept, outranked and turned down candidates"
        if score in scored.cuts:
            said += f"; the threshold is {scored.cuts[score]:g}"
        yield said, _scores(scored, [score], kinds)
    if scored.scores and scored.varies_p:
        for name in (*scored.scores, SHARE_KEPT):
            yield (
                f"{name} against p, mean and 95 % interval, by edit type",
                _of_p(scored, [name], kinds),
            )


def _values(candidates: "pa.Table", name: str) -> Any:
    return candidates[name].cast(pa.float64()).to_numpy().astype(float)


def _survival(stages: Mapping[str, Counter[str]], kinds: Sequence[str]) -> Figure:
    """Bars within bars: what of each type was asked for, and what came through each stage."""
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(kinds)), layout="constrained")
    axes = figure.subplots()
    shown = [stage for stage in _STAGES if stages[stage]]
    for place, stage in enumerate(shown):
        label, colour = _STAGES[stage]
        counts = [stages[stage][kind] for kind in kinds]
        axes.barh(kinds, counts, height=0.84 - 0.16 * place, color=colour, label=label)
    for row, kind in enumerate(kinds):
        if stages["prompts"][kind]:
            share = stages["survived"][kind] / stages["prompts"][kind]
            end = max(stages[stage][kind] for stage in shown)
            axes.annotate(
                f"{share:.0%}", (end, row), (5, 0), textcoords="offset points", va="center"
            )
    axes.invert_yaxis()
    _plain(axes, "prompts; the share of those rendered that survived", "")
    axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.45, 1))
    return figure


def _reasons(reasons: Counter[str]) -> Figure:
    shown = reasons.most_common(_REASONS_SHOWN)
    figure = Figure(figsize=(8, 1 + 0.44 * len(shown)), layout="constrained")
    axes = figure.subplots()
    labels = [_labelled(why) for why, _ in shown]
    colours = [_COLOURS[fate(why)] for why, _ in shown]
    bars = axes.barh(range(len(shown)), [count for _, count in shown], color=colours)
    axes.set_yticks(range(len(shown)), labels)
    axes.bar_label(bars, fmt="{:,.0f}", padding=4)
    axes.invert_yaxis()
    _plain(axes, "candidates not kept", "")
    return figure


def _labelled(reason: str) -> str:
    """A reason, and the recipe's key that decides so."""
    key = recipe_key(reason)
    return _short(reason) + (f"\n{key}" if key else "")


def _short(text: str) -> str:
    return text if len(text) < 60 else text[:57] + "..."


def _scores(scored: Scored, scores: Sequence[str], kinds: Sequence[str]) -> Figure:
    """A histogram a score (columns) and edit type (rows), by what became of the candidates."""
    size = (max(3.6, 2.6 * len(scores)), 1.1 + 1.15 * len(kinds))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(kinds), len(scores), sharex="col", squeeze=False)
    for column, score in enumerate(scores):
        values = scored.columns[score]
        finite = values[np.isfinite(values)]
        low, high = np.quantile(finite, [0.002, 0.998])
        bins = np.linspace(low, max(high, low + 1e-6), 33)
        for row, kind in enumerate(kinds):
            axes, mine = grid[row][column], (scored.kinds == kind) & np.isfinite(values)
            inside = values.clip(bins[0], bins[-1])
            parts = [inside[mine & (scored.fates == name)] for name in _COLOURS]
            axes.hist(
                parts, bins, stacked=True, color=list(_COLOURS.values()), label=list(_COLOURS)
            )
            if score in scored.cuts:
                axes.axvline(scored.cuts[score], color=_SOFT, linestyle="--", label="threshold")
            _plain(axes, score if row == len(kinds) - 1 else "", kind if column == 0 else "")
            axes.set_yticks([])
    handles = dict(zip(*reversed(grid[0][0].get_legend_handles_labels()), strict=True))
    for axes in grid.flat:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    columns = 4 if len(scores) > 1 else 2
    figure.legend(
        handles.values(), handles, loc="outside upper center", ncols=columns, frameon=False
    )
    return figure


def _of_p(scored: Scored, names: Sequence[str], kinds: Sequence[str]) -> Figure:
    """Means over bins of p with 95 % intervals, of each score and of what was kept, by type.

    There is no line for all types: recipes give types different ranges of p.
    """
    p = scored.columns["p"]
    edges = np.linspace(np.nanmin(p), np.nanmax(p), _BINS + 1)
    bins = np.digitize(p, edges[1:-1])
    values_of = {**scored.columns, SHARE_KEPT: (scored.fates == "kept").astype(float)}
    figure = Figure(figsize=(max(3.6, 3.2 * len(names)), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False).flat, names, strict=True):
        values = values_of[name]
        for kind in kinds:
            mine = np.isfinite(p) & np.isfinite(values) & (scored.kinds == kind)
            means, errors = _means([values[mine & (bins == place)] for place in range(_BINS)])
            centres = (edges[1:] + edges[:-1]) / 2
            axes.plot(centres, means, label=kind, marker=".")
            axes.fill_between(centres, means - 1.96 * errors, means + 1.96 * errors, alpha=0.12)
        _plain(axes, "p", "")
        axes.set_title(name, fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(handles, labels, loc="outside right upper", frameon=False)
    else:
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _means(groups: Sequence[Any]) -> tuple[Any, Any]:
    """Mean and standard error of each group, nan where it is too small."""
    enough = [len(group) >= _FEWEST for group in groups]
    pairs = [
        (group.mean(), group.std() / np.sqrt(len(group))) if many else (np.nan, np.nan)
        for group, many in zip(groups, enough, strict=True)
    ]
    means, errors = zip(*pairs, strict=True)
    return np.array(means), np.array(errors)


def _plain(axes: Axes, x: str, y: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(x)
    axes.set_ylabel(y, rotation=0, ha="right", va="center")

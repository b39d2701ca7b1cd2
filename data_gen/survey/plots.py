"""The pictures of `stats`: survival by stage, reasons, scores by edit type, and what p does."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_gen.shards.members import SCORES
from inference.files import written_atomically

_KEPT, _NOT, _SOFT = "#3451d1", "#d97706", "#98a2b3"
_STAGES: Final = {
    "asked": ("answers asked for", "#e4e7ec"),
    "triplets": ("triplets", "#c3cbdb"),
    "prompts": ("prompts rendered", "#8ea2ff"),
    "survived": ("prompts with a pair kept", _KEPT),
}
_TYPES_SHOWN: Final = 12
_REASONS_SHOWN: Final = 15
_BINS: Final = 12
_FEWEST: Final = 5
"""Candidates that a bin of p needs to have a mean worth drawing."""
_THRESHOLD: Final = re.compile(r"(\w+) [<>] (-?[\d.]+)")


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
    columns = {name: _values(candidates, name) for name in ("p", *SCORES)}
    kept = candidates["reason"].is_null().to_numpy().astype(bool)
    of_kind = np.array([kind or "unknown" for kind in candidates["edit_type"].to_pylist()], object)
    scores = [name for name in SCORES if np.isfinite(columns[name]).any()]
    figures = {"survival.png": _survival(stages, kinds)}
    if reasons:
        figures["reasons.png"] = _reasons(reasons)
    if scores:
        cuts = {match[1]: float(match[2]) for r in reasons if (match := _THRESHOLD.fullmatch(r))}
        figures["scores.png"] = _scores(columns, scores, of_kind, kinds, kept, cuts)
    if scores and np.unique(columns["p"][np.isfinite(columns["p"])]).size > 1:
        figures["p.png"] = _of_p(columns, scores, of_kind, kinds, kept)
    for name, figure in figures.items():
        with written_atomically(output / name) as temporary:
            figure.savefig(temporary, format="png", dpi=144)
    return [output / name for name in figures]


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
    figure = Figure(figsize=(8, 1 + 0.34 * len(shown)), layout="constrained")
    axes = figure.subplots()
    labels = [_short(why) for why, _ in shown]
    bars = axes.barh(range(len(shown)), [count for _, count in shown], color=_NOT)
    axes.set_yticks(range(len(shown)), labels)
    axes.bar_label(bars, fmt="{:,.0f}", padding=4)
    axes.invert_yaxis()
    _plain(axes, "candidates not kept", "")
    return figure


def _short(text: str) -> str:
    return text if len(text) < 60 else text[:57] + "..."


def _scores(
    columns: Mapping[str, Any],
    scores: Sequence[str],
    of_kind: Any,
    kinds: Sequence[str],
    kept: Any,
    cuts: Mapping[str, float],
) -> Figure:
    """A histogram a score (columns) and edit type (rows): kept against not kept."""
    figure = Figure(figsize=(2.6 * len(scores), 0.8 + 1.15 * len(kinds)), layout="constrained")
    grid = figure.subplots(len(kinds), len(scores), sharex="col", squeeze=False)
    for column, score in enumerate(scores):
        values = columns[score]
        finite = values[np.isfinite(values)]
        low, high = np.quantile(finite, [0.002, 0.998])
        bins = np.linspace(low, max(high, low + 1e-6), 33)
        for row, kind in enumerate(kinds):
            axes, mine = grid[row][column], of_kind == kind
            inside = values.clip(bins[0], bins[-1])
            parts = [inside[mine & kept], inside[mine & ~kept]]
            axes.hist(parts, bins, stacked=True, color=[_KEPT, _NOT], label=["kept", "not kept"])
            if score in cuts:
                axes.axvline(cuts[score], color=_SOFT, linestyle="--", label="threshold")
            _plain(axes, score if row == len(kinds) - 1 else "", kind if column == 0 else "")
            axes.set_yticks([])
    handles = dict(zip(*reversed(grid[0][0].get_legend_handles_labels()), strict=True))
    for axes in grid.flat:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _of_p(
    columns: Mapping[str, Any], scores: Sequence[str], of_kind: Any, kinds: Sequence[str], kept: Any
) -> Figure:
    """Means over bins of p with 95 % intervals, of each score and of what was kept, by type.

    There is no line for all types: recipes give types different ranges of p.
    """
    p = columns["p"]
    edges = np.linspace(np.nanmin(p), np.nanmax(p), _BINS + 1)
    bins = np.digitize(p, edges[1:-1])
    panels = {name: columns[name] for name in scores} | {"share kept": kept.astype(float)}
    figure = Figure(figsize=(3.2 * len(panels), 3.4), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for kind in kinds:
            mine = np.isfinite(p) & np.isfinite(values) & (of_kind == kind)
            means, errors = _means([values[mine & (bins == place)] for place in range(_BINS)])
            centres = (edges[1:] + edges[:-1]) / 2
            axes.plot(centres, means, label=kind, marker=".")
            axes.fill_between(centres, means - 1.96 * errors, means + 1.96 * errors, alpha=0.12)
        _plain(axes, "p", "")
        axes.set_title(name, fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
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

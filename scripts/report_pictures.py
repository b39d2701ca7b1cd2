"""The pictures of `report.html`: plots as SVG that suit a light and a dark page, images as PNG."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from data_gen.survey.fates import fate
from data_gen.survey.pages import inline_svg

_LOOKS: Final = {
    "kept": ("o", "#4f6be8"),
    "outranked": ("s", "#9aa7e8"),
    "turned down": ("x", "#d97706"),
}


def p_plot(candidates: Sequence[Mapping[str, Any]]) -> str:
    """Draw how alike the pictures of each candidate are, against its p."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    seen = [row for row in candidates if row["image_image"] is not None]
    for became, (marker, colour) in _LOOKS.items():
        some = [row for row in seen if fate(row["reason"]) == became]
        if some:
            ps, similarities = zip(*((row["p"], row["image_image"]) for row in some), strict=True)
            axes.scatter(ps, similarities, s=18, marker=marker, color=colour, label=became)
    if seen:
        axes.legend(frameon=False, fontsize=9)
    axes.set(xlabel="p", ylabel="CLIP similarity of the two pictures")
    _plain(figure)
    return inline_svg(figure, "CLIP similarity of the pictures of each candidate against its p")


def loss_plot(steps: Sequence[int], values: Sequence[float]) -> str:
    """Draw the loss against steps, with its running mean."""
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, values, color="#4f6be8", alpha=0.35, linewidth=0.8, label="each step")
    window = max(1, len(values) // 10)
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")
    axes.plot(steps[window - 1 :], smooth, color="#4f6be8", linewidth=1.8, label="running mean")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend(frameon=False, fontsize=9)
    _plain(figure)
    said = f"the loss against steps: its running mean goes from {smooth[0]:.3f} to {smooth[-1]:.3f}"
    return inline_svg(figure, said)


def data_uri(picture: Any) -> str:
    """Encode a picture, 0..255 or [0, 1], as a PNG within a URI."""
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8:
        pixels = np.round(pixels.clip(0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _plain(figure: Figure) -> None:
    for axes in figure.axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)

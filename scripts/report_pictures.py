"""The pictures of `report.html`: plots as SVG that suit a light and a dark page, images as PNG."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from data_gen.rendering.config import Share
from data_gen.rendering.sharing import SharingStudy


def sharing_plot(studies: Mapping[Share, SharingStudy]) -> str:
    """Draw the change elsewhere against p, with its interval."""
    figure, axes = plt.subplots(figsize=(5, 2.8), layout="constrained")
    for (share, study), colour in zip(studies.items(), ("#3451d1", "#d97706"), strict=True):
        low, high = study.interval()
        axes.plot(study.ps, study.mean(), marker="o", color=colour, label=share)
        axes.fill_between(study.ps, low, high, alpha=0.2, color=colour)
    axes.set(xlabel="p", ylabel="change elsewhere")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, labelcolor="#808896")
    return _svg(figure)


def loss_plot(steps: Sequence[int], values: Sequence[float]) -> str:
    """Draw the loss against steps, with its running mean."""
    figure, axes = plt.subplots(figsize=(10, 2.6), layout="constrained")
    axes.plot(steps, values, color="#3451d1", alpha=0.3, linewidth=0.8)
    window = max(1, len(values) // 25)
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")
    axes.plot(steps[window - 1 :], smooth, color="#3451d1", linewidth=1.8)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    return _svg(figure)


def data_uri(picture: Any) -> str:
    """Encode a picture, 0..255 or [0, 1], as a PNG within a URI."""
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8:
        pixels = np.round(pixels.clip(0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _svg(figure: Figure) -> str:
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors="#808896")
        axes.xaxis.label.set_color("#808896")
        axes.yaxis.label.set_color("#808896")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    plt.close(figure)
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]

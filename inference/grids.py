"""Pictures side by side, with titles above and labels at the left."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from inference.files import written_atomically
from inference.images import to_numpy
from inference.pictures import image_format


def save_grid(
    path: Path, rows: Sequence[Sequence[Tensor]], titles: Sequence[str], labels: Sequence[str]
) -> None:
    """Write rows of (3, H, W) pictures in [-1, 1] as PNG, JPEG or WebP, atomically.

    Args:
        path: The file; its suffix says which.
        rows: As many pictures in each as there are titles.
        titles: Of the columns.
        labels: Of the rows.
    """
    figure = Figure(figsize=(1.5 * len(titles), 1.55 * len(rows) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, row, label in zip(axes, rows, labels, strict=True):
        for place, picture in zip(line, row, strict=True):
            place.imshow(to_numpy(picture), interpolation="nearest")
            place.set(xticks=[], yticks=[])
        line[0].set_ylabel(label, fontsize=9)
    for place, title in zip(axes[0], titles, strict=True):
        place.set_title(title, fontsize=9)
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format=image_format(path), dpi=110)

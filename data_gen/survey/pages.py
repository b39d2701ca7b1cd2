"""HTML pages that need nothing but themselves: their style, their script, their charts are inline.

Texts are escaped, and a page's policy lets no script and no style in but its own. All pages share
`page.css`: colours for light and dark, all with a contrast of at least 4.5 to 1.
"""

import base64
import hashlib
import io
import os
import platform
import re
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, Final

import jinja2
import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FOLDER: Final = Path(__file__).parent
STYLE: Final = FOLDER / "page.css"
_TEXT: Final = "#010203"
"""Drawn in this, a chart's words take the page's colour, which depends on light and dark."""
_STYLE_ELEMENT: Final = re.compile(r"<style.*?</style>", re.DOTALL)
"""matplotlib's own, which `page.css` has in its place."""


def render_page(
    template: str, *, folder: Path = FOLDER, script: str = "", style: str = "", **values: Any
) -> str:
    """Fill a template.

    Args:
        template: Its name; beside `values` it is given ``script``, ``style`` and ``policy``.
        folder: Where it lies; it may include those of this folder.
        script: The page's only script.
        style: The page's style beside `page.css`.
        values: What the template shows; texts are escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    whole = STYLE.read_text(encoding="utf-8") + style
    return environment.get_template(template).render(
        script=Markup(script),  # noqa: S704 (a file of this project)
        style=Markup(whole),  # noqa: S704
        policy=_policy(script, whole),
        **values,
    )


def made_here() -> str:
    """The day, and the machine that a page is made on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"made on {date.today():%d %B %Y} on {_processor()}, {cores} cores"


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def inline_svg(figure: Figure, said: str) -> Markup:
    """A chart as SVG within a page: see-through, its words in the page's colour.

    Args:
        figure: The chart.
        said: What it shows, for who cannot see it.
    """
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        _see_through(axes)
    for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes)):
        for text in legend.get_texts() if legend is not None else ():
            text.set_color(_TEXT)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "emend"}):  # the same chart has the same bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = _STYLE_ELEMENT.sub("", svg[svg.index("<svg") :]).replace(_TEXT, "currentColor")
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(said)}"', 1))  # noqa: S704


def _see_through(axes: Axes) -> None:
    axes.patch.set_alpha(0)
    axes.tick_params(colors=_TEXT)
    for item in (axes.xaxis.label, axes.yaxis.label, axes.title):
        item.set_color(_TEXT)
    for spine in axes.spines.values():
        spine.set_color(_TEXT)


def _policy(script: str, style: str) -> str:
    """The content security policy."""
    scripts = f"script-src '{_hash(script)}'; " if script else ""
    return (
        f"default-src 'none'; img-src data:; {scripts}style-src '{_hash(style)}'; "
        "style-src-attr 'unsafe-inline'; "  # charts; attributes are never made of texts
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    """What a policy calls an inline script or style that may be used."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"

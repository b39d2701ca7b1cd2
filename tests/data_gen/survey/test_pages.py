"""What all pages share: colours that can be read, charts that take the page's colour."""

import re

from matplotlib.figure import Figure

from data_gen.survey.pages import STYLE, inline_svg, render_page


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.1)."""
    channels = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_words_stand_out_by_day_and_by_night() -> None:
    roots = re.findall(r":root \{(.*?)\}", STYLE.read_text(), re.DOTALL)
    assert len(roots) == 2
    for root in roots:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", root))
        for ink in ("ink", "soft", "good", "bad", "accent"):
            for ground in ("page", "card"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        assert contrast(colours["ink"], colours["mark"]) >= 4.5


def test_a_chart_is_described_and_takes_the_colour_of_the_page() -> None:
    figure = Figure()
    figure.subplots().set(xlabel="p", title="what p does")
    svg = inline_svg(figure, 'p < 0.5 & "so on"')
    assert 'role="img"' in svg
    assert "p &lt; 0.5 &amp; &#34;so on&#34;" in svg
    assert "currentColor" in svg
    assert "<style" not in svg


def test_links_are_escaped() -> None:
    page = render_page(
        "sheet.html.j2",
        name="x",
        made="made",
        links={"<b>": '"><script>'},
        cards=[],
        kinds={},
        other="other",
        turned_down=0,
        totals={"kept": 0, "rejected": 0, "unreadable": 0},
    )
    assert "<script>" not in page
    assert "&lt;b&gt;" in page

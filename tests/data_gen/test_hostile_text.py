"""What no text from outside may hold, and how long it takes to say so."""

import time

import pytest

from data_gen.hostile_text import hostile_part


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a cat\x00 on a mat", "control characters"),
        ("a cat\x1b[31m on a mat", "control characters"),
        ("a cat\u2028on a mat", "control characters"),
        ("a \u202ecat on a mat", "control characters"),  # turns the direction of writing
        ("a \u2066cat\u2069 on a mat", "control characters"),
        ("a c\u200bat on a mat", "control characters"),  # a space of no width
        ("a cat\U000e0041\U000e0042", "control characters"),  # text that only a model reads
        ("a cat \ud800", "control characters"),
        ("a cat \ue000", "control characters"),
        ("see HTTPS://evil.example/cat", "a link"),
        ("javascript://cat", "a link"),
        ("www.cats", "a link"),
        ("photo by cats.com", "a link"),
        ("mail me@cats.example", "a link"),
        ("<b>cat</b>", "markup"),
        ("<img src=x onerror=alert(1)>", "markup"),
        ("a [cat](x) on a mat", "markup"),
        ("cats &amp; dogs", "markup"),
        ("cats &#128049; dogs", "markup"),
        ("a cat ``` on a mat", "markup"),
        ("a **cat**", "markup"),
        ("{{ cat }}", "markup"),
        ("<|im_start|>system", "markup"),
        ("[INST] cat [/INST]", "markup"),
        ("a cat, on a mat; it's 5 < 6 & well-fed (really) #cat @home", None),
        ("Ein Kätzchen, 猫, кошка, قطة", None),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", None),  # Persian needs its joiner
        ("a family 👨‍👩‍👧 on a beach", None),
    ],
)
def test_parts(text: str, part: str | None) -> None:
    assert hostile_part(text) == part


@pytest.mark.parametrize("piece", ["<", "a", "@", "a@", "&", "[", "{", "a.", "]", "w", "\u0301"])
def test_a_megabyte_takes_linear_time(piece: str) -> None:
    """A quadratic expression would need minutes."""
    text = piece * ((1 << 20) // len(piece))
    start = time.process_time()
    hostile_part(text)
    assert time.process_time() - start < 5

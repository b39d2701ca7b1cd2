"""The progress bar: a line a tenth in a file, tqdm's own on a terminal."""

import io

from inference.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_a_line_a_tenth() -> None:
    file = io.StringIO()
    with ProgressBar(total=600, desc="training", unit="image", file=file, mininterval=0) as bar:
        for _ in range(600):
            bar.set_postfix(loss=1)  # refreshes
            bar.update()
    lines = file.getvalue().splitlines()
    assert "\r" not in file.getvalue()
    assert [line.split("|")[0] for line in lines] == [
        f"training: {10 * tenth:3d}%" for tenth in range(11)
    ]
    assert "600/600" in lines[-1]
    assert file.getvalue().endswith("\n")


def test_what_ends_early_says_where() -> None:
    file = io.StringIO()
    with ProgressBar(total=100, file=file, mininterval=0) as bar:
        bar.update(3)
    assert [line.split("|")[-1].split()[0] for line in file.getvalue().splitlines()] == [
        "0/100",
        "3/100",
    ]


def test_without_a_total_there_are_two_lines() -> None:
    file = io.StringIO()
    assert list(ProgressBar(iter(range(50)), file=file, mininterval=0)) == list(range(50))
    assert [line.split()[0] for line in file.getvalue().splitlines()] == ["0it", "50it"]


def test_what_is_hidden_or_short_is_silent() -> None:
    file = io.StringIO()
    list(ProgressBar(range(5), file=file, disable=True))
    list(ProgressBar(range(5), file=file, delay=60))
    assert not file.getvalue()


def test_a_terminal_gets_a_bar_that_moves() -> None:
    file = Terminal()
    list(ProgressBar(range(50), file=file, mininterval=0))
    assert file.getvalue().count("\r") > 40
    assert file.getvalue().count("\n") == 1

"""The trainers' command: what it refuses. Training itself is tested beneath it."""

import pytest

from inference.command_line import run
from training.shapes.__main__ import ship, train


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["train", "--model", "poet"], 2, "poet"),
        (["train", "--model", "autoencoder", "--start", "x"], 1, "--start is not for the autoenc"),
        (["train", "--model", "stable-diffusion"], 1, "train the autoencoder first"),
        (["ship", "--editor", "nowhere"], 1, "nowhere is missing"),
    ],
)
def test_it_refuses_in_one_sentence(tmp_path, monkeypatch, capsys, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    try:
        found = run({"train": train, "ship": ship}, prog="training.shapes", args=arguments)
    except SystemExit as stop:
        found = stop.code
    assert found == status
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

"""When two runs have come to the same end."""

from pathlib import Path

import torch


def assert_same_end(left: Path, right: Path, *, steps: int | None = None) -> None:
    """Live weights, average, optimiser and position of two runs are equal, after so many steps."""
    a, b = (torch.load(run / "last.ckpt", weights_only=True) for run in (left, right))
    assert a["global_step"] == b["global_step"]
    assert steps is None or a["global_step"] == steps
    assert a["PairData"] == b["PairData"]
    for name, weights in a["state_dict"].items():
        assert torch.equal(weights, b["state_dict"][name]), name
    moments = [c["optimizer_states"][0]["state"] for c in (a, b)]
    torch.testing.assert_close(*moments, rtol=0, atol=0)
    for file in (left / "model").rglob("*.safetensors"):
        other = right / "model" / file.relative_to(left / "model")
        assert file.read_bytes() == other.read_bytes()

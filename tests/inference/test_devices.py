"""A device that is not there is told in one sentence, with those that are."""

import pytest
import torch

from inference.devices import device_of


def machine(monkeypatch: pytest.MonkeyPatch, gpus: int, *, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize("wanted", ["cuda", "cuda:0", "mps", "gpu", "cpu:1", "", "cuda:", "CUDA"])
def test_without_a_gpu_only_the_cpu_is_left(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    machine(monkeypatch, 0)
    with pytest.raises(ValueError, match=f"device is '{wanted}'; expected .* cpu alone, as torch"):
        device_of(wanted)
    assert [device_of(each) for each in ("cpu", "cpu:0", "auto", None)] == [
        *("cpu", "cpu:0", "cpu", "cpu")
    ]


def test_one_of_several_gpus_is_chosen_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 2)
    for wanted in ("cpu", "cuda", "cuda:0", "cuda:1"):
        assert device_of(wanted) == wanted
    assert device_of("auto") == "cuda"
    with pytest.raises(ValueError, match=r"'cuda:2'; expected .*: cpu, cuda:0, cuda:1$"):
        device_of("cuda:2")


def test_apples_gpu_is_taken_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 0, mps=True)
    assert (device_of("mps"), device_of("auto")) == ("mps", "cpu")
    with pytest.raises(ValueError, match=r"here: cpu, mps$"):
        device_of("mps:1")

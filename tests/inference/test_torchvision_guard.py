"""After `import inference`, torchvision and what needs it can be imported, whatever was built."""

import importlib

import torch


def test_torchvision_and_its_dependents_import() -> None:
    for name in ("torchvision", "torchvision.transforms", "open_clip"):
        importlib.import_module(name)
    assert torch.ops.torchvision.nms

"""After `import inference`, torchvision and what needs it can be imported, whatever was built."""

import importlib
import subprocess
import sys

import torch


def test_torchvision_and_its_dependents_import() -> None:
    for name in ("torchvision", "torchvision.transforms", "open_clip"):
        importlib.import_module(name)
    assert torch.ops.torchvision.nms


IN_A_FRESH_PROCESS = """
import importlib.util, sys
import inference, inference.torchvision_guard
inference.torchvision_guard.install()
assert importlib.util.find_spec("torchvision")
assert "torch" not in sys.modules
import torchvision, torch
assert torch.ops.torchvision.nms
assert type(torchvision.__loader__).__name__ == "SourceFileLoader", torchvision.__loader__
del sys.modules["torchvision"]
import torchvision
"""


def test_the_guard_needs_no_torch_until_torchvision_is_imported() -> None:
    """Looking for torchvision is not importing it; importing it twice defines nothing twice."""
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

"""Run pretrained diffusion models: load them, sample, edit, measure.

Importing this package first also repairs one frequent installation: a torchvision whose compiled
operators do not fit the installed torch (see `_define_missing_torchvision_operators`). `data_gen`
and `training` import it before anything that imports torchvision.
"""

import importlib.machinery
import importlib.util
import sys

import torch

_NMS_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _torchvision_operators_load(folder: str) -> bool:
    """Whether torch accepts the compiled extension in torchvision's `folder`."""
    finder = importlib.machinery.FileFinder(
        folder,
        (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
    )
    extension = finder.find_spec("_C")
    if extension is None or extension.origin is None:
        return False
    try:
        torch.ops.load_library(extension.origin)
    except (ImportError, OSError):
        return False
    return True


def _define_missing_torchvision_operators() -> torch.library.Library | None:
    """Let a torchvision without usable operators be imported.

    A torchvision built for CUDA beside a CPU torch dies while it is imported, with "operator
    torchvision::nms does not exist", and takes open_clip, transformers' image classes and
    pytorch-lightning with it. Its import only needs the two operators' *schemas*; nothing here
    calls the operators.

    Returns:
        The library that holds the definitions (they vanish with it), or None where none is needed.
    """
    if "torchvision" in sys.modules:
        return None
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return None
    if _torchvision_operators_load(spec.submodule_search_locations[0]):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for schema in _NMS_SCHEMAS:
        library.define(schema)
    return library


_torchvision_schemas = _define_missing_torchvision_operators()

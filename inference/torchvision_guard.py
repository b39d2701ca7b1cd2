"""A torchvision whose compiled operators do not fit the installed torch can be imported.

A torchvision built for CUDA beside a CPU torch dies while it is imported, with "operator
torchvision::nms does not exist", and takes open_clip, transformers' image classes and
pytorch-lightning with it. Its import only needs the *schemas* of two operators; nothing here calls
the operators. They are defined when torchvision is first imported, by an import hook that until
then costs nothing and needs no torch.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    PathFinder,
)
from types import ModuleType
from typing import Any, Final

_GUARDED: Final = "torchvision"
_SCHEMAS: Final = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: Final[list[Any]] = []
"""What holds the definitions: they vanish with it."""


class _Finder(MetaPathFinder):
    """Finds torchvision where it is, and has its operators looked at before it is run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The guarded spec of torchvision; None for all other modules."""
        if fullname != _GUARDED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None and spec.submodule_search_locations:
            spec.loader = _Loader(spec.loader, spec.submodule_search_locations[0])
        return spec


class _Loader(Loader):
    """Defines what a torchvision lacks, and loads it as its own loader does."""

    def __init__(self, loader: Loader, folder: str) -> None:
        """Take over from torchvision's own loader.

        Args:
            loader: That one.
            folder: Where torchvision lies.
        """
        self._loader, self._folder = loader, folder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """See `Loader`."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """See `Loader`; from here on the module is its own loader's again."""
        _define_missing_operators(self._folder)
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)


def install() -> None:
    """Guard the import of torchvision from here on; once is enough."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _define_missing_operators(folder: str) -> None:
    """Define the operators that torch does not accept from torchvision's folder."""
    import torch

    if _libraries:  # torchvision is imported anew
        return
    extension = FileFinder(folder, (ExtensionFileLoader, EXTENSION_SUFFIXES)).find_spec("_C")
    if extension is not None and extension.origin is not None:
        try:
            torch.ops.load_library(extension.origin)
        except (ImportError, OSError):
            pass
        else:
            return
    library = torch.library.Library(_GUARDED, "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _libraries.append(library)

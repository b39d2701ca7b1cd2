"""Fixtures for the tests of all packages: a tiny random model of Stable Diffusion's shape."""

import inference  # noqa: F401  # isort: skip (first: it repairs torchvision)

from collections.abc import Callable
from pathlib import Path

import pytest

from inference.backbone import Backbone
from inference.saving import stock_pipeline
from tests import tiny
from tests.tiny import BuildBackbone


@pytest.fixture(scope="session")
def build_family() -> BuildBackbone:
    """`build_family("1" | "2" | "xl", channels=8)`: Stable Diffusion's architectures, seeded."""
    return tiny.build_family


@pytest.fixture(scope="session")
def build_backbone() -> BuildBackbone:
    """`build_backbone("epsilon", in_channels=4, dtype=torch.float32, xl=False)`, seeded."""
    return tiny.build_backbone


@pytest.fixture(scope="session", params=["epsilon", "v_prediction", "xl"])
def tiny_backbone(request: pytest.FixtureRequest, build_backbone: BuildBackbone) -> Backbone:
    """A random text-to-image model of SD 1's, SD 2-v's and SDXL's kind; do not modify it."""
    return build_backbone(xl=True) if request.param == "xl" else build_backbone(request.param)


@pytest.fixture(scope="session")
def tiny_folder(build_backbone: BuildBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of a random v-predicting text-to-image model, as diffusers saves it."""
    folder = tmp_path_factory.mktemp("tiny-stable-diffusion")
    stock_pipeline(build_backbone("v_prediction")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def save_folder() -> Callable[[Backbone, Path], None]:
    """`save_folder(backbone, folder)`, as stock diffusers saves it."""
    return lambda backbone, folder: stock_pipeline(backbone).save_pretrained(folder)

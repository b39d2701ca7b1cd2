"""Tiny models of the real architectures, random but for what a test must know of them."""

import inference  # noqa: F401  # isort: skip

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import save_file
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    Dinov2Config,
    Dinov2Model,
)

from data_gen.records import EditTriplet, ImageArray, ImagePair
from tests.data_gen.judging.eyes import Eyes, by_brightness
from tests.provider import listening

Pairs = Callable[..., ImagePair]


def picture(seed: int) -> ImageArray:
    """Waves: unlike noise they survive being resized."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(32), np.arange(32))
    waves = [np.sin(x * a + y * b + c) for a, b, c in rng.uniform(0.1, 0.6, (3, 3))]
    return np.asarray((np.stack(waves, -1) * 120 + 128).astype(np.uint8))


@pytest.fixture
def judged_pair() -> Pairs:
    """`judged_pair(source, edited)`: a pair of two numbered pictures."""

    def make(source: int, edited: int) -> ImagePair:
        triplet = EditTriplet.of(
            caption=f"waves {source}",
            instruction=f"make it waves {edited}",
            edited_caption=f"waves {edited}",
            edit_type="recolour",
            inverse_instruction="",
        )
        return ImagePair(
            triplet=triplet,
            key=ImagePair.key_of(triplet.id, 0, 0),
            source=picture(source),
            edited=picture(edited),
            seed_index=0,
            branch=0,
            p=0.5,
            guidance=4.0,
        )

    return make


@pytest.fixture(scope="session")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def safety_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`safety_folder(disliked)`: a Stable Diffusion folder whose checker dislikes some pictures.

    Its concepts are its own embeddings of the pictures of those numbers; None dislikes everything.
    """

    def build(disliked: list[int] | None) -> Path:
        folder = tmp_path_factory.mktemp("stable-diffusion")
        torch.manual_seed(0)
        vision = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "initializer_factor": 5.0,  # or all pictures are alike to it
        }
        text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
        checker = StableDiffusionSafetyChecker(
            CLIPConfig(
                projection_dim=16,
                vision_config=vision,
                text_config=text | {"num_attention_heads": 2},
            )
        ).eval()
        size = {"height": 32, "width": 32}
        processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
        checker.concept_embeds_weights.data.fill_(-2 if disliked is None else 2)
        checker.special_care_embeds_weights.data.fill_(2)
        for concept, number in enumerate(disliked or []):
            pixels = processor(images=[picture(number)], return_tensors="pt").pixel_values
            with torch.no_grad():
                seen = checker.visual_projection(checker.vision_model(pixels)[1])
            checker.concept_embeds.data[concept] = seen[0]
            checker.concept_embeds_weights.data[concept] = 0.9
        checker.save_pretrained(folder / "safety_checker")
        processor.save_pretrained(folder / "feature_extractor")
        return folder

    return build


@pytest.fixture(scope="session")
def aesthetic_head(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """`aesthetic_head(width)`: a file with a linear head on so many features."""

    def build(width: int) -> Path:
        file = tmp_path_factory.mktemp("head") / "head.safetensors"
        torch.manual_seed(1)
        save_file({"layer.weight": torch.randn(1, width), "layer.bias": torch.tensor([5.0])}, file)
        return file

    return build


@pytest.fixture
def eyes() -> Iterator[Eyes]:
    with listening(Eyes(say=by_brightness)) as one:
        assert isinstance(one, Eyes)
        yield one

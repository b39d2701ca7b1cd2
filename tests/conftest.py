"""Fixtures for the tests of all packages: a tiny random model of Stable Diffusion's shape."""

import inference  # noqa: F401  # isort: skip (first: it repairs torchvision)

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from inference.backbone import Backbone

BuildBackbone = Callable[..., Backbone]


def _tokenizer() -> CLIPTokenizer:
    """Byte-level, with a few whole words; padded to 32 tokens."""
    symbols = list(bytes_to_unicode().values())
    vocabulary = symbols + [symbol + "</w>" for symbol in symbols]
    merges = [("r", "e"), ("re", "d</w>"), ("c", "a"), ("ca", "t</w>")]
    vocabulary += ["".join(merge) for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(vocabulary)},
        merges=merges,
        model_max_length=32,
    )


def _build(
    prediction_type: str = "epsilon", in_channels: int = 4, dtype: torch.dtype = torch.float32
) -> Backbone:
    """The shape of the shapes models in small: images 32x32, latents 4x8x8, two UNet levels.

    The noise schedule is Stable Diffusion's for ε, that of the shapes models for v.
    """
    predicts_v = prediction_type == "v_prediction"
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.6,
    )
    tokenizer = _tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=32,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=32,
        norm_num_groups=8,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.025 if predicts_v else 0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,  # without it stock pipelines rewrite the configuration
        prediction_type=prediction_type,
        timestep_spacing="trailing" if predicts_v else "leading",
        set_alpha_to_one=predicts_v,
    )
    for module in (vae, text_encoder, unet):
        module.to(dtype).eval().requires_grad_(False)
    return Backbone(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
    )


@pytest.fixture(scope="session")
def build_backbone() -> BuildBackbone:
    """`build_backbone(prediction_type="epsilon", in_channels=4, dtype=torch.float32)`, seeded."""
    return _build


@pytest.fixture(scope="session", params=["epsilon", "v_prediction"])
def tiny_backbone(request: pytest.FixtureRequest, build_backbone: BuildBackbone) -> Backbone:
    """A random text-to-image model, once predicting ε and once v; do not modify it."""
    return build_backbone(request.param)


@pytest.fixture(scope="session")
def tiny_folder(build_backbone: BuildBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of a random v-predicting text-to-image model, as diffusers saves it."""
    folder = tmp_path_factory.mktemp("tiny-stable-diffusion")
    save_folder(build_backbone("v_prediction"), folder)
    return folder


def save_folder(backbone: Backbone, folder: Path) -> None:
    """Save as stock diffusers does."""
    StableDiffusionPipeline(
        vae=backbone.vae,
        text_encoder=backbone.text_encoder,
        tokenizer=backbone.tokenizer,
        unet=backbone.unet,
        scheduler=backbone.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)

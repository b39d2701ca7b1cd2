"""Fixtures for the tests of all packages: a tiny random model of Stable Diffusion's shape."""

import inference  # noqa: F401  # isort: skip (first: it repairs torchvision)

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from inference.backbone import Backbone
from inference.saving import stock_pipeline

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
    prediction_type: str = "epsilon",
    in_channels: int = 4,
    dtype: torch.dtype = torch.float32,
    *,
    xl: bool = False,
) -> Backbone:
    """The shape of the shapes models in small: images 32x32, latents 4x8x8, two UNet levels.

    The noise schedule is Stable Diffusion's for ε, that of the shapes models for v. With `xl`, the
    conditions of SDXL: two text encoders, the second's summary, sizes.
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
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        projection_dim=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    text_encoder = CLIPTextModel(text_config)
    sizes_and_summary = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24 + 6 * 8,
    }
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=64 if xl else 32,
        norm_num_groups=8,
        **(sizes_and_summary if xl else {}),
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
    backbone = Backbone(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        text_encoder_2=CLIPTextModelWithProjection(text_config) if xl else None,
        tokenizer_2=tokenizer if xl else None,
        zero_null=xl,
    )
    for module in backbone.modules.values():
        module.to(dtype).eval().requires_grad_(False)
    return backbone


def _family(family: str, *, channels: int = 8) -> Backbone:
    """As small as the families' conventions allow: 32 groups, 8 heads or heads of 64 channels.

    Images 16x16, latents 4x8x8; a 2 predicts v.
    """
    torch.manual_seed(0)
    tokenizer, xl, linear = _tokenizer(), family == "xl", family != "1"
    tokens = len(tokenizer)
    text = {
        "vocab_size": tokens,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 1,
        "max_position_embeddings": 32,
        "bos_token_id": tokens - 2,
        "eos_token_id": tokens - 1,
        "num_hidden_layers": 2,
    }
    sizes = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 48 + 6 * 256,
        "transformer_layers_per_block": [1, 2],
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    crossed = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        block_out_channels=(64, 128),
        layers_per_block=2,
        attention_head_dim=[1, 2] if linear else 8,
        use_linear_projection=linear,
        cross_attention_dim=128 if xl else 64,
        **(sizes if xl else crossed),
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=2,
        sample_size=16,
        scaling_factor=0.13025 if xl else 0.18215,
    )
    gelu = CLIPTextConfig(**text, hidden_act="gelu", projection_dim=48)
    quick = CLIPTextConfig(**text, hidden_act="quick_gelu")
    return Backbone(
        vae=vae,
        text_encoder=CLIPTextModel(gelu if family == "2" else quick),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            steps_offset=1,
            prediction_type="v_prediction" if family == "2" else "epsilon",
            set_alpha_to_one=False,
        ),
        text_encoder_2=CLIPTextModelWithProjection(gelu) if xl else None,
        tokenizer_2=tokenizer if xl else None,
        zero_null=xl,
    )


@pytest.fixture(scope="session")
def build_family() -> BuildBackbone:
    """`build_family("1" | "2" | "xl", channels=8)`: Stable Diffusion's architectures, seeded."""
    return _family


@pytest.fixture(scope="session")
def build_backbone() -> BuildBackbone:
    """`build_backbone("epsilon", in_channels=4, dtype=torch.float32, xl=False)`, seeded."""
    return _build


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

"""A folder that diffusers saved is loaded whole, and what does not fit says what it is."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from inference.backbone import (
    Backbone,
    PromptTooLong,
    Settings,
    load_backbone,
    load_settings,
    save_settings,
)


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of a model folder that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def test_loaded_models_equal_stock_diffusers(tiny_folder: Path) -> None:
    ours = load_backbone(tiny_folder)
    stock = StableDiffusionPipeline.from_pretrained(tiny_folder)
    prompts = ["a red cat", ""]
    ids = stock.tokenizer(
        prompts, padding="max_length", max_length=32, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        expected_text = stock.text_encoder(ids)[0]
        images = torch.rand(2, 3, 32, 32) * 2 - 1
        posterior = stock.vae.encode(images).latent_dist
    assert torch.equal(ours.encode_text(prompts), expected_text)
    assert torch.equal(ours.encode_image(images), posterior.mean * stock.vae.config.scaling_factor)
    assert torch.equal(ours.encode_condition(images), posterior.mode())
    assert ours.scheduler.config.prediction_type == "v_prediction"
    assert not any(weight.requires_grad for weight in ours.unet.parameters())


def test_sizes_follow_the_models(tiny_backbone: Backbone) -> None:
    assert tiny_backbone.latent_factor == 4
    assert tiny_backbone.size_multiple == 8
    assert tiny_backbone.native_size == 32
    assert tiny_backbone.text_length == 32
    assert tiny_backbone.encode_text(["a cat"]).shape == (1, 32, 32)
    assert tiny_backbone.decode(torch.randn(2, 4, 8, 6)).shape == (2, 3, 32, 24)


def test_decode_is_clamped(tiny_backbone: Backbone) -> None:
    assert tiny_backbone.decode(100 * torch.randn(1, 4, 8, 8)).abs().max() <= 1


def test_a_long_prompt_is_named_with_its_tokens(tiny_backbone: Backbone) -> None:
    fits = "x " * 30
    tiny_backbone.encode_text([fits])
    with pytest.raises(PromptTooLong, match=r"'x x .* has 33 tokens .* reads 32"):
        tiny_backbone.encode_text(["a cat", fits + "x"])


def test_images_must_fit(tiny_backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="30x32; expected sides that are multiples of 4"):
        tiny_backbone.encode_image(torch.zeros(1, 3, 32, 30))
    with pytest.raises(ValueError, match=r"\(3, 32, 32\); expected \(B, 3, H, W\)"):
        tiny_backbone.encode_condition(torch.zeros(3, 32, 32))


def test_settings_travel_with_the_folder(folder: Path) -> None:
    assert load_backbone(folder).settings == Settings()
    settings = Settings(image_latent_scale=0.6, text_scale=4, sampler="ddim", steps=20)
    save_settings(folder, settings)
    ours = load_backbone(folder)
    assert ours.settings == settings
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(ours.encode_condition(images), ours.encode_image(images))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"txt_scale": 3}', "unknown key 'txt_scale'"),
        ('{"text_scale": "high"}', "text_scale is 'high'; expected a number"),
        ('{"steps": 2.5}', "steps is 2.5; expected a whole number"),
        ('{"sampler": "plms"}', "sampler is 'plms'; expected one of"),
        ("{", "is not JSON"),
        ("[]", "holds a list; expected an object"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "emend.json").write_text(content)
    with pytest.raises(ValueError, match=sentence):
        load_settings(tmp_path)


def test_missing_parts_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model folder .*nowhere"):
        load_backbone(tmp_path / "nowhere")
    shutil.rmtree(folder / "vae")
    with pytest.raises(FileNotFoundError, match=r"vae/config\.json is missing"):
        load_backbone(folder)


def test_truncated_weights_are_named(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="unet cannot be loaded as UNet2DConditionModel"):
        load_backbone(folder)


def test_pickled_weights_are_refused(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match="unet cannot be loaded"):
        load_backbone(folder)


def test_only_diffusers_schedulers_are_built(folder: Path) -> None:
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(ValueError, match="expected a diffusers scheduler"):
        load_backbone(folder)

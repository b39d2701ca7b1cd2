"""A folder that diffusers saved is loaded whole, and what does not fit says what it is."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from inference.backbone import Backbone, PromptTooLong, load_backbone
from inference.guidance import cfg
from inference.noise import keyed_noise
from inference.samplers import ddim
from inference.sampling import denoise
from inference.settings import Settings, load_settings, save_settings


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
    assert torch.equal(ours.encode_text(prompts).states, expected_text)
    assert torch.equal(ours.encode_image(images), posterior.mean * stock.vae.config.scaling_factor)
    assert torch.equal(ours.encode_condition(images), posterior.mode())
    assert ours.scheduler.config.prediction_type == "v_prediction"
    assert not any(weight.requires_grad for weight in ours.unet.parameters())


@pytest.mark.parametrize("zero_null", [True, False])
def test_an_sdxl_draws_what_stock_diffusers_draws(
    build_backbone, save_folder, tmp_path: Path, zero_null: bool
) -> None:
    save_folder(replace(build_backbone(xl=True), zero_null=zero_null), tmp_path)
    ours, stock = load_backbone(tmp_path), StableDiffusionXLPipeline.from_pretrained(tmp_path)
    sampler, start = ddim(ours.scheduler, 4), keyed_noise("start", shape=(1, 4, 8, 8))
    texts = ours.encode_text(["", "a red cat"])

    def predict(i: int, x: torch.Tensor) -> torch.Tensor:
        output = ours.unet_output(torch.cat([x, x]), sampler.timesteps[i], texts)
        return cfg(*output.chunk(2), 5.0)

    with torch.no_grad():
        found = denoise(predict, sampler, start)
    expected = stock(
        "a red cat",
        num_inference_steps=4,
        guidance_scale=5.0,
        latents=start,
        height=32,
        width=32,
        output_type="latent",
    ).images
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_vae_of_an_sdxl_stays_in_float32(build_backbone, save_folder, tmp_path: Path) -> None:
    save_folder(build_backbone(xl=True), tmp_path)
    ours = load_backbone(tmp_path, dtype=torch.float16)
    assert (ours.unet.dtype, ours.vae.dtype) == (torch.float16, torch.float32)


def test_an_sdxl_that_is_none_is_named(build_backbone, save_folder, tmp_path: Path) -> None:
    save_folder(build_backbone(xl=True), tmp_path)
    (tmp_path / "model_index.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(FileNotFoundError, match=r"model_index\.json is missing"):
        load_backbone(tmp_path)
    (tmp_path / "elsewhere.json").rename(tmp_path / "model_index.json")
    shutil.rmtree(tmp_path / "text_encoder_2")
    with pytest.raises(ValueError, match="'text_time'; expected None for a model with 1 text enc"):
        load_backbone(tmp_path)


def test_sizes_follow_the_models(tiny_backbone: Backbone) -> None:
    assert tiny_backbone.latent_factor == 4
    assert tiny_backbone.size_multiple == 8
    assert tiny_backbone.native_size == 32
    assert tiny_backbone.text_length == 32
    width = tiny_backbone.unet.config.cross_attention_dim
    assert tiny_backbone.encode_text(["a cat"]).states.shape == (1, 32, width)
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
    with pytest.raises(ValueError, match="unet.* is not a safetensors file: it has 1,000 bytes"):
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

"""What a run leaves behind is read by stock programs and gives the same pictures everywhere."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
)
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from inference.backbone import load_backbone
from inference.editors.editor import EditRequest
from inference.editors.instruct import Instruct
from inference.input_layer import load_input_layer
from inference.noise import keyed_noise
from inference.saving import save_backbone
from inference.settings import Settings
from inference.single_file.reading import read_original
from inference.single_file.writing import original_tensors
from training.__main__ import main

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")

RunOf = Callable[[Path], Path]
LORA = Path("training/recipes/lora-1gpu.yaml")
SDXL = Path("training/recipes/sdxl-8gpu-fsdp.yaml")
STEPS = 4


def by_stock(pipeline: DiffusionPipeline, image: Tensor, instruction: str, seed: int) -> Tensor:
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    xl = isinstance(pipeline, StableDiffusionXLInstructPix2PixPipeline)
    edited: Tensor = pipeline(
        prompt=instruction,
        image=image[None],
        latents=keyed_noise("edit", seed, "start", shape=(1, 4, 8, 8)),
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        image_guidance_scale=1.5,
        output_type="pt",
        **({"height": 32, "width": 32} if xl else {}),
    ).images[0]
    return edited * 2 - 1


def by_us(folder: Path, image: Tensor, instruction: str, seed: int) -> Tensor:
    editor = Instruct(
        backbone=load_backbone(folder), text_scale=4, image_scale=1.5, steps=STEPS, sampler="ddim"
    )
    return editor.edit([EditRequest(image=image, instruction=instruction, seed=seed)])[0]


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return keyed_noise("picture", shape=(3, 32, 32)).clamp(-1, 1)


def test_the_folder_edits_alike_in_stock_pipelines_and_here(
    recipe: Path, run_of: RunOf, picture: Tensor
) -> None:
    folder = run_of(recipe) / "model"
    expected = by_stock(DiffusionPipeline.from_pretrained(folder), picture, "make it red", 3)
    found = by_us(folder, picture, "make it red", 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_the_single_file_is_the_folder(recipe: Path, run_of: RunOf) -> None:
    folder = load_backbone(run_of(recipe) / "model")
    tensors, configs = read_original(run_of(recipe) / "model.safetensors")
    for name, tensor in original_tensors(folder).items():
        assert torch.equal(tensors[name], tensor), name
    assert tensors["model.diffusion_model.input_blocks.0.0.weight"].shape[1] == 8
    assert configs["scheduler"]["prediction_type"] == folder.scheduler.config.prediction_type


@pytest.fixture(scope="module", params=["sd", "xl"])
def adapters(
    request: pytest.FixtureRequest, run_of: RunOf, base_of: RunOf, tiny, shards, tmp_path_factory
) -> tuple[Path, Path]:
    """A base, and the folder of a run that trained adapters on it."""
    if request.param == "sd":
        return base_of(LORA), run_of(LORA)
    output: Path = tmp_path_factory.mktemp("xl-lora") / "run"
    line = tiny(SDXL, base_of(SDXL), shards, output)
    main([*line, "--model.lora.rank=2", "--model.lora.alpha=8"])  # times 4, or alpha is lost
    return base_of(SDXL), output


def test_a_lora_loads_by_stock_means(adapters: tuple[Path, Path], picture: Tensor) -> None:
    base, run = adapters
    xl = (base / "text_encoder_2").is_dir()
    kind = (
        StableDiffusionXLInstructPix2PixPipeline if xl else StableDiffusionInstructPix2PixPipeline
    )
    pipeline = kind.from_pretrained(base)
    load_input_layer(pipeline.unet, run / "lora/conv_in.safetensors")
    without = by_stock(pipeline, picture, "make it red", 3)
    pipeline.load_lora_weights(run / "lora")
    assert pipeline.get_list_adapters()["unet"]
    with_it = by_stock(pipeline, picture, "make it red", 3)
    assert not torch.equal(with_it, without)
    found = by_us(run / "model", picture, "make it red", 3)
    torch.testing.assert_close(found, with_it, rtol=0, atol=2e-4)
    assert {p.name for p in (run / "lora").iterdir()} == {
        "README.md",
        "conv_in.safetensors",
        "pytorch_lora_weights.safetensors",
    }
    weights = load_file(run / "lora/pytorch_lora_weights.safetensors")
    assert all(name.startswith("unet.") and ".lora" in name for name in weights)
    saved = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    assert all(".lora_" in name or ".conv_in." in name for name in saved)


def test_the_card_can_be_read_and_what_it_shows_runs(
    run_of: RunOf, base_of: RunOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(LORA)
    text = (run / "model/README.md").read_text()
    card = ModelCard(text)
    assert card.data.to_dict() == {
        "library_name": "diffusers",
        "pipeline_tag": "image-to-image",
        "tags": ["emend", "instruct-pix2pix", "lora"],
    }
    assert "# license: fill in before you publish" in text
    assert str(run.parent) not in text
    assert str(base_of(LORA).parent) not in text
    for name, target in {
        "model": run / "model",
        "lora": run / "lora",
        "base": base_of(LORA),
    }.items():
        (tmp_path / name).symlink_to(target)
    Image.new("RGB", (32, 32), "green").save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    blocks = [token for token in MarkdownIt().parse(text) if token.type == "fence"]
    names: dict[str, object] = {}
    for block in blocks:
        if block.info == "python":
            exec(compile(block.content, "card", "exec"), names)  # noqa: S102
    assert sum(block.info == "python" for block in blocks) == 2
    with Image.open("edited.png") as edited:
        assert edited.size == (32, 32)
    recipe = yaml.safe_load(next(block.content for block in blocks if block.info == "yaml"))
    assert recipe["model"]["lora"]["rank"] == 16
    assert recipe["model"]["base"] == "tiny"


def test_xl_is_told_whether_its_condition_is_scaled(
    build_backbone, picture: Tensor, tmp_path: Path
) -> None:
    for scale in (1.0, 0.6):  # 0.6 is the VAE's factor
        model = replace(
            build_backbone(xl=True, in_channels=8), settings=Settings(image_latent_scale=scale)
        )
        save_backbone(model, tmp_path / "model")
        pipeline = DiffusionPipeline.from_pretrained(tmp_path / "model")
        assert pipeline.is_cosxl_edit == (scale != 1)
        expected = by_stock(pipeline, picture, "a cat", 1)
        found = by_us(tmp_path / "model", picture, "a cat", 1)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_an_input_layer_of_another_model_is_refused(build_backbone, tmp_path: Path) -> None:
    unet, file = build_backbone().unet, tmp_path / "conv_in.safetensors"
    save_file({"weight": torch.zeros(7, 8, 3, 3), "bias": torch.zeros(7)}, file)
    with pytest.raises(ValueError, match="the input layer of this UNet"):
        load_input_layer(unet, file)
    assert unet.config.in_channels == 4
    save_file({"a": torch.zeros(7)}, file)
    with pytest.raises(ValueError, match="the input layer of this UNet"):
        load_input_layer(unet, file)

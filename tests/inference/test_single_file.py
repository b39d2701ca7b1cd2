"""One file to a folder and back: no tensor is lost, and diffusers' own converter reads it."""

import inference  # noqa: F401  # isort: skip

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import infer_diffusers_model_type
from open_clip import tokenize
from safetensors.torch import load_file, save_file
from torch import Tensor

from inference.__main__ import main
from inference.backbone import Backbone, load_backbone
from inference.settings import Settings
from inference.single_file import architecture, original_names
from inference.single_file.reading import backbone_of, clip_tokenizer, read_original
from inference.single_file.writing import original_tensors, write_original
from inference.tensors import read_tensors

BuildBackbone = Callable[..., Backbone]

SD1 = {
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD2 = SD1 | {
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
XL = SD2 | {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
# https://huggingface.co/runwayml/stable-diffusion-v1-5 and its successors, parameters of the UNet
PUBLISHED = {
    "v1": (SD1, 4, 859_520_964),
    "instruct-pix2pix": (SD1, 8, 859_532_484),
    "v2": (SD2, 4, 865_910_724),
    "xl_base": (XL, 4, 2_567_463_684),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_full_size_models_are_known_by_their_names_and_shapes(kind: str) -> None:
    config, channels, parameters = PUBLISHED[kind]
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, in_channels=channels, **config)
    assert sum(p.numel() for p in unet.parameters()) == parameters
    found = original_names.unet_tensors(unet.state_dict(), unet.config)
    assert len(found) == len(unet.state_dict())
    # what diffusers looks at beside the UNet
    others = {
        "v2": [],
        "xl_base": ["conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias"],
    }
    marks = dict.fromkeys(others.get(kind, []), torch.empty(0, device="meta"))
    told = infer_diffusers_model_type({**found, **marks})
    assert told == {"v2": "v2"}.get(kind, kind)
    inferred = architecture.unet_config(found, 64)
    for name, value in inferred.items():
        expected = unet.config[name]
        assert value == (list(expected) if isinstance(expected, tuple) else expected), name


@pytest.fixture(scope="module")
def tokenizer_folder(build_backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_backbone().tokenizer.save_pretrained(folder)
    return folder


def published(family: str, model: Backbone) -> dict[str, Tensor]:
    """What a training with the original code leaves behind, by its names."""
    found = original_tensors(model)
    noise = {"betas": torch.rand(1000), "alphas_cumprod": torch.rand(1000)}
    others: dict[str, Mapping[str, Tensor]] = {
        "1": {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(32)},
        "2": {
            "cond_stage_model.model.logit_scale": torch.tensor(4.6),
            "cond_stage_model.model.text_projection": torch.rand(64, 48),
            "cond_stage_model.model.transformer.resblocks.23.ln_1.bias": torch.rand(64),
        },
        "xl": {"conditioner.embedders.1.model.logit_scale": torch.tensor(4.6)},
    }
    return {**found, **noise, **others[family]}


def equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name])
        for name in left
    )


@pytest.mark.parametrize(("family", "half"), [("1", False), ("2", True), ("xl", False)])
def test_ckpt_to_folder_to_file_keeps_every_tensor(
    family: str, half: bool, build_family: BuildBackbone, tokenizer_folder: Path, tmp_path: Path
) -> None:
    tensors = published(family, build_family(family))
    if half:
        tensors = {n: t.half() if t.is_floating_point() else t for n, t in tensors.items()}
    source = tmp_path / "published.ckpt"
    torch.save({"state_dict": tensors, "global_step": 22000}, source)
    folder, back = tmp_path / "folder", tmp_path / "back.safetensors"
    told = ["--prediction_type=epsilon"] if family == "2" else []
    line = [f"--source={source}", f"--output={folder}", f"--tokenizer={tokenizer_folder}"]
    assert main(["convert", *line, "--native_size=16", *told]) == 0
    assert main(["convert", f"--source={folder}", f"--output={back}"]) == 0
    assert equal(load_file(back), tensors)

    model, original = load_backbone(folder), build_family(family)
    for name, module in original.modules.items():
        loaded = model.modules[name].state_dict()
        for key, weights in module.state_dict().items():
            assert torch.equal(loaded[key], weights.half().float() if half else weights), key
        config, wanted = model.modules[name].config, module.config
        for key in ("attention_head_dim", "hidden_act", "num_attention_heads", "scaling_factor"):
            assert getattr(config, key, None) == getattr(wanted, key, None)
    assert model.scheduler.config.prediction_type == "epsilon"
    again = tmp_path / "again"
    assert main(["convert", f"--source={back}", f"--output={again}", line[2]]) == 0
    assert (again / "unet/config.json").read_text() == (folder / "unet/config.json").read_text()


def test_the_average_is_taken_unless_told_otherwise(
    build_family: BuildBackbone, tokenizer_folder: Path, tmp_path: Path
) -> None:
    raw = published("1", build_family("1"))
    averaged = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): tensor + 1
        for name, tensor in raw.items()
        if name.startswith(original_names.UNET)
    }
    save_file({**raw, **averaged}, tmp_path / "both.safetensors")
    plain, _ = read_original(tmp_path / "both.safetensors", ema=False)
    assert equal(plain, raw)
    found, _ = read_original(tmp_path / "both.safetensors")
    assert found.keys() == raw.keys()
    for name, tensor in found.items():
        moved = name.startswith(original_names.UNET)
        assert torch.equal(tensor, raw[name] + 1 if moved else raw[name])
    averaged.popitem()
    save_file({**raw, **averaged}, tmp_path / "torn.safetensors")
    with pytest.raises(ValueError, match="holds a moving average without model_ema"):
        read_original(tmp_path / "torn.safetensors")


class ModelCheckpoint:
    """Lightning's, which old checkpoints name; stands for any class that a pickle may name."""

    def __init__(self) -> None:
        self.best_model_path = "somewhere"


class Armed:
    """Unpickled by pickle itself it copies a file."""

    def __init__(self, source: Path, target: Path) -> None:
        self.paths = str(source), str(target)

    def __reduce__(self):
        return shutil.copyfile, self.paths


def test_what_a_pickle_names_beside_tensors_does_nothing(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    content = {
        "state_dict": {"a": torch.ones(2)},
        "callbacks": {ModelCheckpoint: {"best": 1}, "instance": ModelCheckpoint()},
        "armed": Armed(Path(__file__), trap),
    }
    torch.save(content, tmp_path / "old.ckpt")
    tensors, _ = read_original(tmp_path / "old.ckpt")
    assert torch.equal(tensors["a"], torch.ones(2))
    assert not trap.exists()
    torch.load(tmp_path / "old.ckpt", weights_only=False)
    assert trap.exists()  # so the pickle was armed


class Sly:
    """Unpickled by pickle itself it makes a file, by way of a method."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_cannot_be_read_without_running_it_is_refused(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    torch.save({"state_dict": {"a": torch.ones(2)}, "sly": Sly(trap)}, tmp_path / "sly.ckpt")
    with pytest.raises(ValueError, match=r"sly.ckpt cannot be read without running what it holds"):
        read_original(tmp_path / "sly.ckpt")
    assert not trap.exists()
    (tmp_path / "text.ckpt").write_text("a")
    with pytest.raises(ValueError, match="is no checkpoint of torch"):
        read_original(tmp_path / "text.ckpt")


@pytest.mark.parametrize("xl", [False, True], ids=["v", "xl-v"])
def test_a_model_of_unusual_shape_comes_back_by_what_its_file_says(
    build_backbone, xl: bool, tmp_path: Path
) -> None:
    settings = Settings(image_latent_scale=0.5, text_scale=3.0)
    model = replace(build_backbone("v_prediction", in_channels=8, xl=xl), settings=settings)
    write_original(model, tmp_path / "model.safetensors")
    model.tokenizer.save_pretrained(tmp_path)
    tensors, configs = read_original(tmp_path / "model.safetensors")
    back = backbone_of(tensors, configs, tokenizer=tmp_path)
    assert back.settings == settings
    assert back.zero_null == xl
    for name, value in model.scheduler.config.items():
        assert name.startswith("_") or back.scheduler.config[name] == value
    for name, module in model.modules.items():
        assert equal(back.modules[name].state_dict(), module.state_dict())
    assert ("v_pred" in tensors) == xl
    x, prompts = torch.randn(2, 8, 8, 8), ["a cat", ""]
    with torch.no_grad():
        outputs = [m.unet_output(x, 500, m.encode_text(prompts)) for m in (model, back)]
    assert torch.equal(*outputs)


def test_clip_s_tokenizer_is_clip_s() -> None:
    texts = ["make the Circle green, it's 12 o'clock", "déjà vu, naïve café", ""]
    padded = {"padding": "max_length", "max_length": 77, "return_tensors": "pt"}
    assert torch.equal(clip_tokenizer("!")(texts, **padded).input_ids, tokenize(texts))
    # The padding of OpenCLIP's is no special token: where "!" stands for it, as in all published
    # folders, the word "!" becomes it. In the other tokenizer it stays a word.
    words = clip_tokenizer()("Stop! Now").input_ids
    assert words == tokenize("Stop! Now")[0, : len(words)].tolist()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"a": torch.ones(1)}, "holds no whole Stable Diffusion"),
        (None, "is not a safetensors file"),
    ],
)
def test_a_file_that_is_none_is_one_sentence(
    content: dict[str, Tensor] | None,
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "some.safetensors"
    if content is None:
        path.write_bytes(b"nothing")
    else:
        save_file(content, path)
    assert main(["convert", f"--source={path}", f"--output={tmp_path / 'out'}"]) == 1
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_a_file_leaves_open_is_asked_for(
    build_family: BuildBackbone,
    tokenizer_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_file(published("2", build_family("2")), tmp_path / "two.safetensors")
    line = ["convert", f"--source={tmp_path / 'two.safetensors'}", f"--output={tmp_path / 'out'}"]
    assert main([*line, f"--tokenizer={tokenizer_folder}"]) == 1
    assert "say prediction_type epsilon" in capsys.readouterr().err
    assert main([*line, "--prediction_type=v_prediction"]) == 1
    tokens = len(build_family("2").tokenizer)
    expected = f"knows {tokens} tokens and the tokenizer 49408: say tokenizer"
    assert expected in capsys.readouterr().err


def test_stock_pipelines_read_the_folder(
    build_family: BuildBackbone, tokenizer_folder: Path, tmp_path: Path
) -> None:
    for family, kind in (("1", StableDiffusionInstructPix2PixPipeline), ("xl", None)):
        channels = 8 if family == "1" else 4
        source, folder = tmp_path / f"{family}.safetensors", tmp_path / family
        save_file(original_tensors(build_family(family, channels=channels)), source)
        line = [f"--source={source}", f"--output={folder}", f"--tokenizer={tokenizer_folder}"]
        assert main(["convert", *line]) == 0
        (kind or StableDiffusionXLPipeline).from_pretrained(folder)


def _wrapped(name: str) -> str:
    """As a compiled UNet within DataParallel is saved, its average included."""
    if name.startswith("model_ema."):
        return name.replace("diffusion_model", "diffusion_model_orig_mod")
    wrapped = name.replace("model.diffusion_model.", "model.diffusion_model._orig_mod.")
    return f"module.{wrapped}"


NAMES: dict[str, Callable[[str], str]] = {
    "without text_model.": lambda name: name.replace("transformer.text_model.", "transformer."),
    "wrapped": _wrapped,
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("family", ["1", "2", "xl"])
def test_other_spellings_of_the_names_are_read(
    family: str, names: str, build_family: BuildBackbone, tmp_path: Path
) -> None:
    tensors = original_tensors(build_family(family))
    tensors |= {
        "model_ema." + name.removeprefix("model.").replace(".", ""): tensor + 1
        for name, tensor in tensors.items()
        if name.startswith(original_names.UNET)
    }
    save_file({NAMES[names](name): t for name, t in tensors.items()}, tmp_path / "x.safetensors")
    expected = original_tensors(build_family(family))
    assert equal(read_original(tmp_path / "x.safetensors", ema=False)[0], expected)
    averaged = {n: t + n.startswith(original_names.UNET) for n, t in expected.items()}
    assert equal(read_original(tmp_path / "x.safetensors")[0], averaged)


def test_a_pruned_average_leaves_two_counters_that_are_passed_over(
    build_family: BuildBackbone, tmp_path: Path
) -> None:
    tensors = original_tensors(build_family("1"))
    counters = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(9)}
    save_file({**tensors, **counters}, tmp_path / "pruned.safetensors")
    assert equal(read_original(tmp_path / "pruned.safetensors")[0], tensors)


def test_a_tensor_that_a_file_has_twice_is_named(tmp_path: Path) -> None:
    two = {"module.a": torch.ones(1), "a": torch.zeros(1)}
    save_file(two, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match="holds a twice, once as module.a"):
        read_original(tmp_path / "two.safetensors")


@pytest.mark.parametrize(
    ("part", "value", "sentence"),
    [
        ("unet", "owner/name", "unet is 'owner/name'; expected an object"),
        ("vae", "owner/name", "vae is 'owner/name'; expected an object"),
        ("scheduler", "owner/name", "scheduler is 'owner/name'; expected an object"),
        ("text_encoder", [], r"text_encoder is \[\]; expected an object"),
        ("scheduler", {"_class_name": []}, r"_class_name is \[\]; expected a diffusers scheduler"),
        ("settings", {"sampler": []}, r"settings: sampler is \[\]"),
        ("text_encoder", {"vocab_size": -1}, "the file's text_encoder cannot be loaded"),
        (
            "text_encoder",
            {"attn_implementation": "owner/name"},
            "attn_implementation is .owner.name., which would be fetched from a hub",
        ),
        ("unet", {"block_out_channels": "x"}, "the file's UNet2DConditionModel cannot be loaded"),
    ],
)
def test_what_a_file_s_metadata_may_not_say(
    part: str,
    value: Any,
    sentence: str,
    build_family: BuildBackbone,
    tokenizer_folder: Path,
    tmp_path: Path,
) -> None:
    path = tmp_path / "ours.safetensors"
    write_original(build_family("1"), path)
    metadata, tensors = read_tensors(path, "cpu")
    configs = json.loads(metadata["emend"])
    configs[part] = {**configs[part], **value} if isinstance(value, dict) else value
    save_file(tensors, path, {"emend": json.dumps(configs)})
    with pytest.raises(ValueError, match=sentence):
        backbone_of(*read_original(path), tokenizer=tokenizer_folder)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("1", "model.diffusion_model.input_blocks.0.0.weight"),
        ("1", "model.diffusion_model.input_blocks.1.0.in_layers.0.weight"),
        ("1", "first_stage_model.post_quant_conv.weight"),
        ("1", "first_stage_model.encoder.norm_out.weight"),
        ("1", "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"),
        ("2", "cond_stage_model.model.positional_embedding"),
        ("xl", "conditioner.embedders.1.model.text_projection"),
    ],
)
def test_a_tensor_that_a_file_lacks_is_one_sentence(
    family: str, name: str, build_family: BuildBackbone, tokenizer_folder: Path
) -> None:
    tensors = original_tensors(build_family(family))
    tensors[f"{name}x"] = tensors.pop(name)
    with pytest.raises(ValueError, match="the file"):
        backbone_of(tensors, {}, prediction_type="epsilon", tokenizer=tokenizer_folder)

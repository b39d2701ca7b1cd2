"""What a model folder says is data: nothing of it runs or is fetched, faults are sentences."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor

from inference.backbone import Backbone, load_backbone
from inference.clip import load_clip
from inference.loading import check_config, load_tokenizer, require_vocabulary
from inference.shapes import MODELS

DEEP = "[" * 100_000


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of a model folder that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A copy of the shapes world's CLIP."""
    return Path(shutil.copytree(MODELS / "clip", tmp_path / "clip"))


@pytest.fixture(autouse=True)
def on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked, and no hub."""

    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("asked")

    monkeypatch.setattr("builtins.input", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def hostile_code(folder: Path) -> Path:
    """Put code into a folder, and return what is there once it has run."""
    mark = folder.parent / "it-ran"
    code = (
        f"open({str(mark)!r}, 'w')\n"
        "from transformers import PreTrainedTokenizerFast as Own\n"
        "from transformers import ProcessorMixin as OwnProcessor\n"
    )
    (folder / "own.py").write_text(code)
    return mark


def test_a_clip_s_folder_runs_no_code(clip: Path) -> None:
    mark = hostile_code(clip)
    changed(
        clip / "tokenizer_config.json",
        lambda c: c.update(tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", None]}),
    )
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_clip(clip)
    changed(
        clip / "open_clip_config.json",
        lambda c: c["model_cfg"]["text_cfg"].update(tokenizer_kwargs={"trust_remote_code": True}),
    )
    with pytest.raises(ValueError, match="tokenizer_kwargs is .*trust_remote_code"):
        load_clip(clip)
    assert not mark.exists()


def test_a_captioner_s_folder_runs_no_code_and_nobody_is_asked(tmp_path: Path) -> None:
    captioner = tmp_path / "captioner"
    captioner.mkdir()
    mark = hostile_code(captioner)
    own = {"auto_map": {"AutoProcessor": "own.OwnProcessor"}, "processor_class": "OwnProcessor"}
    for name in ("processor_config.json", "preprocessor_config.json", "config.json"):
        (captioner / name).write_text(json.dumps(own))
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_tokenizer(AutoProcessor, captioner)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("tower", "changes", "sentence"),
    [
        ("text_cfg", {"hf_model_name": "owner/name"}, "hf_model_name is 'owner/name'"),
        ("vision_cfg", {"timm_model_name": "hf-hub:owner/name"}, "timm_model_name is 'hf-hub:"),
        ("text_cfg", {"tokenizer_kwargs": {"cache_dir": "/"}}, "tokenizer_kwargs is"),
        ("text_cfg", {"tokenizer_kwargs": "x"}, "tokenizer_kwargs is 'x'"),
        ("text_cfg", {"vocab_size": -1}, "cannot be loaded"),
        ("text_cfg", {"context_length": "x"}, "cannot be loaded"),
        ("vision_cfg", {"width": []}, "cannot be loaded"),
        ("vision_cfg", {"unheard_of": 1}, "cannot be loaded: TypeError: .*unheard_of"),
    ],
)
def test_what_a_clip_s_configuration_may_not_say(
    clip: Path, tower: str, changes: dict[str, Any], sentence: str
) -> None:
    changed(clip / "open_clip_config.json", lambda c: c["model_cfg"][tower].update(changes))
    with pytest.raises(ValueError, match=sentence):
        load_clip(clip)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"model_cfg": {"text_cfg": "x", "vision_cfg": {}}}, "text_cfg is 'x'; expected an object"),
        ({"model_cfg": []}, "text_cfg is None; expected an object"),
        ({}, "text_cfg is None; expected an object"),
        ([], "holds a list; expected an object"),
    ],
)
def test_a_clip_s_configuration_of_another_form(clip: Path, content: Any, sentence: str) -> None:
    (clip / "open_clip_config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=sentence):
        load_clip(clip)


def test_a_clip_without_its_tokenizer_s_files(clip: Path) -> None:
    tokenizer = clip / "tokenizer.json"
    vocabulary = json.loads(tokenizer.read_text())["model"]["vocab"]
    changed(
        tokenizer, lambda c: c["model"].update(vocab=dict([*vocabulary.items()][:50]), merges=[])
    )
    with pytest.raises(ValueError, match=f"and the text encoder {len(vocabulary)}; expected"):
        load_clip(clip)


FILES = [
    ("tokenizer/tokenizer_config.json", "[]", "holds a list; expected an object"),
    ("tokenizer/tokenizer_config.json", DEEP, "nested too deep"),
    ("tokenizer/tokenizer.json", "{}", "tokenizer cannot be loaded as CLIPTokenizer"),
    ("tokenizer/tokenizer.json", DEEP, "nested too deep"),
    ("scheduler/scheduler_config.json", DEEP, "nested too deep"),
    ("scheduler/scheduler_config.json", "[]", "holds a list; expected an object"),
    ("scheduler/scheduler_config.json", '{"_class_name": []}', r"_class_name is \[\]"),
    (
        "scheduler/scheduler_config.json",
        '{"_class_name": "DDIMScheduler", "num_train_timesteps": "x"}',
        "scheduler cannot be loaded as DDIMScheduler",
    ),
    ("emend.json", '{"sampler": []}', r"sampler is \[\]; expected one of"),
    ("emend.json", '{"sampler": {}}', r"sampler is \{\}; expected one of"),
    ("emend.json", DEEP, "nested too deep"),
    ("unet/config.json", "[]", "holds a list; expected an object"),
    ("unet/config.json", '{"block_out_channels": "x"}', "unet cannot be loaded"),
    ("vae/config.json", DEEP, "nested too deep"),
    ("text_encoder/config.json", '{"vocab_size": -1}', "text_encoder cannot be loaded"),
    (
        "text_encoder/config.json",
        '{"attn_implementation": "owner/kernel"}',
        "attn_implementation is 'owner/kernel'",
    ),
    (
        "text_encoder/adapter_config.json",
        '{"base_model_name_or_path": "owner/name"}',
        "holds adapters to another model",
    ),
]


@pytest.mark.parametrize(("name", "content", "sentence"), FILES)
def test_a_broken_file_of_a_model_is_one_sentence(
    folder: Path, name: str, content: str, sentence: str
) -> None:
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=sentence) as error:
        load_backbone(folder)
    assert name.split("/")[0] in str(error.value)


def test_a_tokenizer_without_its_files_is_not_that_of_its_text_encoder(folder: Path) -> None:
    for path in (folder / "tokenizer").iterdir():
        if path.name != "tokenizer_config.json":
            path.unlink()
    with pytest.raises(ValueError, match="tokenizer knows 2 tokens and the text encoder 518"):
        load_backbone(folder)


def test_sdxl_s_second_tokenizer_is_looked_at_too(
    build_backbone: Callable[..., Backbone],
    save_folder: Callable[[Backbone, Path], None],
    tmp_path: Path,
) -> None:
    save_folder(build_backbone(xl=True), tmp_path / "xl")
    load_backbone(tmp_path / "xl")
    (tmp_path / "xl" / "tokenizer_2" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="tokenizer_2: the tokenizer knows 2 tokens"):
        load_backbone(tmp_path / "xl")


@pytest.mark.parametrize(
    ("part", "file"),
    [
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ],
)
def test_a_tensor_of_another_name_is_missed(folder: Path, part: str, file: str) -> None:
    path = folder / part / f"{file}.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[f"{name}x"] = tensors.pop(name)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{part} lacks the tensor .*of a"):
        load_backbone(folder)


def test_old_names_of_a_vae_s_attention_are_known(folder: Path) -> None:
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(path)
    for name in list(tensors):
        for new, former in old.items():
            if f".{new}." in name:
                tensors[name.replace(f".{new}.", f".{former}.")] = tensors.pop(name)
    assert any(".query." in name for name in tensors)
    expected = load_backbone(folder).vae.state_dict()
    save_file(tensors, path, metadata={"format": "pt"})
    found = load_backbone(folder).vae.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_vocabularies_may_differ_by_what_pads_them() -> None:
    require_vocabulary(32_100, 32_128, "T5", room=0.01)
    with pytest.raises(ValueError, match="tokenizer knows 2 tokens and the text encoder 32,128"):
        require_vocabulary(2, 32_128, "T5", room=0.01)
    with pytest.raises(ValueError, match="knows 49,409 tokens and the text encoder 49,408"):
        require_vocabulary(49_409, 49_408, "CLIP")


@pytest.mark.parametrize(
    "config",
    [
        {"vision_config": {"_attn_implementation": "owner/kernel"}},
        {"a": [{"experts_implementation": "owner/kernel@main:f"}]},
        {"backbone": "owner/name"},
        {"use_pretrained_backbone": True},
    ],
)
def test_what_a_hub_would_be_asked_for_is_found_at_any_depth(config: dict[str, Any]) -> None:
    check_config({"attn_implementation": "sdpa", "backbone": None}, "x")
    with pytest.raises(ValueError, match="x: "):
        check_config(config, "x")

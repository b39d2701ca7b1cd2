"""A doctor's checks: what is here, what is not, and what helps."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from inference import readiness
from inference.backbone import load_backbone
from inference.endpoints.config import EndpointConfig
from inference.model_names import SHIPPED, located
from inference.readiness import (
    Check,
    NotReady,
    check_clip,
    check_endpoint,
    check_library,
    check_memory,
    check_model,
    parameters,
    report,
)
from tests.hub import Hub, hub, replace_hub
from tests.provider import Provider, listening

BASE = "owner/base"


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of our own with a model."""
    with hub() as found:
        found.repositories[BASE] = SHIPPED / "stable-diffusion"
        replace_hub(found, tmp_path / "cache", monkeypatch)
        monkeypatch.chdir(tmp_path)
        yield found


def test_a_model_of_the_hub_is_told_with_its_size_and_nothing_is_fetched(online: Hub) -> None:
    check = check_model("pairs.model", BASE)
    size = sum(path.stat().st_size for path in (SHIPPED / "stable-diffusion").rglob("*.*"))
    assert check.ok is False
    assert f"{size / 2**20:.1f} MiB to fetch" in check.said
    assert check.remedy.startswith(f"hf download {BASE} --include")
    assert not online.fetched
    located(BASE)
    assert check_model("pairs.model", BASE).ok is True


def test_offline_its_size_is_not_known(online: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    check = check_model("pairs.model", BASE)
    assert check.ok is False
    assert check.said.endswith("the hub cannot be reached; its size is not known")


def test_a_folder_without_weights_is_not_whole(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHIPPED / "stable-diffusion", tmp_path / "base"))
    assert check_model("base", str(folder)).ok is True
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    assert check_model("base", str(folder)).said == f"{folder / 'unet'} holds no safetensors"
    assert check_model("safety", str(folder / "unet"), "safety").ok is False
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker/model.safetensors").touch()
    for safety in (folder, folder / "safety_checker"):
        assert check_model("safety", str(safety), "safety").ok is True
    shutil.rmtree(folder / "vae")
    assert "vae/config.json is missing" in check_model("base", str(folder)).said
    assert check_model("base", str(tmp_path / "none")).ok is False
    assert check_model("base", "shapes/none").ok is False


def test_an_architecture_of_open_clip_is_looked_for_where_open_clip_will(online: Hub) -> None:
    check = check_clip("pairs.clip", "ViT-L-14-quickgelu/openai")
    assert check.ok is False
    assert check.remedy.startswith("hf download timm/vit_large_patch14_clip_224.openai --include")
    assert check_clip("pairs.clip", "shapes/clip").ok is True


def test_endpoints_are_asked_for_their_models_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(Provider(models=("small", "large"))) as provider:
        config = EndpointConfig(model="small", base_url=provider.base_url)
        assert [check.ok for check in check_endpoint("instructions", config)] == [True, True]
        wrong = EndpointConfig(model="tiny", base_url=provider.base_url)
        assert "has no 'tiny'; it has small, large" in check_endpoint("instructions", wrong)[1].said
        monkeypatch.delenv("A_KEY", raising=False)
        unset = EndpointConfig(model="small", base_url=provider.base_url, key_env="A_KEY")
        key, url = check_endpoint("instructions", unset)
        assert (key.ok, url.ok) == (False, None)
        assert "A_KEY" in key.said
        monkeypatch.setenv("A_KEY", "sk-secret")
        assert not [one for one in check_endpoint("i", unset) if "sk-secret" in f"{one}"]
        assert not provider.requests
    assert check_endpoint("instructions", config)[1].ok is False  # it is gone


def test_memory_is_counted_from_configurations(online: Hub, tmp_path: Path) -> None:
    backbone = load_backbone(SHIPPED / "stable-diffusion")
    expected = sum(
        weight.numel() for module in backbone.modules.values() for weight in module.parameters()
    )
    assert parameters(BASE, ("unet", "vae", "text_encoder", "text_encoder_2")) == expected
    assert not [name for name in online.fetched if name.endswith(".safetensors")]
    assert parameters(str(tmp_path / "none"), ("unet",)) is None or online.asked
    assert check_memory(2.0**20, "weights", on_gpu=False).ok is True
    assert check_memory(2.0**60, "weights", on_gpu=False).ok is False
    assert check_memory(None, "weights", on_gpu=False).ok is None


def test_libraries_are_looked_for_and_not_imported() -> None:
    assert check_library("x", "json", "").ok is True
    assert check_library("x", "no_such_library", "pip install it").remedy == "pip install it"


def test_a_report_tells_all_and_fails_for_what_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = Check(what="output", said="out")
    unsure = Check(what="memory", said="not known", ok=None)
    bad = Check(what="pairs.model", said="is not here", ok=False, remedy="hf download it")
    report([good, unsure], "x")
    with pytest.raises(NotReady, match=r"^x lacks pairs\.model$"):
        report([good, bad, unsure], "x")
    said = capsys.readouterr().out
    assert said.startswith("✓ output  out\n· memory  not known\nx can begin\n")
    assert said.endswith(
        "✗ pairs.model  is not here\n               → hf download it\n· memory       not known\n"
    )
    assert readiness.GIB == 2**30

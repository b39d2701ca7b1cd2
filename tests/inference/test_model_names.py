"""Models by name: folders, those that ship, and repositories of a hub that stands on loopback."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from inference import model_names
from inference.__main__ import main
from inference.backbone import load_backbone
from inference.clip import load_clip
from inference.model_names import SHIPPED, located, located_clip, pinned, repository_of, shown
from inference.shapes import MODELS
from tests.hub import COMMIT, Hub, hub, replace_hub

NAME = "timbrooks/instruct-pix2pix"
WEIGHTS = {
    "text_encoder/model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
}


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of our own with an editor, and an empty cache."""
    folder = Path(shutil.copytree(MODELS / "instruct-pix2pix", tmp_path / "repository"))
    for name in ("model.ckpt", "run.py", "unet/diffusion_pytorch_model.bin"):
        (folder / name).write_bytes(b"a pickle or code")
    for name in ("pruned", "unet/diffusion_pytorch_model.fp16", "safety_checker/model"):
        (folder / f"{name}.safetensors").parent.mkdir(exist_ok=True)
        (folder / f"{name}.safetensors").write_bytes(b"another")
    with hub() as found:
        found.repositories = {NAME: folder, "openai/clip": MODELS / "clip"}
        replace_hub(found, tmp_path / "cache", monkeypatch)
        monkeypatch.chdir(tmp_path)
        yield found


@pytest.fixture
def offline(online: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The same, out of reach."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return online


def test_a_repository_is_fetched_once_without_pickles_code_and_variants(online: Hub) -> None:
    folder = located(NAME)
    assert {name for name in online.fetched if name.endswith(".safetensors")} == WEIGHTS
    assert not {Path(name).suffix for name in online.fetched} - {".json", ".safetensors", ".txt"}
    assert load_backbone(folder).unet.config.in_channels == 8
    before = len(online.fetched)
    assert located(f"hf-hub:{NAME}") == folder
    assert len(online.fetched) == before


def test_a_name_edits_as_its_folder_does(online: Hub, tmp_path: Path) -> None:
    picture = Path(__file__).parents[2] / "docs/circle.png"
    for model in (NAME, "shapes/instruct-pix2pix"):
        line = ["edit", "--images", str(picture), "--instruction", "make the circle green"]
        output = tmp_path / f"{model.partition('/')[0]}.png"
        assert main([*line, "--model", model, "--steps", "2", "--output", str(output)]) == 0
    assert (tmp_path / "timbrooks.png").read_bytes() == (tmp_path / "shapes.png").read_bytes()


def test_the_commit_is_written_down_and_names_the_same_for_ever(
    online: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = located(NAME)
    assert pinned(NAME) == shown(folder) == f"{NAME}@{COMMIT}"
    asked = len(online.asked)
    assert located(f"{NAME}@{COMMIT}") == folder
    assert len(online.asked) == asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert located(pinned(NAME)) == located(f"{NAME}@{COMMIT}") == folder


def test_configurations_come_without_weights(online: Hub) -> None:
    assert (located(NAME, weights=False) / "unet/config.json").is_file()
    assert not [name for name in online.fetched if name.endswith(".safetensors")]
    assert {
        path.relative_to(folder).as_posix()
        for folder in [located(NAME)]
        for path in folder.rglob("*.safetensors")
    } >= WEIGHTS


def test_offline_the_command_that_fetches_it_is_told(offline: Hub) -> None:
    with pytest.raises(FileNotFoundError) as told:
        located(NAME)
    said = str(told.value)
    assert said.startswith(f"there is no folder {NAME}, and the hub cannot be reached")
    command = said.partition("fetch it: ")[2]
    assert command.startswith(f"hf download {NAME} --include ")
    assert '--include "unet/diffusion_pytorch_model.safetensors"' in command
    assert ".bin" not in command
    assert not offline.asked


def test_the_command_fetches_what_is_then_found_offline(
    online: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = repository_of(NAME, "pipeline")
    assert repository is not None
    environment = {"HF_ENDPOINT": online.url, "HF_HUB_CACHE": constants.HF_HUB_CACHE}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    hf, *words = shlex.split(repository.command)
    subprocess.run(
        [Path(sys.executable).with_name(hf), *words],
        env=os.environ | environment,
        check=True,
        capture_output=True,
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_backbone(located(NAME)).unet.config.in_channels == 8
    assert not {Path(name).suffix for name in online.fetched} - {".json", ".safetensors", ".txt"}


def test_what_is_half_fetched_is_told_as_what_is_not(
    online: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    located(NAME, weights=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert located(NAME, weights=False).is_dir()
    with pytest.raises(FileNotFoundError, match="nor is the model whole in its cache"):
        located(NAME)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nobody/nothing", "the hub has no model of that name"),
        ("owner/gated", "accept the terms of https://huggingface.co/owner/gated"),
        ("owner/pickles", "holds no safetensors of this kind"),
    ],
)
def test_what_the_hub_refuses_is_a_sentence(
    online: Hub, tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "pickles/unet").mkdir(parents=True)
    (tmp_path / "pickles/unet/config.json").write_text("{}")
    (tmp_path / "pickles/unet/diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    online.repositories["owner/pickles"] = tmp_path / "pickles"
    online.gated.add("owner/gated")
    with pytest.raises((FileNotFoundError, ValueError), match=said):
        located(name)


def test_a_clip_of_the_hub_is_an_open_clip_folder(online: Hub) -> None:
    scorer = load_clip("openai/clip")
    assert scorer.size == load_clip("shapes/clip").size
    assert {Path(name).suffix for name in online.fetched} <= {".json", ".safetensors", ".txt"}


def test_architectures_of_open_clip_are_no_repositories(offline: Hub) -> None:
    assert located_clip("ViT-L-14-quickgelu/openai") == "ViT-L-14-quickgelu/openai"
    with pytest.raises(FileNotFoundError, match="hf download owner/clip"):
        located_clip("owner/clip")


@pytest.mark.parametrize(
    "name",
    [
        "models/x",
        "out/editor/model",
        "model",
        "./owner/name",
        "/owner/name",
        "shapes/clip",
        "x/y.ckpt",
    ],
)
def test_paths_are_not_asked_of_the_hub(offline: Hub, tmp_path: Path, name: str) -> None:
    (tmp_path / "models").mkdir()
    found = located(name)
    assert found == (SHIPPED / "clip" if name == "shapes/clip" else Path(name))


def test_a_folder_comes_before_a_name(offline: Hub, tmp_path: Path) -> None:
    for name in (NAME, "shapes/clip"):
        (tmp_path / name).mkdir(parents=True)
        assert located(name) == Path(name)


def test_models_that_ship_are_listed_where_one_is_not(offline: Hub) -> None:
    for name in ("shapes/clp", "shapes/", "shapes/..", "shapes/clip/.."):
        with pytest.raises(FileNotFoundError, match="; those that ship are shapes/clip, shapes/i"):
            located(name)


def test_names_are_shown_and_places_are_not(tmp_path: Path) -> None:
    assert shown(MODELS / "clip") == shown("shapes/clip") == "shapes/clip"
    assert shown(tmp_path / "somewhere/mine") == "mine"
    assert shown("ViT-L-14/openai") == "ViT-L-14/openai"
    assert model_names.shown("gpt-4.1-mini") == "gpt-4.1-mini"

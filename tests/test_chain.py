"""The recipes of real weights, end to end, as their headers say: data, training, an edit.

Narrow models of Stable Diffusion's layout stand on a hub of our own in place of the downloads, and
a provider of our own in place of Ollama. Beyond that only thresholds are opened and sizes lowered.
"""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from emend.__main__ import main
from inference.backbone import Backbone
from tests.hub import COMMIT, hub, replace_hub
from tests.provider import Provider, listening
from tests.tiny import BuildBackbone

BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
PICTURE = Path(__file__).parents[1] / "docs/circle.png"
OPEN = "{image_image: -1, text_source: -1, text_edited: -1, directional: -1}"


@pytest.fixture
def downloads(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    build_backbone: BuildBackbone,
    save_folder: Callable[[Backbone, Path], None],
):
    """A hub that has the base, an empty cache, and an empty folder to work in."""
    save_folder(build_backbone("epsilon"), tmp_path / "base")
    work = tmp_path / "work"
    work.mkdir()
    with hub() as found:
        found.repositories[BASE] = tmp_path / "base"
        replace_hub(found, tmp_path / "cache", monkeypatch)
        monkeypatch.chdir(work)
        yield found


def done(*words: str) -> None:
    """Run `emend`, which must succeed."""
    try:
        code = main(words)
    except SystemExit as ended:
        code = ended.code
    assert not code, words


def test_laptop_then_one_gpu_then_an_edit(downloads, capsys: pytest.CaptureFixture[str]) -> None:
    Path("captions.txt").write_text("a red circle\na red square\n")
    with listening(Provider(models=("qwen3:8b",))) as ollama:
        line = ["laptop-sd15", "--captions.file=captions.txt", "--captions.count=2"]
        line += [f"--instructions.base_url={ollama.base_url}", "--pairs.clip=shapes/clip"]
        line += [f"--pairs.filter.thresholds={OPEN}"]
        line += ["--pairs.render.size=32", "--pairs.render.steps=2"]
        assert main(["doctor", line[0], *line[1:]]) == 1  # the weights are not here yet
        assert "lacks pairs.model\n" in capsys.readouterr().err
        done("data", "estimate", "--config", *line)
        assert not [name for name in downloads.fetched if name.endswith(".safetensors")]
        done("data", "run", "--config", *line)
        assert {body["model"] for body in ollama.requests} == {"qwen3:8b"}
    shard = next(Path("out/laptop-sd15/data/shards").glob("*.tar"))
    with tarfile.open(shard) as tar:
        described = next(member for member in tar if member.name.endswith(".json"))
        provenance = json.load(tar.extractfile(described))["provenance"]
    assert provenance["model"] == f"{BASE}@{COMMIT}"
    receipt = json.loads(Path("out/laptop-sd15/data/receipts/00000.json").read_text())
    assert receipt["provenance"] == provenance
    fetched = len(downloads.fetched)

    done(
        *("train", "fit", "--config", "sd15-1gpu", "--trainer.accelerator=cpu"),
        *("--trainer.max_steps=2", "--data.batch_size=4", "--data.num_workers=1"),
        *("--data.framing.resolution=32", "--data.framing.enlarge_to=36"),
        "--model.speed.compile=false",  # a minute of a CPU
    )
    run = Path("out/sd15-1gpu/editor")
    recipe = yaml.safe_load(next(run.glob("logs/**/config.yaml")).read_text())
    assert json.loads((run / "run.json").read_text())["base"] == f"{BASE}@{COMMIT}"
    assert recipe["model"]["base"] == f"{BASE}@{COMMIT}"
    assert f"- Base: {BASE}@{COMMIT}" in (run / "model/README.md").read_text()
    assert len(downloads.fetched) == fetched

    done(
        *("edit", "--model", str(run / "model"), "--images", str(PICTURE), "--steps=2"),
        *("--instruction", "make it blue", "--output", "edited.png"),
    )
    with Image.open("edited.png") as edited, Image.open(PICTURE) as source:
        assert edited.size == source.size

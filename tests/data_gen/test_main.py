"""The command: the whole chain on tiny models, every shipped recipe, and errors in one sentence."""

import errno
import json
import os
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
import torch

from data_gen import __main__, stages, text_stages
from data_gen.instructions import stage as instructions
from data_gen.judging.config import FilterKnobs, ScorerKnobs
from data_gen.judging.judge_knobs import JudgeKnobs
from data_gen.recipe import PairKnobs, Recipe
from data_gen.records import EditTriplet, triplet_to_json
from data_gen.rendering.config import RenderKnobs
from data_gen.runs.units import Paint
from data_gen.shards import ShardIndex
from data_gen.stages import make_pairs
from inference.backbone import Backbone
from inference.files import write_lines
from inference.model_names import located, repository_of
from tests.conftest import BuildBackbone


class NoBar:
    """Stands in for the progress bar, which writes to the stream that is looked at."""

    def __init__(self, **kwargs: object) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None: ...

    def update(self) -> None: ...

    def set_postfix(self, **kwargs: object) -> None: ...


ROOT = Path(__file__).parents[2]
OPEN = "{image_image: -1, text_source: -1, text_edited: -1, directional: -1}"
CLIP = str(ROOT / "inference/shapes/models/clip")
RECIPES = sorted((ROOT / "data_gen" / "recipes").glob("*.yaml"))


@pytest.fixture
def data(tmp_path: Path, triplets: list[EditTriplet]) -> Path:
    """A data set's folder after the instruction stage."""
    write_lines(tmp_path / "data" / "triplets.jsonl", map(triplet_to_json, triplets))
    return tmp_path / "data"


def error_of(capsys: pytest.CaptureFixture[str], *line: str, code: int = 1) -> str:
    """Run a command that must fail; its one line of error."""
    try:
        found = __main__.main(line)
    except SystemExit as end:
        found = end.code  # type: ignore[assignment]
    lines = capsys.readouterr().err.strip().splitlines()
    assert found == code
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_say_what_exists(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Recipe] = []
    monkeypatch.setattr(text_stages, "make_captions", seen.append)
    monkeypatch.chdir(ROOT)
    assert __main__.main(["captions", "--config", str(path)]) == 0
    (recipe,) = seen
    assert recipe.output.parts[0] == "out"
    head = path.read_text().split("output:")[0]
    assert f"--config {path.stem}" in head
    for model in filter(None, (recipe.pairs.model, recipe.pairs.vae)):
        # Ours are here; others have names on the hub.
        assert repository_of(model, "pipeline") or located(model).is_dir()
    if recipe.instructions.base_url is None:
        assert located(recipe.instructions.model).is_dir()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_render(path: Path, data: Path, tiny_folder: Path) -> None:
    """Each with its own sampler, sharing and filter, on tiny models and a few steps."""
    line = ["pairs", "--config", str(path), "--output", str(data), "--executor.kind", "in_process"]
    line += ["--pairs.model", str(tiny_folder), "--pairs.vae", "null", "--pairs.clip", CLIP]
    line += ["--pairs.precision", "float32", "--pairs.filter.at_most", "{}"]
    line += ["--pairs.render.size", "32", "--pairs.render.steps", "3", "--pairs.render.seeds", "2"]
    assert __main__.main([*line, "--pairs.filter.thresholds", OPEN]) == 0
    assert 10 <= len(ShardIndex(data)) <= 40


def test_pairs_are_made_of_an_sdxl(
    data: Path,
    build_backbone: BuildBackbone,
    save_folder: Callable[[Backbone, Path], None],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "private" / "xl"
    save_folder(build_backbone(xl=True), folder)
    line = ["pairs", "--output", str(data), "--pairs.model", str(folder), "--pairs.clip", CLIP]
    line += ["--pairs.render.share", "both", "--pairs.render.steps", "3"]
    line += ["--pairs.render.seeds", "1"]
    assert __main__.main([*line, "--pairs.filter.thresholds", OPEN]) == 0
    index = ShardIndex(data)
    assert len(index) == 10
    assert index.read(0).source.shape == (32, 32, 3)
    with tarfile.open(data / index[0].shard) as members:
        content = members.extractfile(f"{index[0].key}.json")
        assert content is not None
        provenance = json.loads(content.read())["provenance"]
    # Not where they lie on this machine: shards get published.
    assert (provenance["model"], provenance["clip"]) == ("xl", "shapes/clip")


def test_captions_stand_where_the_next_stage_looks(tmp_path: Path) -> None:
    recipe = ROOT / "data_gen/recipes/shapes.yaml"
    line = ["captions", "--config", str(recipe), "--output", str(tmp_path)]
    assert __main__.main([*line, "--captions.count", "3"]) == 0
    assert len((tmp_path / "captions.jsonl").read_text().splitlines()) == 3


def test_the_pair_stage_publishes_once_all_partitions_are_done(
    data: Path, paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "painter", lambda *_: paint)
    line = ["pairs", "--output", str(data), "--pairs.unit_size", "4"]
    assert __main__.main([*line, "--partition", "0/2"]) == 0
    assert not (data / "index.parquet").exists()
    assert __main__.main([*line, "--partition", "1/2"]) == 0
    assert len(ShardIndex(data)) > 0


def test_models_on_a_cpu_keep_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str | torch.device] = []
    monkeypatch.setattr(stages, "keep_memory", calls.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(ROOT)
    stages.load_models(PairKnobs())
    assert [str(device) for device in calls] == ["cpu"]


def test_all_that_decides_the_bytes_is_in_the_fingerprint(
    triplets: list[EditTriplet], tmp_path: Path
) -> None:
    (tmp_path / "unet.safetensors").write_bytes(b"one")
    knobs: list[Mapping[str, Any]] = [
        {},
        {"model": str(tmp_path)},
        {"clip": "ViT-L-14/openai"},
        {"precision": "float16"},
        {"channels_last": True},
        {"compile": True},
        {"scorers": ScorerKnobs(dino=str(tmp_path / "dino"))},
        {"scorers": ScorerKnobs(safety=str(tmp_path / "dino"))},
        {"scorers": ScorerKnobs(judge=JudgeKnobs(model="one", base_url="http://here/v1"))},
        {"scorers": ScorerKnobs(judge=JudgeKnobs(model="two", base_url="http://here/v1"))},
        {"unit_size": 4},
        {"keep_rejected": 0},
        {"render": RenderKnobs(steps=7)},
        {"filter": FilterKnobs(keep=7)},
    ]
    found = {stages.plan_units(triplets, PairKnobs(**some))[0].fingerprint for some in knobs}
    (tmp_path / "unet.safetensors").write_bytes(b"two")
    found.add(stages.plan_units(triplets, PairKnobs(model=str(tmp_path)))[0].fingerprint)
    # Where a judge is, and how patient one is with it, changes no answer.
    judge = JudgeKnobs(model="two", base_url="http://elsewhere/v1", timeout_s=1.0, concurrency=9)
    moved = PairKnobs(scorers=ScorerKnobs(judge=judge))
    found.add(stages.plan_units(triplets, moved)[0].fingerprint)
    assert len(found) == len(knobs) + 1


def test_failed_units_are_an_error_that_says_run_again(
    data: Path, paint: Paint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(triplets: Sequence[EditTriplet]) -> Iterator[Any]:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(stages, "painter", lambda *_: broken)
    monkeypatch.setattr(stages, "ProgressBar", NoBar)
    said = error_of(capsys, "pairs", "--output", str(data))
    assert "1 units failed" in said
    assert "run again" in said


def test_a_full_disk_is_one_sentence(
    data: Path, paint: Paint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stages, "painter", lambda *_: paint)
    monkeypatch.setattr(stages, "ProgressBar", NoBar)
    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in error_of(capsys, "pairs", "--output", str(data))


def test_a_truncated_index_is_one_sentence(
    data: Path, paint: Paint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stages, "painter", lambda *_: paint)
    make_pairs(Recipe(output=data))
    part = next((data / "shards").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-9])
    capsys.readouterr()
    assert "is truncated" in error_of(capsys, "pairs", "--output", str(data))


def test_a_server_that_is_down_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(instructions, "ProgressBar", NoBar)
    __main__.main(["captions", "--output", str(tmp_path), "--captions.count", "1"])
    said = error_of(
        capsys,
        *("instructions", "--output", str(tmp_path), "--instructions.max_retries", "0"),
        *("--instructions.base_url", "http://127.0.0.1:9/v1"),
    )
    assert "http://127.0.0.1:9/v1 is down" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--partition", "5/5"], "partition must be i/n"),
        (["--pairs.model", "./none"], "there is no model folder none"),
        (["--pairs.model", "owner/none"], "fetch it: hf download owner/none --include"),
        (["--pairs.vae", "./none"], "there is no autoencoder in none"),
        (["--pairs.clip", "./none"], "the CLIP model 'none' is neither a folder"),
        (["--pairs.clip", "ViT-B-32/openai"], "give pairs.filter.thresholds in the recipe"),
        (
            ["--pairs.clip", "ViT-B-32/openai", "--pairs.filter.thresholds", OPEN],
            "fetch it: hf download timm/vit_base_patch32_clip_224.openai --include",
        ),
        (["--pairs.scorers.dino", "./none"], "there is no model in none"),
        (["--pairs.scorers.safety", "./none"], "there is no model in none"),
        (["--pairs.scorers.aesthetic.head", "none"], "aesthetic.head: there is no file none"),
    ],
)
def test_what_pairs_will_lack_is_said_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: list[str], said: str
) -> None:
    output = tmp_path / "data"
    line = [*line, "--instructions.base_url", "http://127.0.0.1:9/v1"]
    assert said in error_of(capsys, "run", "--output", str(output), *line)
    assert not output.exists()


def test_a_missing_ray_is_said_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "data_gen.runs.ray_actors", raising=False)
    output = tmp_path / "data"
    said = error_of(capsys, "run", "--output", str(output), "--executor.kind", "ray")
    assert "pip install 'emend[ray]'" in said
    assert not output.exists()


@pytest.mark.parametrize("command", ["run", "pairs"])
def test_a_run_into_an_imported_folder_is_refused(
    published: Path,
    triplets: list[EditTriplet],
    capsys: pytest.CaptureFixture[str],
    command: str,
    paint: Paint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stages, "painter", lambda *_: paint)
    monkeypatch.setattr(stages, "ProgressBar", NoBar)
    (published / "import.json").write_text("{}\n")
    write_lines(published / "triplets.jsonl", map(triplet_to_json, triplets[:4]))
    before = {path: path.read_bytes() for path in published.rglob("*") if path.is_file()}
    said = error_of(capsys, command, "--output", str(published))
    assert f"{published} holds pairs that were imported: give another output" in said
    assert {path: path.read_bytes() for path in published.rglob("*") if path.is_file()} == before


def test_an_empty_captions_file_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    said = error_of(capsys, "run", "--output", str(tmp_path / "x"), "--captions.file", str(empty))
    assert f"no captions in {empty}" in said


@pytest.mark.parametrize(
    ("stage", "said"),
    [("instructions", "run the captions stage first"), ("pairs", "run the instructions stage")],
)
def test_a_stage_too_early_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str, said: str
) -> None:
    assert said in error_of(capsys, stage, "--output", str(tmp_path))


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"captions": {"cuont": 7}}, "captions.cuont"),
        ({"captions": {"count": "many"}}, "captions.count"),
        ({"pairs": {"render": {"share": "all"}}}, "pairs.render"),
        ({"outptu": "x"}, "outptu"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: dict[str, Any], said: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"output": str(tmp_path)} | recipe))
    assert said in error_of(capsys, "run", "--config", str(path), code=2)

"""Push: what is published reads back whole, with stock readers, and its card holds only words."""

import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest
import webdataset
import yaml
from markdown_it import MarkdownIt

from data_gen import __main__
from data_gen.publishing import card, push
from data_gen.records import EditTriplet, ImagePair
from data_gen.shards import INDEX_FILE, ShardIndex, scan_shard, shard_writer, write_index
from data_gen.survey.verify import inspect

LICENSE = ("--license", "cc-by-4.0")


@pytest.fixture
def pushed(published: Path, tmp_path: Path) -> Path:
    line = ["push", "--data", str(published), "--to", str(tmp_path / "pushed"), *LICENSE]
    assert __main__.main(line) == 0
    return tmp_path / "pushed"


def described(root: Path) -> dict[str, Any]:
    """Key -> the JSON of every pair."""
    stock = webdataset.WebDataset(
        sorted(map(str, root.glob("shards/*.tar"))), shardshuffle=False, empty_check=False
    )
    return {sample["__key__"]: json.loads(sample["json"]) for sample in stock}


def test_every_pair_and_field_comes_back(published: Path, pushed: Path) -> None:
    assert described(pushed) == described(published)
    before, after = ShardIndex(published), ShardIndex(pushed)
    after.require_complete()
    assert len(before) == len(after)
    for position in range(len(before)):
        one, other = before.read(position), after.read(position)
        assert np.array_equal(one.source, other.source)
        assert np.array_equal(one.edited, other.edited)
        assert (one.key, one.triplet, one.scores) == (other.key, other.triplet, other.scores)
    assert inspect(pushed, swaps=False).faults == []
    assert [path.name for path in pushed.glob("shards/*")] == ["train-00000-of-00001.tar"]


def test_the_folder_is_a_data_set_to_stock_datasets(pushed: Path, tmp_path: Path) -> None:
    stock = datasets.load_dataset(str(pushed), split="train", cache_dir=str(tmp_path / "cache"))
    found = {row["__key__"]: row["json"] for row in stock.remove_columns(["input.jpg"])}
    assert found == described(pushed)


def test_the_card_says_what_is_there(pushed: Path) -> None:
    _, front, body = (pushed / "README.md").read_text().split("---\n", 2)
    found = yaml.safe_load(front)
    assert found["license"] == "cc-by-4.0"
    assert found["size_categories"] == "n<1K"
    pairs = len(ShardIndex(pushed))
    assert found["dataset_info"]["splits"][0]["num_examples"] == pairs
    assert f"| recolour | {pairs} | 100.0 % |" in body
    assert "make it blue" in body


def test_a_shard_holds_whole_units_up_to_its_size(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "_MEMBER_OVERHEAD", 2**20)  # pairs that weigh something
    push.push(published, str(tmp_path / "x"), "mit", shard_mib=1)
    assert len(list((tmp_path / "x" / "shards").glob("*.tar"))) == 2
    assert described(tmp_path / "x") == described(published)


def test_texts_are_words_on_the_card(tmp_path: Path, make_pair: Callable[..., ImagePair]) -> None:
    evil = "[a](http://evil.example) <script>x</script> | ![](x) `rm` www.evil.example\n# big\n$x$"
    triplet = EditTriplet.of(
        caption="a", instruction=evil, edited_caption=evil, edit_type=evil, inverse_instruction=""
    )
    source = tmp_path / "set"
    (source / "shards").mkdir(parents=True)
    with shard_writer(source / "shards" / "0.tar", {"model": evil}) as writer:
        writer.write(make_pair(triplet))
    write_index(source / INDEX_FILE, scan_shard(source / "shards" / "0.tar", "shards/0.tar"))
    push.push(source, str(tmp_path / "x"), "mit", name=evil)
    body = (tmp_path / "x" / "README.md").read_text().split("---\n", 2)[2]
    assert body.count(str(card.words(evil))) == 5  # title, type, instruction, caption, model
    page = MarkdownIt("commonmark").enable("table").render(body)
    for tag in ("<script", "<a ", "<img", "<h1>x", "<em>"):
        assert tag not in page
    assert page.count("<h1>") == 1
    assert page.count("<td>" + html.escape(" ".join(evil.split())) + "</td>") == 2
    assert "www.evil" not in body  # GitHub makes links of such words
    assert "://evil" not in body


def test_words_leave_plain_texts_alone() -> None:
    assert card.words("make it blue, please; don't (really)") == (
        "make it blue, please; don't (really)"
    )


def test_the_recipe_stands_in_a_fence_it_cannot_leave(published: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("output: x\n# ```\n# <b>\n")
    push.push(published, str(tmp_path / "x"), "mit", recipe=recipe)
    assert "````yaml\noutput: x\n# ```\n# <b>\n````\n" in (tmp_path / "x" / "README.md").read_text()
    push.push(published, str(tmp_path / "y"), "mit", recipe=Path("shapes-quickstart"))
    assert "\noutput: out/quickstart/data\n" in (tmp_path / "y" / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--license", "My License!"), "expected the hub's name"),
        (("--license", "mit", "--to", "s3://bucket/x"), "expected a folder or hf://datasets/"),
    ],
)
def test_wrong_options_are_one_sentence(
    published: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    said: str,
) -> None:
    line = ["push", "--data", str(published), "--to", str(tmp_path / "x"), *options]
    assert __main__.main(line) == 1
    assert said in capsys.readouterr().err


def test_shards_hold_something(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["push", "--data", str(published), "--to", str(tmp_path / "x"), "--license", "mit"]
    with pytest.raises(SystemExit) as ended:
        __main__.main([*line, "--shard_mib", "0"])
    assert ended.value.code == 2
    assert "--shard_mib is 0; expected a whole number from 1 to" in capsys.readouterr().err


def test_keys_in_a_recipe_are_not_published(published: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("base_url: https://me:secret@host/v1\n")
    with pytest.raises(ValueError, match="looks like a key"):
        push.push(published, str(tmp_path / "x"), "mit", recipe=recipe)


def test_a_set_with_faults_is_not_published(published: Path, tmp_path: Path) -> None:
    min(published.glob("shards/*.tar")).unlink()
    with pytest.raises(ValueError, match="run verify"):
        push.push(published, str(tmp_path / "x"), "mit")
    assert not (tmp_path / "x").exists()


def test_what_is_there_is_not_overwritten(published: Path, pushed: Path) -> None:
    with pytest.raises(FileExistsError, match="not empty"):
        push.push(published, str(pushed), "mit")
    assert not list(pushed.parent.glob(".pushed*"))


def test_the_hub_gets_the_folder_in_one_commit(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is handed to huggingface_hub; the hub itself cannot be reached from a test."""
    made: list[tuple[str, bool]] = []
    sent: list[dict[str, Any]] = []

    class Api:
        def create_repo(self, name: str, *, private: bool, **rest: object) -> None:
            made.append((name, private))

        def upload_folder(self, *, folder_path: Path, **rest: Any) -> None:
            files = {path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*")}
            sent.append({**rest, "files": files})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    push.push(published, "hf://datasets/me/edits", "mit")
    assert made == [("me/edits", True)]
    assert sent[0]["repo_id"] == "me/edits"
    assert sent[0]["repo_type"] == "dataset"
    assert {"README.md", INDEX_FILE, "shards/train-00000-of-00001.tar"} <= sent[0]["files"]


def test_a_hub_that_cannot_be_reached_is_one_sentence(
    published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    line = ["push", "--data", str(published), "--to", "hf://datasets/me/edits", *LICENSE]
    assert __main__.main(line) == 1
    assert "error: the hub did not take me/edits" in capsys.readouterr().err


def test_the_name_of_a_repository_is_no_folder(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"give hf://datasets/owner/name .*, or \./owner/name"):
        push.push(published, "owner/name", "cc-by-4.0")
    assert not (tmp_path / "owner").exists()

"""The contact sheet: what it shows, and that nothing on it can be more than words and pictures."""

import base64
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from data_gen import __main__
from data_gen.records import EditTriplet, ImagePair
from data_gen.shards import INDEX_FILE, ShardIndex, scan_shard, shard_writer, write_index
from data_gen.survey.sheet import sheet

EVIL = "<script>alert(1)</script>\"' onload=x <img src=https://evil.example/x> \u202egnp.exe"


class Page(HTMLParser):
    """The tags of a page with their attributes, and the text of its figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(published: Path, tmp_path: Path) -> str:
    output = tmp_path / "sheet.html"
    assert __main__.main(["sheet", "--data", str(published), "--output", str(output)]) == 0
    return output.read_text()


def test_kept_and_rejected_pairs_are_shown(page: str, published: Path) -> None:
    figures = Page(page).all("figure")
    kept = [one for one in figures if one["data-verdict"] == "kept"]
    assert len(kept) == len(ShardIndex(published))
    assert len(figures) - len(kept) == 4  # two of each unit
    assert "directional" in Page(page).words  # the reason of those
    assert {one["data-kind"] for one in figures} == {"recolour"}


def test_pictures_are_those_of_the_shards(page: str, published: Path) -> None:
    uris = [image["src"] or "" for image in Page(page).all("img")]
    pictures = [base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")) for uri in uris]
    assert len(pictures) == 2 * len(Page(page).all("figure"))
    assert {Image.open(io.BytesIO(picture)).size for picture in pictures} == {(16, 16)}


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    for tag, attributes in Page(page).tags:
        for name in ("src", "href", "action", "data", "style"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    assert "https://" not in page
    assert "http://" not in page


def test_the_policy_lets_only_the_own_script_run(page: str) -> None:
    policy = Page(page).all("meta")[1]["content"] or ""
    assert "default-src 'none'" in policy
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_texts_are_escaped(tmp_path: Path, make_pair: Callable[..., ImagePair]) -> None:
    evil = {name: f"{EVIL} {name}" for name in ("caption", "instruction", "edited_caption")}
    triplet = EditTriplet.of(**evil, edit_type=EVIL, inverse_instruction="x")
    (tmp_path / "shards").mkdir()
    with shard_writer(tmp_path / "shards" / "0.tar", {}) as writer:
        writer.write(make_pair(triplet))
    write_index(tmp_path / INDEX_FILE, scan_shard(tmp_path / "shards" / "0.tar", "shards/0.tar"))
    sheet(tmp_path, tmp_path / "sheet.html")
    found = Page((tmp_path / "sheet.html").read_text())
    assert len(found.all("script")) == 1
    assert len(found.all("img")) == 2
    assert evil["instruction"] in found.words
    assert found.all("figure")[0]["data-kind"] == EVIL


def test_a_sample_is_a_function_of_its_seed(published: Path, tmp_path: Path) -> None:
    def keys(seed: int) -> list[str]:
        sheet(published, tmp_path / "x.html", pairs=5, rejected=1, seed=seed)
        return re.findall(r"<code>(.*?)</code>", (tmp_path / "x.html").read_text())

    assert len(keys(0)) == 6
    assert keys(0) == keys(0)
    assert keys(0) != keys(1)


def test_pictures_are_made_small(
    tmp_path: Path, triplets: list[EditTriplet], make_pair: Callable[..., ImagePair]
) -> None:
    pair = make_pair(triplets[0])
    large = replace(pair, source=pair.source.repeat(40, 0).repeat(20, 1))
    (tmp_path / "shards").mkdir()
    with shard_writer(tmp_path / "shards" / "0.tar", {}) as writer:
        writer.write(large)
    write_index(tmp_path / INDEX_FILE, scan_shard(tmp_path / "shards" / "0.tar", "shards/0.tar"))
    sheet(tmp_path, tmp_path / "sheet.html", size=64)
    uri = Page((tmp_path / "sheet.html").read_text()).all("img")[0]["src"] or ""
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        assert image.size == (32, 64)


def test_an_unfinished_set_is_shown_and_a_lost_shard_is_said(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (published / INDEX_FILE).unlink()
    total = sum(len(scan_shard(tar, "x.tar")) for tar in published.glob("shards/*.tar"))
    lost = min(published.glob("shards/*.tar"))
    missing = len(scan_shard(lost, "x.tar"))
    lost.unlink()
    sheet(published, tmp_path / "x.html", rejected=0)
    assert len(Page((tmp_path / "x.html").read_text()).all("figure")) == total - missing
    assert f"not shown, {missing} times" in capsys.readouterr().out


ODD = [
    {"p": "x"},
    {"edit_type": ["a"]},
    {"caption": {"text": "a red circle"}},
    {"scores": []},
    {"scores": {"image_image": "high"}},
    {"key": None},
    {"seed_index": 0.5},
]


def test_pairs_of_odd_types_are_counted_and_the_others_shown(
    tmp_path: Path,
    triplets: list[EditTriplet],
    make_pair: Callable[..., ImagePair],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tar = tmp_path / "shards" / "0.tar"
    for folder in ("shards", "rejected"):
        (tmp_path / folder).mkdir()
    pairs = [make_pair(triplet, seed) for triplet in triplets[:2] for seed in range(5)]
    with shard_writer(tar, {}) as writer:
        writer.write(*pairs)
    rows = scan_shard(tar, "shards/0.tar")
    content = bytearray(tar.read_bytes())
    for row, odd in zip(rows, ODD, strict=False):
        start, stop = row.json_offset, row.json_offset + row.json_size
        said = json.dumps(json.loads(content[start:stop]) | odd).encode()
        content[start:stop] = said.ljust(row.json_size)  # it was indented: there is room
    tar.write_bytes(content)
    shutil.copyfile(tar, tmp_path / "rejected" / "0.tar")
    write_index(tmp_path / INDEX_FILE, [*rows, rows[-1]])
    sheet(tmp_path, tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text()
    shown = [figure["data-verdict"] for figure in Page(page).all("figure")]
    assert shown.count("kept") == len(pairs) - len(ODD)
    assert len(shown) == 2 * (len(pairs) - len(ODD))  # as many turned down
    assert f"{2 * len(ODD) + 1} could not be read" in page  # and the second row of a key
    assert "its JSON has" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "said"),
    [(("--pairs", "0"), "at least 1"), (("--size", "9"), "16 to 1024"), ((), "holds no pairs")],
)
def test_what_is_wrong_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, ...], said: str
) -> None:
    line = ["sheet", "--data", str(tmp_path), "--output", str(tmp_path / "x.html"), *option]
    assert __main__.main(line) == 1
    assert said in capsys.readouterr().err

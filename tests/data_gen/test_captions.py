"""Captions are distinct, reproducible, and their absence is an error."""

from pathlib import Path

import pytest

from data_gen.captions import CaptionKnobs, SceneKnobs, read_captions, write_captions
from inference.shapes.captions import parse


def test_more_captions_keep_the_old_ones(tmp_path: Path) -> None:
    few = write_captions(CaptionKnobs(count=5), tmp_path / "few.jsonl")
    many = write_captions(CaptionKnobs(count=20), tmp_path / "many.jsonl")
    assert many[:5] == few == read_captions(tmp_path / "few.jsonl")
    assert len({caption.id for caption in many}) == 20
    assert write_captions(CaptionKnobs(count=5, seed=1), tmp_path / "few.jsonl") != few


def test_scenes_are_as_asked_for(tmp_path: Path) -> None:
    scenes = SceneKnobs(figures=1, shapes=("star",), colours=("red", "blue"), detail=0.0)
    found = write_captions(CaptionKnobs(count=10, scenes=scenes), tmp_path / "captions.jsonl")
    for caption in found:
        (figure,) = parse(caption.text).figures
        assert (figure.shape, figure.size, figure.place) == ("star", None, None)


def test_a_file_gives_its_distinct_lines(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("a cat\n\n  a cat \na dog\n")
    found = write_captions(CaptionKnobs(file=file), tmp_path / "captions.jsonl")
    assert [caption.text for caption in found] == ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "no captions in"), (b" \n\n", "no captions in"), (b"\xff", "UTF-8")]
)
def test_a_file_without_captions_is_an_error(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        write_captions(CaptionKnobs(file=file), tmp_path / "captions.jsonl")


def test_a_stage_that_has_not_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the captions stage first"):
        read_captions(tmp_path / "captions.jsonl")

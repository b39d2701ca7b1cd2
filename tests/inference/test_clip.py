"""The scorer against stock open_clip, and the identities of directional similarity."""

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from inference.clip import (
    CaptionTooLong,
    compare,
    load_clip,
    read_thresholds,
    require_clip,
    save_thresholds,
)
from inference.shapes import MODELS

WORDS = ("a", "small", "large", "red", "green", "blue", "circle", "square", "on", "white", "black")
CONTEXT = 8


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random open_clip model with a tokenizer of a few words, in open_clip's own layout."""
    folder = tmp_path_factory.mktemp("clip")
    special = {"pad_token": "<pad>", "bos_token": "<start>", "eos_token": "<end>"}
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<start>", *WORDS, "<end>"])}
    words = Tokenizer(models.WordLevel(vocabulary))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>",
        special_tokens=[(token, vocabulary[token]) for token in ("<start>", "<end>")],
    )
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    model_config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 1},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": len(vocabulary),
            "width": 32,
            "heads": 2,
            "layers": 1,
            "hf_tokenizer_name": "shapes",
        },
    }
    config = {
        "model_cfg": model_config,
        "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]},
        "emend": {"thresholds": {"image_image": 0.7}},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.CLIP(**model_config)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def random_images(count: int, size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, size, size, generator=generator) * 2 - 1


def test_features_equal_stock_open_clip(clip_folder: Path) -> None:
    scorer = load_clip(clip_folder)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{clip_folder}")
    pixels = torch.randint(256, (32, 32, 3), dtype=torch.uint8)
    picture = Image.fromarray(pixels.numpy())
    with torch.no_grad():
        expected_image = model.eval().encode_image(preprocess(picture)[None], normalize=True)
        expected_text = model.encode_text(tokenize(["a red circle"]), normalize=True)
    ours = scorer.image(pixels.permute(2, 0, 1)[None] / 127.5 - 1)
    torch.testing.assert_close(ours, expected_image, atol=1e-6, rtol=0)
    torch.testing.assert_close(scorer.text(["a red circle"]), expected_text, atol=1e-6, rtol=0)


def test_other_sizes_are_resized_bicubically_without_crop(clip_folder: Path) -> None:
    scorer = load_clip(clip_folder)
    images = random_images(2, 48)[:, :, :40]
    resized = F.interpolate((images + 1) / 2, size=(32, 32), mode="bicubic") * 2 - 1
    torch.testing.assert_close(scorer.image(images), scorer.image(resized))


def test_scores_are_those_of_the_formula(clip_folder: Path) -> None:
    scorer = load_clip(clip_folder)
    source, edited = random_images(3, 32, 1), random_images(3, 32, 2)
    captions = ["a red circle", "a blue square", "a small circle"]
    edited_captions = ["a green circle", "a blue square", "a large circle"]
    scores = scorer.scores(source, edited, captions, edited_captions)
    i0, i1 = scorer.image(source), scorer.image(edited)
    t0, t1 = scorer.text(captions), scorer.text(edited_captions)
    torch.testing.assert_close(scores["image_image"], F.cosine_similarity(i0, i1))
    torch.testing.assert_close(scores["text_source"], F.cosine_similarity(i0, t0))
    torch.testing.assert_close(scores["text_edited"], F.cosine_similarity(i1, t1))
    change, words = (i1 - i0)[0], (t1 - t0)[0]
    expected = change @ words / change.norm() / words.norm()
    torch.testing.assert_close(scores["directional"][0], expected)


def test_directional_is_zero_where_nothing_changed(clip_folder: Path) -> None:
    scorer = load_clip(clip_folder)
    source, edited = random_images(2, 32, 1), random_images(2, 32, 2)
    captions = ["a red circle", "a blue square on white"]
    same_text = scorer.scores(source, edited, captions, captions)
    assert same_text["directional"].tolist() == [0, 0]
    same_image = scorer.scores(source, source, captions, captions[::-1])
    assert same_image["directional"].tolist() == [0, 0]
    torch.testing.assert_close(same_image["image_image"], torch.ones(2))


def test_directional_is_one_where_both_change_alike_and_ignores_swapping() -> None:
    source, edited = F.normalize(torch.randn(2, 5, 8, dtype=torch.float64), dim=-1)
    forth = compare(source, edited, source, edited)["directional"]
    back = compare(edited, source, source, edited)["directional"]
    torch.testing.assert_close(forth, torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(back, -forth)


def test_a_caption_of_exactly_the_limit_is_read_and_a_longer_one_refused(clip_folder: Path) -> None:
    scorer = load_clip(clip_folder)
    longest = "a small red circle on white"
    assert len(longest.split()) + 2 == CONTEXT
    assert scorer.text([longest]).shape == (1, 16)
    with pytest.raises(CaptionTooLong, match=f"'{longest} black'.*{CONTEXT} tokens"):
        scorer.text(["a red circle", f"{longest} black"])


def test_thresholds_lie_in_the_folder_and_stock_open_clip_passes_over_them(
    clip_folder: Path, tmp_path: Path
) -> None:
    assert load_clip(clip_folder).thresholds == {"image_image": 0.7}
    copy = shutil.copytree(clip_folder, tmp_path / "clip")
    save_thresholds(copy, {"image_image": 0.9, "directional": 0.1})
    assert read_thresholds(copy) == {"image_image": 0.9, "directional": 0.1}
    open_clip.create_model_and_transforms(f"local-dir:{copy}")
    save_thresholds(copy, {"directional": "high"})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="must map names to numbers"):
        read_thresholds(copy)


@pytest.mark.parametrize("missing", ["open_clip_config.json", "open_clip_model.safetensors"])
def test_an_incomplete_folder_is_named(clip_folder: Path, tmp_path: Path, missing: str) -> None:
    copy = shutil.copytree(clip_folder, tmp_path / "clip")
    (copy / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        load_clip(copy)


def test_a_truncated_file_and_an_unknown_name_are_errors(clip_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(clip_folder, tmp_path / "clip")
    weights = copy / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_clip(copy)
    with pytest.raises(ValueError, match="neither a folder"):
        load_clip("ViT-B-32/nonsense")


@pytest.mark.parametrize("size", [(48, 80), (101, 37), (32, 32), (20, 24)])
def test_images_as_trained_are_preprocessed_as_open_clip_does(
    clip_folder: Path, size: tuple[int, int]
) -> None:
    scorer = load_clip(clip_folder)
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=generator)
    prepared = preprocess(Image.fromarray(pixels.numpy()))
    with torch.no_grad():
        expected = F.normalize(scorer.model.encode_image(prepared[None]), dim=-1)
    images = pixels.permute(2, 0, 1)[None] / 127.5 - 1
    torch.testing.assert_close(scorer.image_as_trained(images), expected, rtol=0.02, atol=0.01)
    if size != scorer.size:
        assert (scorer.image(images) - expected).abs().max() > 0.05


def test_what_a_folder_says_is_looked_at_without_loading_it(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(MODELS / "clip", folder)
    require_clip(folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="tokenizer_kwargs is {'trust_remote_code': True}"):
        require_clip(folder)

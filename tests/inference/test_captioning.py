"""Captioners: a real BLIP with random weights, and an endpoint that answers over HTTP."""

import base64
import io
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
)

from inference.__main__ import main
from inference.captioning import (
    EndpointCaptioner,
    NoCaption,
    Reader,
    TransformersCaptioner,
    captioner_of,
)
from inference.endpoints.config import EndpointConfig
from inference.endpoints.failures import ServerError
from inference.images import from_numpy, to_pil
from inference.shapes.captions import describe, parse
from inference.shapes.render import render
from inference.shapes.scene import random_scene
from tests.provider import Provider
from training.shapes.scenes import rng

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cat", "on", "the", "mat")
PICTURE = torch.linspace(-1, 1, 3 * 32 * 32).view(3, 32, 32)


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BLIP, as transformers saves it."""
    folder = tmp_path_factory.mktemp("blip")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    torch.manual_seed(0)
    config = BlipConfig(
        text_config={
            **small,
            "vocab_size": len(WORDS),
            "encoder_hidden_size": 16,
            "num_attention_heads": 2,
            "projection_dim": 16,
            "max_position_embeddings": 128,
            "bos_token_id": 2,
            "sep_token_id": 3,
            "eos_token_id": 3,
            "pad_token_id": 0,
        },
        vision_config={**small, "num_attention_heads": 2, "image_size": 32, "patch_size": 16},
        projection_dim=16,
        image_text_hidden_size=16,
    )
    model = BlipForConditionalGeneration(config)
    with torch.no_grad():  # words, not only padding
        model.text_decoder.cls.predictions.bias[5:] += torch.rand(len(WORDS) - 5) + 5
    model.save_pretrained(folder)
    processor = BlipProcessor(
        image_processor=BlipImageProcessor(size={"height": 32, "width": 32}),
        tokenizer=BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}),
    )
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BLIP-2, as transformers saves it."""
    folder = tmp_path_factory.mktemp("blip2")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = Blip2Config(
        vision_config={**small, "intermediate_size": 32, "image_size": 32, "patch_size": 16},
        qformer_config={
            **small,
            "intermediate_size": 32,
            "vocab_size": len(WORDS),
            "encoder_hidden_size": 16,
        },
        text_config={
            **small,
            "model_type": "opt",
            "ffn_dim": 32,
            "word_embed_proj_dim": 16,
            "vocab_size": len(WORDS) + 1,
            "max_position_embeddings": 128,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "pad_token_id": 0,
        },
        num_query_tokens=4,
        image_token_index=len(WORDS),
    )
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    processor = Blip2Processor(
        image_processor=BlipImageProcessor(size={"height": 32, "width": 32}),
        tokenizer=BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}),
        num_query_tokens=4,
    )
    processor.save_pretrained(folder)
    return folder


def test_a_blip_2_says_what_it_generates(blip2: Path) -> None:
    said = captioner_of(str(blip2), None, "cpu").caption(PICTURE)
    assert said
    assert set(said.split()) <= {word for word in WORDS if word[0] != "["}
    processor = Blip2Processor.from_pretrained(blip2)
    model = Blip2ForConditionalGeneration.from_pretrained(blip2).eval()
    inputs = processor(images=to_pil(PICTURE), return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=60, do_sample=False)
    assert said == processor.batch_decode(ids, skip_special_tokens=True)[0].strip()


def test_a_transformers_captioner_says_what_the_model_generates(blip: Path) -> None:
    found = captioner_of(str(blip), None, "cpu")
    assert isinstance(found, TransformersCaptioner)
    said = found.caption(PICTURE)
    assert set(said.split()) <= {word for word in WORDS if word[0] != "["}
    processor = BlipProcessor.from_pretrained(blip)
    model = BlipForConditionalGeneration.from_pretrained(blip).eval()
    inputs = processor(images=to_pil(PICTURE), return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=60, do_sample=False)
    assert said == processor.decode(ids[0], skip_special_tokens=True)


def test_its_weights_may_be_half_as_wide(blip: Path) -> None:
    found = captioner_of(str(blip), None, "cpu", torch.bfloat16)
    assert isinstance(found, TransformersCaptioner)
    assert {p.dtype for p in found._parts[1].parameters()} == {torch.bfloat16}
    assert set(found.caption(PICTURE).split()) <= {word for word in WORDS if word[0] != "["}


def test_an_endpoint_needs_a_model_and_openai_no_address() -> None:
    with pytest.raises(ValueError, match="captioner is 'shapes', which runs here"):
        captioner_of("shapes", "http://localhost/v1", "cpu")
    found = captioner_of("vision", "openai", "cpu")
    assert isinstance(found, EndpointCaptioner)
    assert found.config.base_url == "https://api.openai.com/v1"


def test_pickled_weights_and_other_folders_are_refused(blip: Path, tmp_path: Path) -> None:
    for file in blip.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises((ValueError, OSError)):
        TransformersCaptioner(model=str(tmp_path)).caption(PICTURE)
    with pytest.raises(FileNotFoundError, match=r"no captioner at nowhere\.d"):
        captioner_of("nowhere.d", None, "cpu")


def test_the_reader_says_all_that_a_scene_is() -> None:
    draw = rng("captioning", 0)
    for _ in range(20):
        scene = random_scene(draw)
        said, wanted = (
            parse(Reader().caption(from_numpy(render(scene)))),
            describe(scene, draw, detail=1.0),
        )
        assert set(said.figures) == set(wanted.figures)
        assert (said.background, said.style) == (wanted.background, wanted.style)
    with pytest.raises(NoCaption, match="no clear scene"):
        Reader().caption(PICTURE)


def asks(provider: Provider, **options: Any) -> EndpointCaptioner:
    return EndpointCaptioner(
        EndpointConfig(model="vision", base_url=provider.base_url, max_retries=1, **options)
    )


def test_an_endpoint_sees_the_picture_and_its_answer_is_one_line(provider: Provider) -> None:
    provider.say = lambda asked: "  A red cat\n on a mat. "
    with closing(captioner_of("vision", provider.base_url, "cpu")) as found:
        assert found.caption(PICTURE) == "A red cat on a mat."
    [asked] = provider.requests
    assert asked["model"] == "vision"
    question, picture = asked["messages"][0]["content"]
    assert question["text"].startswith("Say in one short sentence")
    png = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(png)).tobytes() == to_pil(PICTURE).tobytes()


@pytest.mark.parametrize(
    ("key_env", "sent"), [("auto", "none"), ("OPENAI_API_KEY", "sk-hosted"), (None, "none")]
)
def test_openais_key_goes_to_another_host_only_where_it_is_named(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, key_env: str | None, sent: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hosted")
    with closing(captioner_of("vision", provider.base_url, "cpu", key_env=key_env)) as found:
        found.caption(PICTURE)
    assert provider.keys == {f"Bearer {sent}"}


def test_a_server_that_repeats_the_key_gets_it_into_no_message(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "sk-a/b")
    told = "no \\u0073k-a\\/b at sk-a%2Fb, sk-a/b"
    answers = iter(["401", "400"])
    provider.chat = lambda body: (  # type: ignore[method-assign]
        int(next(answers)),
        {},
        f'{{"error": {{"message": "{told}"}}}}'.encode(),
    )
    with closing(asks(provider, key_env="A_KEY")) as found:
        for _ in range(2):
            with pytest.raises(ServerError, match=r"refuses: .*no \[key\] at \[key\]") as error:
                found.caption(PICTURE)
            assert "k-a" not in str(error.value)
            answers = iter(["400", "400"])


def test_a_picture_without_a_caption_does_not_end_the_run(provider: Provider) -> None:
    with closing(asks(provider)) as found:
        provider.say = lambda asked: " \n"
        with pytest.raises(NoCaption, match="said nothing"):
            found.caption(PICTURE)
        provider.behave = lambda asked, nth: "400"
        with pytest.raises(NoCaption, match="vision gave no caption: HTTP 400"):
            found.caption(PICTURE)
        provider.behave = lambda asked, nth: "code content_filter"
        with pytest.raises(NoCaption, match="content filter"):
            found.caption(PICTURE)
        provider.behave = lambda asked, nth: '{"choices": []}'
        with pytest.raises(NoCaption, match="no chat completion"):
            found.caption(PICTURE)


def test_a_server_of_old_is_asked_in_its_words(provider: Provider) -> None:
    provider.unknown = ("seed", "max_completion_tokens")
    provider.say = lambda asked: "<think>a dog?</think>a cat"
    with closing(asks(provider, max_tokens=60)) as found:
        assert found.caption(PICTURE) == "a cat"
        assert found.caption(-PICTURE) == "a cat"
    assert provider.requests[-1]["max_tokens"] == 60
    assert len(provider.requests) == 4


def test_the_command_says_in_one_sentence_what_is_wrong(
    provider: Provider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to_pil(PICTURE).save(tmp_path / "picture.png")
    line = ["caption", "--images", str(tmp_path / "picture.png"), "--captioner", "vision"]
    provider.behave = lambda asked, nth: "401"
    assert main([*line, "--base_url", provider.base_url]) == 1
    assert "refuses: HTTP 401" in capsys.readouterr().err
    assert main([*line, "--base_url", "https://me:secret@host.example"]) == 1
    said = capsys.readouterr().err
    assert "base_url must be the root of an API" in said
    assert "secret" not in said
    assert main([*line, "--base_url", provider.base_url, "--key_env", "NO_SUCH_KEY"]) == 1
    assert "NO_SUCH_KEY, named by key_env, is not set" in capsys.readouterr().err

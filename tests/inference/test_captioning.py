"""Captioners: a real BLIP with random weights, and an endpoint that answers over HTTP."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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

from inference.captioning import (
    EndpointCaptioner,
    NoCaption,
    Reader,
    TransformersCaptioner,
    captioner_of,
)
from inference.images import from_numpy, to_pil
from inference.shapes.captions import describe, parse
from inference.shapes.render import render
from inference.shapes.scene import random_scene
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
    assert captioner_of("vision", "openai", "cpu") == EndpointCaptioner(model="vision")


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


class _Endpoint(BaseHTTPRequestHandler):
    answer = "  A red cat\n on a mat. "
    choices: list[dict[str, Any]] | None = [{}]  # noqa: RUF012
    status = 200
    asked: list[dict[str, Any]] = []  # noqa: RUF012  (one server, one test)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append({**json.loads(body), "key": self.headers["Authorization"]})
        message = {"role": "assistant", "content": self.answer}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
        choices = self.choices and [choice for _ in self.choices]
        text = json.dumps({**reply, "choices": choices}).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Quietly."""


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server on loopback."""
    monkeypatch.setattr(_Endpoint, "asked", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_an_endpoint_sees_the_picture_and_its_answer_is_one_line(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "the-key")
    found = captioner_of("vision", endpoint, "cpu")
    assert found.caption(PICTURE) == "A red cat on a mat."
    [asked] = _Endpoint.asked
    assert (asked["model"], asked["key"]) == ("vision", "Bearer the-key")
    question, picture = asked["messages"][0]["content"]
    assert question["text"].startswith("Say in one short sentence")
    png = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(png)).tobytes() == to_pil(PICTURE).tobytes()


def test_an_endpoint_that_says_nothing_or_fails(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = EndpointCaptioner(model="vision", base_url=endpoint)
    monkeypatch.setattr(_Endpoint, "answer", " \n")
    with pytest.raises(NoCaption, match="said nothing"):
        asks.caption(PICTURE)
    for none in ([], None):
        monkeypatch.setattr(_Endpoint, "choices", none)
        with pytest.raises(NoCaption, match="vision answered without a choice"):
            asks.caption(PICTURE)
    monkeypatch.setattr(_Endpoint, "status", 400)
    with pytest.raises(ValueError, match="vision at http://127"):
        asks.caption(PICTURE)

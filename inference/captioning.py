"""Captions for real pictures, which inversion needs, from any of three captioners."""

import asyncio
import base64
import hashlib
import io
import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from inference.content_id import content_id
from inference.editors.sizes import resize
from inference.endpoints.budget import Ledger
from inference.endpoints.config import OPENAI_URL, EndpointConfig
from inference.endpoints.failures import BadRequest, Failed, ServerError
from inference.endpoints.history import History
from inference.endpoints.journal import NoJournal
from inference.endpoints.keys import AUTO_KEY_ENV
from inference.endpoints.replies import Reply
from inference.endpoints.session import EndpointSession
from inference.images import to_numpy, to_pil
from inference.loading import (
    VOCABULARY_ROOM,
    load_model,
    load_tokenizer,
    require_vocabulary,
)
from inference.model_names import located
from inference.shapes.captions import caption as in_words
from inference.shapes.captions import describe
from inference.shapes.reading import read
from inference.shapes.scene import CANVAS

QUESTION = "Say in one short sentence what this image shows. Answer with the sentence alone."
MAX_TOKENS = 60


class NoCaption(ValueError):
    """A captioner has nothing to say of a picture."""


class Captioner(Protocol):
    """Whatever says what pictures show."""

    def caption(self, image: Tensor) -> str:
        """One line for a (3, H, W) image in [-1, 1].

        Raises:
            NoCaption: There is none.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


@dataclass(frozen=True, kw_only=True)
class Reader:
    """The shapes world's own: the scene is read off the picture, and all of it is said."""

    def caption(self, image: Tensor) -> str:
        """See `Captioner`."""
        scene = read(to_numpy(resize(image, (CANVAS, CANVAS)))).scene
        if scene is None:
            raise NoCaption("it shows no clear scene of the shapes world")
        return in_words(describe(scene, random.Random(0), detail=1.0))

    def close(self) -> None:
        """See `Captioner`; it holds nothing."""


@dataclass(frozen=True, kw_only=True)
class TransformersCaptioner:
    """A captioning model in transformers: BLIP, BLIP-2 and the like.

    Attributes:
        model: Its folder, or its name on the hub; safetensors only, and no code.
        device: Where it runs.
        dtype: Of its weights.
    """

    model: str
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    def caption(self, image: Tensor) -> str:
        """See `Captioner`."""
        processor, model = self._parts
        inputs = processor(images=to_pil(image), return_tensors="pt")
        inputs = inputs.to(self.device, self.dtype)  # whole numbers stay whole
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        return _one_line(processor.batch_decode(ids, skip_special_tokens=True)[0])

    def close(self) -> None:
        """See `Captioner`; the model goes with it."""

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        folder = located(self.model, "transformers")
        processor = load_tokenizer(AutoProcessor, folder)
        model = load_model(AutoModelForImageTextToText, folder, self.dtype)
        if (tokenizer := getattr(processor, "tokenizer", None)) is not None:
            vocabulary = model.config.get_text_config().vocab_size
            require_vocabulary(len(tokenizer), vocabulary, self.model, room=VOCABULARY_ROOM)
        return processor, model.to(self.device).eval()


class EndpointCaptioner:
    """A vision model behind an OpenAI-compatible API.

    Args:
        config: Whom to ask, and how.
        question: What it is asked about each picture.
    """

    def __init__(self, config: EndpointConfig, question: str = QUESTION) -> None:
        self.config = config
        self._question = question
        # One loop for all pictures: connections and rate limits outlive a call.
        self._loop = asyncio.Runner()
        history = History(NoJournal(), Ledger(config.prices, config.dollars))
        self._session = EndpointSession(config, history)

    def caption(self, image: Tensor) -> str:
        """See `Captioner`.

        Raises:
            ServerError: The endpoint is down, refuses, or takes no question of this kind.
            ValueError: There is no usable key for it.
        """
        png = io.BytesIO()
        to_pil(image).save(png, format="PNG")
        reply = self._loop.run(self._ask(png.getvalue()))
        if reply.flaw is not None:
            raise NoCaption(f"{self.config.model}: {reply.flaw}")
        return _one_line(reply.text)

    def close(self) -> None:
        """See `Captioner`: end the connections."""
        self._loop.run(self._session.__aexit__(None, None, None))
        self._loop.close()

    async def _ask(self, png: bytes) -> Reply:
        client = self._session.client()
        try:
            request = content_id(hashlib.sha256(png).hexdigest())
            return await client.ask_unlogged(request, self._body(png))
        except BadRequest as why:
            if not client.answered:
                raise ServerError(client.refusal(str(why))) from why
            raise NoCaption(f"{self.config.model} gave no caption: {why}") from why
        except Failed as why:
            raise NoCaption(f"{self.config.model} gave no caption: {why}") from why

    def _body(self, png: bytes) -> dict[str, Any]:
        url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        content = [
            {"type": "text", "text": self._question},
            {"type": "image_url", "image_url": {"url": url}},
        ]
        return {
            "messages": [{"role": "user", "content": content}],
            "max_completion_tokens": self.config.max_tokens,
        }


def captioner_of(
    model: str,
    base_url: str | None,
    device: str,
    dtype: torch.dtype = torch.float32,
    *,
    key_env: str | None = AUTO_KEY_ENV,
) -> Captioner:
    """The captioner that a name stands for.

    Args:
        model: `shapes` for the shapes world's own; with `base_url` the name of a model there; else
            a transformers folder or hub name.
        base_url: Root of an OpenAI-compatible API; `openai` for OpenAI's own.
        device: Where a transformers model runs.
        dtype: Of its weights.
        key_env: The variable that holds the key for `base_url`; see `EndpointConfig`.

    Raises:
        ValueError: The model of an endpoint is not named, or its URL is none.
        FileNotFoundError: There is no such folder.
    """
    if base_url is not None:
        if model == "shapes":
            raise ValueError(
                "captioner is 'shapes', which runs here and not at base_url; expected the name of "
                "a vision model there"
            )
        url = OPENAI_URL if base_url == "openai" else base_url
        return EndpointCaptioner(
            EndpointConfig(model=model, base_url=url, key_env=key_env, max_tokens=MAX_TOKENS)
        )
    if model == "shapes":
        return Reader()
    if Path(model).suffix and not Path(model).exists():
        raise FileNotFoundError(f"there is no captioner at {model}")
    return TransformersCaptioner(model=model, device=device, dtype=dtype)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    if not line:
        raise NoCaption("the captioner said nothing")
    return line

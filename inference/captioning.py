"""Captions for real pictures, which inversion needs, from any of three captioners."""

import base64
import io
import os
import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import openai
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from inference.editors.sizes import resize
from inference.images import to_numpy, to_pil
from inference.loading import (
    VOCABULARY_ROOM,
    fetched,
    load_model,
    load_tokenizer,
    require_vocabulary,
)
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


@dataclass(frozen=True, kw_only=True)
class Reader:
    """The shapes world's own: the scene is read off the picture, and all of it is said."""

    def caption(self, image: Tensor) -> str:
        """See `Captioner`."""
        scene = read(to_numpy(resize(image, (CANVAS, CANVAS)))).scene
        if scene is None:
            raise NoCaption("it shows no clear scene of the shapes world")
        return in_words(describe(scene, random.Random(0), detail=1.0))


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

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        folder = Path(self.model) if Path(self.model).is_dir() else fetched(self.model)
        processor = load_tokenizer(AutoProcessor, folder)
        model = load_model(AutoModelForImageTextToText, folder, self.dtype)
        if (tokenizer := getattr(processor, "tokenizer", None)) is not None:
            vocabulary = model.config.get_text_config().vocab_size
            require_vocabulary(len(tokenizer), vocabulary, self.model, room=VOCABULARY_ROOM)
        return processor, model.to(self.device).eval()


@dataclass(frozen=True, kw_only=True)
class EndpointCaptioner:
    """A vision model behind an OpenAI-compatible API; the key comes from `OPENAI_API_KEY`.

    Attributes:
        model: Its name there.
        base_url: Root of the API, such as `http://localhost:8000/v1`; None for OpenAI's own.
        question: What it is asked about each picture.
    """

    model: str
    base_url: str | None = None
    question: str = QUESTION

    def caption(self, image: Tensor) -> str:
        """See `Captioner`.

        Raises:
            ValueError: The endpoint cannot be asked.
        """
        png = io.BytesIO()
        to_pil(image).save(png, format="PNG")
        url = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
        try:
            answer = self._client.chat.completions.create(
                model=self.model,
                max_tokens=MAX_TOKENS,
                messages=[
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": self.question},
                            {"type": "image_url", "image_url": {"url": url}},
                        ],
                    }
                ],
            )
        except openai.OpenAIError as error:
            raise ValueError(f"{self.model} at {self.base_url or 'OpenAI'}: {error}") from error
        if not answer.choices:
            raise NoCaption(f"{self.model} answered without a choice")
        return _one_line(answer.choices[0].message.content or "")

    @cached_property
    def _client(self) -> openai.OpenAI:
        # A server of one's own asks for no key, but the client insists on one.
        key = os.environ.get("OPENAI_API_KEY") or ("none" if self.base_url else None)
        return openai.OpenAI(base_url=self.base_url, api_key=key)


def captioner_of(
    model: str, base_url: str | None, device: str, dtype: torch.dtype = torch.float32
) -> Captioner:
    """The captioner that a name stands for.

    Args:
        model: `shapes` for the shapes world's own; with `base_url` the name of a model there; else
            a transformers folder or hub name.
        base_url: Root of an OpenAI-compatible API; `openai` for OpenAI's own.
        device: Where a transformers model runs.
        dtype: Of its weights.

    Raises:
        ValueError: The model of an endpoint is not named.
        FileNotFoundError: There is no such folder.
    """
    if base_url is not None:
        if model == "shapes":
            raise ValueError(
                f"captioner is 'shapes', which runs here and not at {base_url}; expected the name "
                "of a vision model there"
            )
        return EndpointCaptioner(model=model, base_url=None if base_url == "openai" else base_url)
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

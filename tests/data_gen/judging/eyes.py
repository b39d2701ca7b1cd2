"""A provider of a vision-language model on loopback, which really looks at the pictures."""

import base64
import io
import json
import time
from typing import Any

import numpy as np
from PIL import Image

from inference.endpoints.budget import Prices
from tests.provider import INPUT, OUTPUT, Provider, completion

PRICES = Prices(input=float(INPUT), output=float(OUTPUT))
PICTURE_TOKENS = 900


class Eyes(Provider):
    """Sees both pictures; `say` gets the question with them and returns the model's words."""

    def chat(self, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        text, *pictures = body["messages"][-1]["content"]
        asked = json.loads(text["text"])
        asked["pictures"] = [_decoded(one["image_url"]["url"]) for one in pictures]
        with self._lock:
            self.requests.append(body)
            manner = self.behave(asked, self._seen[text["text"]])
            self._seen[text["text"]] += 1
            if manner.isdigit():
                return int(manner), {}, b'{"error": {"message": "not now"}}'
            self.seeds.append(body["seed"])
            words = "So nice!" if manner == "garbage" else self.say(asked)
            allowed = body["max_completion_tokens"]
            usage = {
                "prompt_tokens": 300 + 2 * PICTURE_TOKENS,
                "completion_tokens": allowed if self.greedy else len(words) // 4,
            }
            self.billed += usage["prompt_tokens"] * INPUT / 10**6
            self.billed += usage["completion_tokens"] * OUTPUT / 10**6
        time.sleep(self.latency_s)
        return 200, {}, json.dumps(completion(body["model"], words, usage)).encode()


def _decoded(url: str) -> np.ndarray:
    kind, _, content = url.partition(";base64,")
    assert kind == "data:image/jpeg"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def by_brightness(asked: dict[str, Any]) -> str:
    """Marks that are a function of the pictures."""
    source, edited = (int(picture.mean()) % 11 for picture in asked["pictures"])
    return json.dumps({"followed": source, "preserved": edited, "quality": 10})

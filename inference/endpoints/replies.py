"""Read what endpoints answer: chat completions in their several shapes, and errors in their place.

Bodies come decoded and without the key (see `Redactor`).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Final

import openai

from inference.endpoints.budget import Prices, Usage

MAX_ANSWER_CHARACTERS: Final = 20_000
TOO_LONG: Final = "longer than any answer"
REFUSED: Final = "the model refused"
FILTERED: Final = "refused by the endpoint's content filter"

FILTER_CODES: Final = frozenset(
    {"content_filter", "content_policy_violation", "moderation_blocked"}
)
_TEXT_PARTS: Final = frozenset({"text", "output_text"})
_DRAFT_TAGS: Final = ("think", "thinking", "reasoning")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model said.

    Attributes:
        text: Its words, without those that it thought.
        usage: The tokens they took; None where the endpoint did not say.
        cut: Whether they end where ``max_tokens`` did.
        flaw: Why they cannot be used whatever they are; None where they may.
    """

    text: str
    usage: Usage | None = None
    cut: bool = False
    flaw: str | None = None


NOTHING: Final = Usage(prompt=0, cached=0, answer=0)
"""What the endpoint does not let its model see."""


@dataclass(frozen=True, kw_only=True)
class ReportedError:
    """An error in a body whose HTTP status says that all is well.

    Attributes:
        words: The endpoint's own.
        status: The HTTP status that it names instead; None where it names none.
        code: Its code; None where it has none.
        billed: Whether it counts tokens all the same.
    """

    words: str
    status: int | None
    code: str | None
    billed: bool


def read_reply(body: Any) -> Reply | None:
    """Read a chat completion as it came; None where it is none."""
    try:
        choice = body["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refused = _content(message.get("content")), bool(message.get("refusal"))
    except (TypeError, KeyError, IndexError, AttributeError):
        return None
    if text is None:
        return None
    refused = refused or _holds_refusal(message.get("content"))
    flaw = FILTERED if finish == "content_filter" else REFUSED if refused else None
    text = without_drafts(text)
    if len(text) > MAX_ANSWER_CHARACTERS:
        text, flaw = text[:MAX_ANSWER_CHARACTERS], TOO_LONG
    return Reply(text=text, usage=Usage.of(body.get("usage")), cut=finish == "length", flaw=flaw)


def _content(content: Any) -> str | None:
    """A message's text: a text, none, or parts, of which those that are thought are left out."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return None
    return "".join(text for part in content if isinstance(text := _part(part), str))


def _part(part: Any) -> Any:
    if not isinstance(part, Mapping):
        return part
    return part.get("text") if part.get("type") in _TEXT_PARTS else None


def _holds_refusal(content: Any) -> bool:
    parts = content if isinstance(content, list) else []
    return any(isinstance(part, Mapping) and part.get("type") == "refusal" for part in parts)


def without_drafts(text: str) -> str:
    """Leave out what a model wrote down while it thought: ``<think>…</think>``; in linear time.

    The opening tag may have stood in the prompt, and the closing one may be cut off.
    """
    for tag in _DRAFT_TAGS:
        opening, closing = f"<{tag}>", f"</{tag}>"
        *drafts, last = text.split(closing)
        kept = [part.partition(opening)[0] for part in drafts if opening in part]
        text = "".join([*kept, last.partition(opening)[0]])
    return text


def reported_error(body: Any) -> ReportedError | None:
    """Find the error that a body holds in place of an answer; None where there is none."""
    if not isinstance(body, Mapping):
        return None
    said = body.get("error") or _of_choice(body.get("choices"))
    if not said and not body.get("choices"):
        said = body.get("detail") or (body if body.get("object") == "error" else None)
    if not said:
        return None
    fields = said if isinstance(said, Mapping) else {}
    words = fields.get("message") or said
    code = fields.get("code")
    usage = Usage.of(body.get("usage"))
    return ReportedError(
        words=words if isinstance(words, str) else json.dumps(words),
        status=_status(code) or _status(fields.get("status")) or _status_of(fields.get("type")),
        code=code if isinstance(code, str) else None,
        billed=usage is not None and usage != NOTHING,
    )


def required_text(answer: openai.BaseModel, field: str) -> str:
    """A text that an answer must hold, such as the id of a job; the library does not look.

    Args:
        answer: As the library gives it.
        field: Name of the text.

    Raises:
        openai.OpenAIError: It does not; with the endpoint's words, where it reports an error.
    """
    value = getattr(answer, field, None)
    if isinstance(value, str) and value:
        return value
    reported = reported_error(answer.to_dict())
    said = f"an answer without {field}" if reported is None else reported.words
    raise openai.OpenAIError(f"HTTP 200 with {said}")


def _of_choice(choices: Any) -> Any:
    first = choices[0] if isinstance(choices, list) and choices else None
    return first.get("error") if isinstance(first, Mapping) else None


def _status(code: Any) -> int | None:
    """An HTTP status of an error, if a code is one."""
    number = int(code) if isinstance(code, str) and code.isdecimal() and len(code) == 3 else code
    return number if isinstance(number, int) and 400 <= number < 600 else None


def _status_of(kind: Any) -> int | None:
    return 400 if kind == "invalid_request_error" else None


def bill(reply: Reply, worst: Decimal, prices: Prices) -> dict[str, Any]:
    """What an answer took, as fields of its entry; where the endpoint did not say, the worst."""
    said: dict[str, Any] = {} if reply.usage is None else {"usage": asdict(reply.usage)}
    if prices:
        said["dollars"] = str(worst if reply.usage is None else prices.cost(reply.usage))
    return said

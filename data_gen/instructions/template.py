"""How a run words its questions: one form of answer, with or without examples.

``prompts`` holds the texts; here they become the body of a request to ``/chat/completions``.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, get_args

from openai.types.chat import ChatCompletionMessageParam

from data_gen.instructions.examples import ExampleBook
from data_gen.instructions.prompts import (
    ANSWER_FIELDS,
    Question,
    parse_answer,
    question,
    system_text,
)
from data_gen.records import EditTriplet
from inference.content_id import content_id
from inference.endpoints.config import ResponseFormat


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """Everything about a request that all questions of a run share.

    Attributes:
        writer: What tells one language model from another: a name, or the hash of its weights.
        form: How the answer is to be written down.
        inverse: Whether the instruction that leads back is asked for.
        examples: Where few-shot examples come from.
        temperature: Sampling temperature; None leaves it to the endpoint.
        max_tokens: Longest answer, in tokens.
        extra: Further fields of the request's body.
    """

    writer: str
    form: ResponseFormat = "plain"
    inverse: bool = True
    examples: ExampleBook | None = None
    temperature: float | None = 0.7
    max_tokens: int = 256
    extra: Mapping[str, Any]

    def held_to(self, form: ResponseFormat) -> "PromptTemplate":
        """The same, with answers in another form; `ValueError` where there is no such form."""
        if form not in get_args(ResponseFormat):
            raise ValueError(f"form is {form!r}; expected one of {get_args(ResponseFormat)}")
        return replace(self, form=form)

    def request_id(self, asked: Question) -> str:
        """Hash the question, the system text, the temperature and the writer.

        What only bounds an answer, or only holds it to its form, is not in the hash.
        """
        how = [json.dumps(dict(self.extra), sort_keys=True)] if self.extra else []
        return content_id(self.writer, str(self.temperature), self._system, self._user(asked), *how)

    def body(self, asked: Question) -> dict[str, Any]:
        """Return the request's fields but the model and the seed."""
        body: dict[str, Any] = {
            "messages": self.messages(asked),
            "max_completion_tokens": self.max_tokens,
        }
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.form in ("json_schema", "json_object"):
            body["response_format"] = self._response_format()
        return body | dict(self.extra)

    def messages(self, asked: Question) -> list[ChatCompletionMessageParam]:
        """Return the chat: a constant system message and the question as data."""
        return [
            {"role": "system", "content": self._system},
            {"role": "user", "content": self._user(asked)},
        ]

    def parse(self, text: str, asked: Question) -> EditTriplet:
        """Validate an answer.

        Raises:
            Rejected: It is not usable.
        """
        return parse_answer(text, asked, form=self.form, inverse=self.inverse)

    @cached_property
    def _system(self) -> str:
        return system_text(self.form, inverse=self.inverse, examples=self.examples is not None)

    def _user(self, asked: Question) -> str:
        if self.examples is None:
            return question(asked)
        examples = [
            {name: value for name, value in asdict(one).items() if value is not None}
            for one in self.examples.chosen(asked.caption, asked.edit_type)
        ]
        return json.dumps({**json.loads(question(asked)), "examples": examples})

    def _response_format(self) -> dict[str, Any]:
        """What the endpoint is told about the form; it may ignore it, so answers are validated."""
        if self.form == "json_object":
            return {"type": "json_object"}
        names = [name for name in ANSWER_FIELDS if self.inverse or name != "inverse_instruction"]
        schema = {
            "type": "object",
            "properties": {name: {"type": "string"} for name in names},
            "required": names,
            "additionalProperties": False,
        }
        return {
            "type": "json_schema",
            "json_schema": {"name": "edit", "strict": True, "schema": schema},
        }

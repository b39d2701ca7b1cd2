"""Ask questions through OpenAI's Batch API: half the price, an answer within a day.

The journal is the same. A batch is written down, with what all of it may cost, before it is sent,
and carries its name in its metadata, so that a run killed at any moment finds it again.
Source: https://platform.openai.com/docs/guides/batch
"""

import asyncio
import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import openai
from openai.types import Batch

from data_gen.instructions.answers import NotTaken, answer_entry
from data_gen.instructions.knobs import InstructionKnobs
from data_gen.instructions.prompts import Question
from data_gen.instructions.template import PromptTemplate
from inference.content_id import content_id
from inference.endpoints.budget import BudgetMet, prompt_bound
from inference.endpoints.client import ChatClient
from inference.endpoints.failures import BadRequest, ServerError, is_bad_request
from inference.endpoints.history import History
from inference.endpoints.replies import bill, read_reply, reported_error, required_text
from inference.outside import parse_object
from inference.progress import ProgressBar

MAX_REQUESTS: Final = 50_000
MAX_BYTES: Final = 190_000_000  # the endpoint takes 200 MB
TRANSFER_TIMEOUT_S: Final = 600.0
NAME: Final = "emend"
"""The field of a batch's metadata that says which one it is."""

_ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
_URL: Final = "/v1/chat/completions"


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One request of a batch.

    Attributes:
        request: Its id.
        text: Its line of the input file.
        worst: Dollars that it can cost.
    """

    request: str
    text: str
    worst: Decimal


class InBatches:
    """The slow, cheap way to answers.

    Args:
        client: Knows the endpoint.
        template: How questions are worded.
        knobs: Prices and patience.
        history: The journal.
        bar: Shows how far it is.
    """

    def __init__(
        self,
        client: ChatClient,
        template: PromptTemplate,
        knobs: InstructionKnobs,
        history: History,
        bar: ProgressBar,
    ) -> None:
        self._client = client
        self._template = template
        self._knobs = knobs
        self._prices = knobs.prices.batched()
        self._history = history
        self._bar = bar
        self._patient = client.api.with_options(
            max_retries=knobs.max_retries, timeout=TRANSFER_TIMEOUT_S
        )

    async def ask(self, questions: Mapping[str, Question], failures: dict[str, str]) -> None:
        """Get the answers of batches still out, then send what is missing and wait for it.

        Args:
            questions: Request id -> question.
            failures: Gets those that found no answer -> why.

        Raises:
            BudgetMet: The rest does not fit into the budget.
            ServerError: The endpoint is down or refuses. Batches go on there; a later run
                collects them.
        """
        try:
            # What these do not bring is sent again.
            await self._collect(await self._still_out(questions), questions, {})
            left = deque(self._history.unanswered(questions))
            while left:
                # Batches turn out cheaper than what is set aside for them, which makes room.
                names = []
                while lines := self._next_batch(left, questions):
                    names.append(await self._send(lines))
                if not names:
                    raise BudgetMet
                await self._collect(names, questions, failures)
        # An error within HTTP 200 lacks the fields of what was asked for.
        except (openai.OpenAIError, AttributeError, TypeError) as error:
            said = self._client.redacted(str(error))[:300]
            raise ServerError(
                f"the Batch API at {self._client.endpoint.base_url} failed: {said}. "
                "Run again; batches that are out are collected then"
            ) from error

    async def _still_out(self, questions: Mapping[str, Question]) -> list[str]:
        """Batches of an earlier run, found again at the endpoint where they had been sent."""
        out = []
        for name, batch in self._history.batches.items():
            if "ended" in batch or not questions.keys() & batch["requests"].keys():
                continue
            if "remote" not in batch and not await self._found(name):
                # Once it was to start it may run all the same, and only not be listed yet.
                lost = "starting" in batch
                ended = "not found" if lost else "never sent"
                self._history.record({"batch": name, "ended": ended, "lost": lost})
            else:
                out.append(name)
        return out

    async def _found(self, name: str) -> bool:
        async for remote in self._patient.batches.list(limit=100):
            if (remote.metadata or {}).get(NAME) == name:
                self._history.record({"batch": name, "remote": remote.id})
                return True
        return False

    def _next_batch(self, left: deque[str], questions: Mapping[str, Question]) -> list[_Line]:
        """Take as many requests as go into one batch and into the budget."""
        lines: list[_Line] = []
        size, total = 0, Decimal()
        while left and len(lines) < MAX_REQUESTS:
            line = self._line(left[0], questions[left[0]])
            size += len(line.text) + 1
            total += line.worst
            if (lines and size > MAX_BYTES) or not self._history.ledger.fits(total):
                break
            lines.append(line)
            left.popleft()
        return lines

    def _line(self, request: str, asked: Question) -> _Line:
        body = self._template.body(asked)
        sent = self._client.fields(request, body) | {"model": self._client.endpoint.model}
        line = {"custom_id": request, "method": "POST", "url": _URL, "body": sent}
        worst = self._prices.worst(prompt_bound(body), self._knobs.max_tokens)
        return _Line(request=request, text=json.dumps(line), worst=worst)

    async def _send(self, lines: Sequence[_Line]) -> str:
        """Write a batch down, upload it and start it; return its name."""
        before = str(len(self._history.batches))
        name = content_id("batch", before, *(line.request for line in lines))
        worst = {line.request: str(line.worst) for line in lines}
        self._history.record({"batch": name, "requests": worst})
        content = "".join(f"{line.text}\n" for line in lines).encode()
        try:
            file = await self._patient.files.create(
                file=(f"{name}.jsonl", content), purpose="batch"
            )
            self._history.record({"batch": name, "starting": required_text(file, "id")})
            # Not repeated on errors: it would run, and cost, twice.
            remote = await self._client.api.batches.create(
                input_file_id=file.id,
                endpoint=_URL,
                completion_window="24h",
                metadata={NAME: name},
            )
        except openai.APIStatusError as error:
            if error.status_code < 500:  # otherwise it may have been started: the next run looks
                self._history.record({"batch": name, "ended": "refused", "lost": False})
            raise
        self._history.record({"batch": name, "remote": required_text(remote, "id")})
        return name

    async def _collect(
        self, names: Sequence[str], questions: Mapping[str, Question], failures: dict[str, str]
    ) -> None:
        """Wait for batches and journal their answers; ``failures`` gets those without one."""
        not_taken = NotTaken(self._client, self._template, self._history, failures)
        waiting = list(names)
        while waiting:
            for name in list(waiting):
                remote = await self._look(name)
                if remote is None or remote.status in _ENDED:
                    waiting.remove(name)
                    if remote is not None:
                        failures |= await self._fetch(name, remote, questions, not_taken)
            if waiting:
                self._bar.set_postfix(batches=len(waiting))
                await asyncio.sleep(self._knobs.batch_poll_s)
        await not_taken.settle()

    async def _look(self, name: str) -> Batch | None:
        """How a batch is doing; None where the endpoint does not know it any more."""
        try:
            found = await self._patient.batches.retrieve(self._history.batches[name]["remote"])
        except openai.NotFoundError:
            self._history.record({"batch": name, "ended": "gone", "lost": True})
            return None
        required_text(found, "status")
        return found

    async def _fetch(
        self,
        name: str,
        remote: Batch,
        questions: Mapping[str, Question],
        not_taken: NotTaken,
    ) -> dict[str, str]:
        """Journal what a batch that has ended brought; return what failed -> why."""
        requests: Mapping[str, str] = self._history.batches[name]["requests"]
        said = dict.fromkeys(requests, f"its batch is {remote.status}, without it")
        if remote.errors and remote.errors.data:
            why = self._client.redacted(str(remote.errors.data[0].message))
            said = dict.fromkeys(requests, f"its batch failed: {why}")
        # Where nothing went wrong the first file is missing if nothing was answered, and either
        # may be missing where something did.
        answered = False
        for file in (remote.output_file_id, remote.error_file_id):
            if file is not None:
                content = await self._patient.files.content(file)
                answered |= self._take(content.content, requests, questions, said, not_taken)
        if answered:
            not_taken.reject()
        # What a batch does not come to in time is not charged; what it lost may have been.
        lost = remote.status == "completed"
        self._history.record({"batch": name, "ended": remote.status, "lost": lost})
        return {request: why for request, why in said.items() if request in questions}

    def _take(
        self,
        content: bytes,
        requests: Mapping[str, str],
        questions: Mapping[str, Question],
        said: dict[str, str],
        not_taken: NotTaken,
    ) -> bool:
        """Journal the answers in a file of results; whether there are any.

        What is answered or not taken is dropped from ``said``; of the rest it says what failed.
        """
        answered = False
        for line in content.decode(errors="replace").split("\n"):
            request, response = self._client.redacted_value(_result(line))
            if request not in said or self._history.answer(request) is not None:
                continue
            status = response.get("status_code")
            error = reported_error(response.get("body")) if status == 200 else None
            reply = read_reply(response.get("body")) if status == 200 and not error else None
            asked = questions.get(request)
            if reply is None or asked is None:
                said[request] = f"HTTP {status}, in its batch: {str(response.get('body'))[:300]}"
                paid = status == 200 and (error is None or error.billed)
                cost = requests[request] if paid else "0"
                self._history.record({"freed": request, "dollars": cost})
                if asked is not None and is_bad_request(status):
                    not_taken.hold(request, asked, BadRequest(said.pop(request)))
                continue
            entry = answer_entry(request, asked, reply, self._template)
            self._history.record(entry | bill(reply, Decimal(requests[request]), self._prices))
            del said[request]
            answered = True
            self._bar.update()
        return answered


def _result(line: str) -> list[Any]:
    """A line's request id and response; empty where it is no result."""
    try:
        fields = parse_object(line, "a batch's result")
        response = fields.get("response") or {"body": fields.get("error")}
        return [str(fields["custom_id"]), dict(response)]
    except (ValueError, TypeError, KeyError):
        return ["", {}]

"""Ask a language model one thing, through everything that can go wrong on the way.

The `openai` client does the talking; its own retries are off, because each sending is paced and
paid for by itself. ``ChatClient.ask`` ends in one of four ways: an answer, journaled with its cost;
`Failed`, this question has none in this run; `BudgetMet`; or `ServerError`, nobody will get one.
"""

import asyncio
import random
import sys
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

import openai

from inference.content_id import content_id
from inference.endpoints.budget import BudgetMet, prompt_bound
from inference.endpoints.config import EndpointConfig
from inference.endpoints.connection import http, place
from inference.endpoints.failures import (
    BadRequest,
    ServerError,
    Stopped,
    Trouble,
    trouble_of,
)
from inference.endpoints.fields import RequestFields
from inference.endpoints.history import History
from inference.endpoints.keys import NO_KEY, Redactor
from inference.endpoints.pacing import Pace, backoff
from inference.endpoints.replies import (
    FILTER_CODES,
    FILTERED,
    NOTHING,
    TOO_LONG,
    Reply,
    ReportedError,
    bill,
    read_reply,
    reported_error,
)
from inference.endpoints.server import Endpoint
from inference.outside import parse_json

MAX_BODY_BYTES: Final = 1_000_000
_MOST_WORDS: Final = 10_000  # characters of a refusal that are looked through
_ANSWERLESS_IN_A_ROW: Final = 20
_REFUSALS_IN_A_ROW: Final = 3

Entry = Callable[[Reply], dict[str, Any]]


def seed_of(request: str) -> int:
    """The seed that goes with a question."""
    return int(request, 16) % 2**31


class ChatClient:
    """Ask one endpoint.

    Args:
        api: The library's client, its own retries off.
        endpoint: Who is asked.
        config: Limits, patience and prices.
        history: Where everything is written down, without the key.
        bound: The most tokens that the prompt of a request's body can have.

    Attributes:
        answered: Whether anything has ever been answered: from then on, a request that is not
            taken says nothing about the next one.
    """

    def __init__(
        self,
        api: openai.AsyncOpenAI,
        endpoint: Endpoint,
        config: EndpointConfig,
        history: History,
        bound: Callable[[Mapping[str, Any]], int] = prompt_bound,
    ) -> None:
        self.api = api
        self.endpoint = endpoint
        self.answered = history.has_answers
        self._config = config
        self._history = history
        self._bound = bound
        self._redactor = Redactor(api.api_key)
        history.redact = self._redactor.value
        self._endpoint_id = content_id(endpoint.base_url, endpoint.model)
        self._fields = RequestFields(history.without(self._endpoint_id))
        self._pace = Pace(config.requests_per_minute, config.tokens_per_minute)
        self._rng = random.Random()
        self._flying = 0
        self._settled = asyncio.Event()
        self._stopped = asyncio.Event()
        self._failures_in_a_row = 0
        self._answered_now = False
        self._refusals_in_a_row = 0

    async def ask(
        self,
        request: str,
        body: Mapping[str, Any],
        entry: Entry,
        *,
        required: frozenset[str] = frozenset(),
    ) -> None:
        """Get an answer and journal it.

        Args:
            request: The question's id, hexadecimal; also decides the seed.
            body: The request's fields.
            entry: Makes the journal's entry of a reply; usage and cost are added to it.
            required: Fields without which the request is not to be sent, where the endpoint does
                not take them.

        Raises:
            Failed: There is no answer to this question now.
            BudgetMet: It would not fit into the budget.
            ServerError: There will be no answer to any question.
        """
        attempt, dropped = 0, frozenset[str]()
        while True:
            sent = self.fields(request, body)
            try:
                await self._once(request, sent, body, entry)
            except Trouble as trouble:
                if trouble.kind is BadRequest:
                    more = self._drop(sent, trouble, required)
                    dropped |= more
                    if more or sent != self.fields(request, body):
                        continue
                    self._fields.take_back(dropped)
                self._weigh(trouble)
                if not trouble.passing or attempt >= self._config.max_retries:
                    self._count_failure(str(trouble))
                    raise trouble.kind(str(trouble)) from trouble
                await self._back_off(attempt, trouble)
                attempt += 1
            else:
                self._note_answer(dropped)
                return

    async def ask_unlogged(
        self,
        request: str,
        body: Mapping[str, Any],
        *,
        required: frozenset[str] = frozenset(),
    ) -> Reply:
        """Ask without keeping the answer; only its cost goes to the journal. Raises as `ask`."""
        replies: list[Reply] = []

        def entry(reply: Reply) -> dict[str, Any]:
            replies.append(reply)
            return {"freed": request, "dollars": "0"}

        await self.ask(request, body, entry, required=required)
        return replies[0]

    @property
    def without(self) -> frozenset[str]:
        """Fields that the endpoint does not take."""
        return self._fields.without

    def fields(self, request: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A question's body with its seed, without what the endpoint does not take."""
        return self._fields.adapted({**body, "seed": seed_of(request)})

    def stop(self) -> None:
        """Send nothing more; what is in flight may still come home."""
        self._stopped.set()

    def redacted(self, text: str) -> str:
        """The text without the key, should a server have repeated it."""
        return self._redactor.text(text)

    def redacted_value(self, value: Any) -> Any:
        """The same of a decoded value of JSON."""
        return self._redactor.value(value)

    def _drop(
        self, sent: Mapping[str, Any], trouble: Trouble, required: frozenset[str]
    ) -> frozenset[str]:
        """Fields to send the question again without; they stay out if that is answered."""
        return self._fields.drop(
            sent, trouble.words, trouble.param, required=required, guess=not self.answered
        )

    def _note_answer(self, dropped: frozenset[str]) -> None:
        self.answered = self._answered_now = True
        self._failures_in_a_row = self._refusals_in_a_row = 0
        if dropped:
            names = ", ".join(sorted(dropped))
            sys.stderr.write(f"{self._place} does not take {names}: it is asked without\n")
            self._history.record({"without": sorted(dropped), "endpoint": self._endpoint_id})

    def _weigh(self, trouble: Trouble) -> None:
        """End the run where nothing has been answered in it, or nothing is answered any more.

        Raises:
            ServerError: It ends.
        """
        if trouble.kind is ServerError and not trouble.passing:
            raise ServerError(self.refusal(str(trouble))) from trouble
        if not trouble.suspect:
            return
        self._refusals_in_a_row += 1
        limit = max(_REFUSALS_IN_A_ROW, 2 * self._config.concurrency)
        if not self._answered_now or self._refusals_in_a_row >= limit:
            raise ServerError(self.refusal(str(trouble))) from trouble

    async def _back_off(self, attempt: int, trouble: Trouble) -> None:
        wait = backoff(attempt, self._rng)
        if trouble.wait_s is not None:
            self._pace.pause(trouble.wait_s, time.monotonic())
            # Those that were sent away do not all come back at once.
            wait = trouble.wait_s + wait / 4
        await self._sleep(wait)

    async def _once(
        self, request: str, sent: Mapping[str, Any], body: Mapping[str, Any], entry: Entry
    ) -> None:
        prompt, answer = self._bound(body), self._config.max_tokens
        worst = self._config.prices.worst(prompt, answer)
        await self._sleep(self._pace.delay(prompt + answer, time.monotonic()))
        await self._reserve(request, worst)
        try:
            reply = await self._send(sent)
        except Trouble as trouble:
            self._free(request, worst if trouble.billed else Decimal())
            raise
        finally:
            self._flying -= 1
            self._settled.set()
        if reply.usage is not None:
            self._pace.give_back(prompt + answer - reply.usage.prompt - reply.usage.answer)
        self._history.record(entry(reply) | bill(reply, worst, self._config.prices))
        self._check_bill(reply, worst)

    async def _reserve(self, request: str, worst: Decimal) -> None:
        """Set the worst cost aside, waiting for requests in flight to turn out cheaper."""
        while True:
            if self._stopped.is_set():
                raise Stopped("the run ended before it was asked")
            if self._history.reserve(request, worst):
                break
            if not self._flying:
                raise BudgetMet
            self._settled.clear()
            await self._settled.wait()
        self._flying += 1

    def _free(self, request: str, dollars: Decimal) -> None:
        if self._history.ledger.limited:
            self._history.record({"freed": request, "dollars": str(dollars)})

    def _check_bill(self, reply: Reply, worst: Decimal) -> None:
        if reply.usage is None or not self._history.ledger.limited:
            return
        cost = self._config.prices.cost(reply.usage)
        if cost > worst:
            raise ServerError(
                f"the language-model server at {self._place} charged ${cost} for a "
                f"request that can cost ${worst} at most: it does not keep to "
                f"max_completion_tokens={self._config.max_tokens}, so no budget can be kept"
            )

    async def _send(self, sent: Mapping[str, Any]) -> Reply:
        try:
            async with asyncio.timeout(self._config.timeout_s):
                content = await self._post(sent)
        except (TimeoutError, openai.APITimeoutError) as error:
            said = f"no answer within {self._config.timeout_s:g} s"
            raise Trouble(said, billed=True) from error
        except openai.APIStatusError as error:
            return self._refused(error)
        except (openai.APIConnectionError, http.RequestError) as error:
            raise self._cut(error) from error
        return Reply(text="", flaw=TOO_LONG) if content is None else self._read(content)

    async def _post(self, sent: Mapping[str, Any]) -> bytes | None:
        """The body of the answer; None where it is too large to be one."""
        async with self.api.chat.completions.with_streaming_response.create(
            model=self.endpoint.model,
            messages=sent["messages"],
            extra_body={name: value for name, value in sent.items() if name != "messages"},
        ) as response:
            content = bytearray()
            async for piece in response.iter_bytes():
                content += piece
                if len(content) > MAX_BODY_BYTES:
                    return None
        return bytes(content)

    def _read(self, content: bytes) -> Reply:
        """The answer in a body that came with HTTP 200."""
        if content.lstrip()[:1] == b"<":
            said = "HTTP 200 with a web page, no chat completion; base_url may not be an API's root"
            raise Trouble(said, billed=True, suspect=True)
        try:
            body = self._redactor.value(parse_json(content.decode(errors="replace"), "the answer"))
        except ValueError:
            body = None
        if (error := reported_error(body)) is not None:
            return self._reported(error)
        reply = read_reply(body)
        if reply is None:
            raise Trouble("HTTP 200, but no chat completion", billed=True)
        return reply

    def _reported(self, error: ReportedError) -> Reply:
        """What an error within HTTP 200 means: what its status would, where it names one."""
        if error.code in FILTER_CODES:
            return Reply(text="", usage=NOTHING, flaw=FILTERED)
        if error.status is None:
            raise Trouble(f"HTTP 200 with an error: {error.words[:300]}", billed=error.billed)
        raise trouble_of(
            error.status,
            error.words,
            code=error.code,
            headers={},
            label="HTTP 200 with error {}",
        )

    def _refused(self, error: openai.APIStatusError) -> Reply:
        if error.code in FILTER_CODES:
            return Reply(text="", usage=NOTHING, flaw=FILTERED)
        raise trouble_of(
            error.status_code,
            self.redacted(error.response.text[:_MOST_WORDS]),
            code=error.code,
            param=error.param if isinstance(error.param, str) else None,
            headers=error.response.headers,
            redirected=bool(error.response.history),
        ) from error

    def refusal(self, said: str) -> str:
        """What to tell the user where the endpoint wants nothing of all this."""
        keyless = self.api.api_key == NO_KEY and "HTTP 401" in said
        hint = "; no key was sent: key_env names the variable that holds one" if keyless else ""
        return f"the language-model server at {self._place} refuses: {said}{hint}"

    def _cut(self, error: Exception) -> Trouble:
        cause = error.__cause__ or error
        if isinstance(cause, http.TooManyRedirects):
            return Trouble("it redirects without end", billed=False, suspect=True)
        if not isinstance(cause, http.ConnectError | http.ProxyError):
            return Trouble(f"the connection was cut ({type(cause).__name__})", billed=True)
        said = (
            f"the language-model server at {self._place} is down: {self.redacted(str(cause))}. "
            "Start it and run again; answers so far are kept"
        )
        return Trouble(said, billed=False, kind=ServerError)

    @property
    def _place(self) -> str:
        return place(self.endpoint.base_url)

    def _count_failure(self, said: str) -> None:
        self._failures_in_a_row += 1
        limit = max(_ANSWERLESS_IN_A_ROW, 2 * self._config.concurrency)
        if self._failures_in_a_row >= limit:
            raise ServerError(
                f"the language-model server at {self._place} answered none of the last "
                f"{self._failures_in_a_row} questions (it said: {said}): run again when it does"
            )

    async def _sleep(self, seconds: float) -> None:
        """Wait, but not beyond the end of the run."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            return
        raise Stopped("the run ended before it was asked again")

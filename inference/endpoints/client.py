"""Ask a language model one thing, through everything that can go wrong on the way.

The `openai` client does the talking; its own retries are off, because each sending is paced and
paid for by itself. ``ChatClient.ask`` ends in one of four ways: an answer, journaled with its cost;
`Failed`, this question has none in this run; `BudgetMet`; or `ServerError`, nobody will get one.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Final

import openai

from inference.endpoints.budget import BudgetMet, Prices, Usage, prompt_bound
from inference.endpoints.config import EndpointConfig
from inference.endpoints.history import History
from inference.endpoints.keys import redacted
from inference.endpoints.pacing import LONGEST_WAIT_S, Pace, backoff, retry_after
from inference.endpoints.server import Endpoint, ServerError

# httpx with openai 2, httpx2 since openai 3.
_http = sys.modules[openai.DefaultAsyncHttpxClient.__mro__[1].__module__]

MAX_BODY_BYTES: Final = 1_000_000
MAX_ANSWER_CHARACTERS: Final = 20_000
TOO_LONG: Final = "longer than any answer"
REFUSED: Final = "the model refused"
FILTERED: Final = "refused by the endpoint's content filter"

_FILTER_CODES = frozenset({"content_filter", "content_policy_violation", "moderation_blocked"})
_FATAL_STATUSES = frozenset({401, 402, 403, 404})
_PASSING_STATUSES = frozenset({408, 409, 425, 429})
_LOST_BY_GATEWAY = frozenset({502, 504})
_ANSWERLESS_IN_A_ROW = 20


class Failed(Exception):
    """A question that got no answer in this run; the message says why."""


class BadRequest(Failed):
    """The endpoint does not take a request of this kind; the message holds its words."""

    @property
    def reply(self) -> "Reply":
        """The same as an answer that cannot be used, for the journal; it cost nothing."""
        status = str(self).partition(",")[0]
        return Reply(text=str(self), usage=NOTHING, flaw=f"refused by the endpoint, {status}")


class Stopped(Failed):
    """The run is ending; the question was not, or not again, sent."""


class _Trouble(Exception):
    """One sending came to nothing.

    Args:
        said: Why.
        billed: Whether it may have to be paid for all the same.
        passing: Whether it may go well the next time.
        wait_s: How long the server asks to be left alone.
        kind: What the question fails with if this was the last try.
    """

    def __init__(
        self,
        said: str,
        *,
        billed: bool,
        passing: bool = True,
        wait_s: float | None = None,
        kind: type[Exception] = Failed,
    ) -> None:
        super().__init__(said)
        self.billed, self.passing, self.wait_s, self.kind = billed, passing, wait_s, kind


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model said.

    Attributes:
        text: Its words.
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


def is_bad_request(status: object) -> bool:
    """Whether an HTTP status says that something is wrong with one request, and with it alone."""
    others = _FATAL_STATUSES | _PASSING_STATUSES
    return isinstance(status, int) and 400 <= status < 500 and status not in others


def read_reply(body: Any) -> Reply | None:
    """Read a chat completion as it came; None where it is none."""
    try:
        choice = body["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content") or "", message.get("refusal")
    except (TypeError, KeyError, IndexError, AttributeError):
        return None
    if not isinstance(text, str):
        return None
    flaw = FILTERED if finish == "content_filter" else REFUSED if refusal else None
    if len(text) > MAX_ANSWER_CHARACTERS:
        text, flaw = text[:MAX_ANSWER_CHARACTERS], TOO_LONG
    return Reply(text=text, usage=Usage.of(body.get("usage")), cut=finish == "length", flaw=flaw)


def bill(reply: Reply, worst: Decimal, prices: Prices) -> dict[str, Any]:
    """What an answer took, as fields of its entry; where the endpoint did not say, the worst."""
    said: dict[str, Any] = {} if reply.usage is None else {"usage": asdict(reply.usage)}
    if prices:
        said["dollars"] = str(worst if reply.usage is None else prices.cost(reply.usage))
    return said


def seed_of(request: str) -> int:
    """The seed that goes with a question."""
    return int(request, 16) % 2**31


class ChatClient:
    """Ask one endpoint.

    Args:
        api: The library's client, its own retries off.
        endpoint: Who is asked.
        config: Limits, patience and prices.
        history: Where everything is written down.
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
        self._pace = Pace(config.requests_per_minute, config.tokens_per_minute)
        self._rng = random.Random()
        self._flying = 0
        self._settled = asyncio.Event()
        self._stopped = asyncio.Event()
        self._failures_in_a_row = 0

    async def ask(
        self, request: str, body: Mapping[str, Any], entry: Callable[[Reply], dict[str, Any]]
    ) -> None:
        """Get an answer and journal it.

        Args:
            request: The question's id, hexadecimal; also decides the seed.
            body: The request's fields.
            entry: Makes the journal's entry of a reply; usage and cost are added to it.

        Raises:
            Failed: There is no answer to this question now.
            BudgetMet: It would not fit into the budget.
            ServerError: There will be no answer to any question.
        """
        attempt = 0
        while True:
            try:
                await self._once(request, body, entry)
            except _Trouble as trouble:
                if not trouble.passing or attempt >= self._config.max_retries:
                    self._count_failure(str(trouble))
                    raise trouble.kind(str(trouble)) from trouble
                wait = backoff(attempt, self._rng)
                if trouble.wait_s is not None:
                    self._pace.pause(trouble.wait_s, time.monotonic())
                    # Those that were sent away do not all come back at once.
                    wait = trouble.wait_s + wait / 4
                await self._sleep(wait)
                attempt += 1
            else:
                self.answered, self._failures_in_a_row = True, 0
                return

    async def ask_unlogged(self, request: str, body: Mapping[str, Any]) -> Reply:
        """Ask without keeping the answer; only its cost goes to the journal. Raises as `ask`."""
        replies: list[Reply] = []

        def entry(reply: Reply) -> dict[str, Any]:
            replies.append(reply)
            return {"freed": request, "dollars": "0"}

        await self.ask(request, body, entry)
        return replies[0]

    def stop(self) -> None:
        """Send nothing more; what is in flight may still come home."""
        self._stopped.set()

    def redacted(self, text: str) -> str:
        """The text without the key, should a server have repeated it."""
        return redacted(text, self.api.api_key)

    async def _once(
        self, request: str, body: Mapping[str, Any], entry: Callable[[Reply], dict[str, Any]]
    ) -> None:
        prompt, answer = self._bound(body), self._config.max_tokens
        worst = self._config.prices.worst(prompt, answer)
        await self._sleep(self._pace.delay(prompt + answer, time.monotonic()))
        await self._reserve(request, worst)
        try:
            reply = await self._send(request, body)
        except _Trouble as trouble:
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
                f"the language-model server at {self.endpoint.base_url} charged ${cost} for a "
                f"request that can cost ${worst} at most: it does not keep to "
                f"max_completion_tokens={self._config.max_tokens}, so no budget can be kept"
            )

    async def _send(self, request: str, body: Mapping[str, Any]) -> Reply:
        try:
            async with asyncio.timeout(self._config.timeout_s):
                content = await self._post(request, body)
        except (TimeoutError, openai.APITimeoutError) as error:
            said = f"no answer within {self._config.timeout_s:g} s"
            raise _Trouble(said, billed=True) from error
        except openai.APIStatusError as error:
            return self._refused(error)
        except (openai.APIConnectionError, _http.RequestError) as error:
            raise self._cut(error) from error
        if content is None:
            return Reply(text="", flaw=TOO_LONG)
        try:
            reply = read_reply(json.loads(self.redacted(content.decode(errors="replace"))))
        except (ValueError, RecursionError):
            reply = None
        if reply is None:
            raise _Trouble("HTTP 200, but no chat completion", billed=True)
        return reply

    async def _post(self, request: str, body: Mapping[str, Any]) -> bytes | None:
        """The body of the answer; None where it is too large to be one."""
        fields = {name: value for name, value in body.items() if name != "messages"}
        async with self.api.chat.completions.with_streaming_response.create(
            model=self.endpoint.model,
            messages=body["messages"],
            extra_body=fields | {"seed": seed_of(request)},
        ) as response:
            content = bytearray()
            async for piece in response.iter_bytes():
                content += piece
                if len(content) > MAX_BODY_BYTES:
                    return None
        return bytes(content)

    def _refused(self, error: openai.APIStatusError) -> Reply:
        """What an HTTP status other than 200 means."""
        status, said = error.status_code, f"HTTP {error.status_code}, {self._words(error)}"
        if error.code in _FILTER_CODES:
            return Reply(text="", usage=NOTHING, flaw=FILTERED)
        if status >= 500 or (status in _PASSING_STATUSES and error.code != "insufficient_quota"):
            wait = retry_after(error.response.headers)
            patient = wait is None or wait <= LONGEST_WAIT_S
            billed = status in _LOST_BY_GATEWAY
            raise _Trouble(said, billed=billed, passing=patient, wait_s=wait) from error
        if status in _FATAL_STATUSES or error.code == "insufficient_quota":
            raise _Trouble(
                self.refusal(said), billed=False, passing=False, kind=ServerError
            ) from error
        raise _Trouble(said, billed=False, passing=False, kind=BadRequest) from error

    def refusal(self, said: str) -> str:
        """What to tell the user where the endpoint wants nothing of all this."""
        return f"the language-model server at {self.endpoint.base_url} refuses: {said}"

    def _words(self, error: openai.APIStatusError) -> str:
        """The server's own words: the client's message holds them in OpenAI's form only."""
        return self.redacted(error.response.text)[:300]

    def _cut(self, error: Exception) -> _Trouble:
        cause = error.__cause__ or error
        if not isinstance(cause, _http.ConnectError):
            return _Trouble(f"the connection was cut ({type(cause).__name__})", billed=True)
        said = (
            f"the language-model server at {self.endpoint.base_url} is down: {cause}. "
            "Start it and run again; answers so far are kept"
        )
        return _Trouble(said, billed=False, kind=ServerError)

    def _count_failure(self, said: str) -> None:
        self._failures_in_a_row += 1
        limit = max(_ANSWERLESS_IN_A_ROW, 2 * self._config.concurrency)
        if self._failures_in_a_row >= limit:
            raise ServerError(
                f"the language-model server at {self.endpoint.base_url} answered none of the last "
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

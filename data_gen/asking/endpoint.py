"""Reach the language model: somebody's endpoint, or our own server started for the occasion."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

import openai

from data_gen.asking.asker import Asker
from data_gen.asking.budget import prompt_bound
from data_gen.asking.history import History
from data_gen.asking.keys import NO_KEY, api_key
from data_gen.asking.server import Endpoint, serving
from data_gen.asking.terms import Terms


class Line:
    """A line to the endpoint, opened when somebody first wants to talk.

    A run that finds everything in its journal starts no server and needs no key.

    Args:
        knobs: Whom to reach.
        history: Where what is said is written down.
        bound: The most tokens that the prompt of a request's body can have.
    """

    def __init__(
        self,
        knobs: Terms,
        history: History,
        bound: Callable[[Mapping[str, Any]], int] = prompt_bound,
    ) -> None:
        self._knobs = knobs
        self._bound = bound
        self._history = history
        self._stack = AsyncExitStack()
        self._asker: Asker | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    def asker(self) -> Asker:
        """Return who asks the endpoint."""
        if self._asker is None:
            endpoint, client = self._stack.enter_context(_connected(self._knobs))
            self._stack.push_async_callback(client.close)
            self._asker = Asker(client, endpoint, self._knobs, self._history, self._bound)
        return self._asker


@contextmanager
def _connected(knobs: Terms) -> Iterator[tuple[Endpoint, openai.AsyncOpenAI]]:
    if knobs.base_url is not None:
        endpoint = Endpoint(base_url=knobs.base_url, model=knobs.model)
        key = api_key(knobs.key_env)
        yield endpoint, new_client(knobs.base_url, key, timeout_s=knobs.timeout_s)
        return
    with serving(knobs.model) as endpoint:
        client = new_client(endpoint.base_url, NO_KEY, timeout_s=knobs.timeout_s, ours=True)
        yield endpoint, client


def new_client(
    base_url: str, key: str, *, timeout_s: float, ours: bool = False
) -> openai.AsyncOpenAI:
    """Make a client without retries of its own.

    Args:
        base_url: Root of the API.
        key: The user's key there.
        timeout_s: Longest wait for a piece of an answer, in seconds.
        ours: Whether it is our own server, which is not reached by way of a proxy.
    """
    return openai.AsyncOpenAI(
        base_url=base_url,
        api_key=key,
        timeout=timeout_s,
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=not ours),
    )

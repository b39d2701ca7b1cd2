"""Reach the language model: somebody's endpoint, or our own server started for the occasion."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

import openai

from inference.endpoints.budget import prompt_bound
from inference.endpoints.client import ChatClient
from inference.endpoints.config import EndpointConfig
from inference.endpoints.connection import async_api
from inference.endpoints.history import History
from inference.endpoints.keys import NO_KEY, api_key
from inference.endpoints.server import Endpoint, serving


class EndpointSession:
    """A session with the endpoint, opened when somebody first wants to talk.

    A run that finds everything in its journal starts no server and needs no key.

    Args:
        config: Whom to reach.
        history: Where what is said is written down.
        bound: The most tokens that the prompt of a request's body can have.
    """

    def __init__(
        self,
        config: EndpointConfig,
        history: History,
        bound: Callable[[Mapping[str, Any]], int] = prompt_bound,
    ) -> None:
        self._config = config
        self._bound = bound
        self._history = history
        self._stack = AsyncExitStack()
        self._client: ChatClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    def client(self) -> ChatClient:
        """Return the client that asks the endpoint.

        Raises:
            ValueError: There is no usable key, or a proxy of the environment is not usable.
            ServerError: Our own server did not come up.
        """
        if self._client is None:
            endpoint, api = self._stack.enter_context(_connected(self._config))
            self._stack.push_async_callback(api.close)
            self._client = ChatClient(api, endpoint, self._config, self._history, self._bound)
        return self._client


@contextmanager
def _connected(config: EndpointConfig) -> Iterator[tuple[Endpoint, openai.AsyncOpenAI]]:
    if config.base_url is not None:
        endpoint = Endpoint(base_url=config.base_url, model=config.model)
        key = api_key(config.key_env, config.base_url)
        yield endpoint, async_api(config.base_url, key, timeout_s=config.timeout_s)
        return
    with serving(config.model) as endpoint:
        yield endpoint, async_api(endpoint.base_url, NO_KEY, timeout_s=config.timeout_s)

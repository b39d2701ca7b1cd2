"""Have an endpoint's moderation look at texts, each once: verdicts go to the journal."""

import asyncio
from collections.abc import Iterable
from typing import Final

import openai

from inference.content_id import content_id
from inference.endpoints.client import ChatClient
from inference.endpoints.failures import ServerError
from inference.endpoints.history import History
from inference.endpoints.replies import reported_error
from inference.progress import ProgressBar

TEXTS_A_REQUEST: Final = 32


class Moderator:
    """Look texts up in the journal's verdicts, and get those that are missing.

    Args:
        model: The moderation model.
        history: Holds the verdicts.
    """

    def __init__(self, model: str, history: History) -> None:
        self._model = model
        self._history = history

    def unknown(self, texts: Iterable[str]) -> list[str]:
        """Those of the texts that have no verdict yet, each once."""
        seen = dict.fromkeys(texts)
        return [text for text in seen if self._id(text) not in self._history.verdicts]

    def flagged(self, text: str) -> str | None:
        """What a text was flagged for, such as ``violence``; None where it may pass."""
        return self._history.verdicts[self._id(text)]

    async def screen(
        self, client: ChatClient, texts: Iterable[str], *, concurrency: int, max_retries: int
    ) -> None:
        """Get a verdict for every text that has none.

        Args:
            client: Knows the endpoint.
            texts: The texts.
            concurrency: Requests in flight.
            max_retries: How often a request that failed is repeated.

        Raises:
            ServerError: The endpoint did not give one.
        """
        unknown = self.unknown(texts)
        starts = iter(range(0, len(unknown), TEXTS_A_REQUEST))

        async def work() -> None:
            for start in starts:
                some = unknown[start : start + TEXTS_A_REQUEST]
                await self._ask(client, max_retries, some)
                bar.update(len(some))

        with ProgressBar(
            total=len(unknown), desc="moderation", unit="text", disable=not unknown
        ) as bar:
            ends = await asyncio.gather(
                *(work() for _ in range(concurrency)), return_exceptions=True
            )
        for end in ends:
            if end is not None:
                raise end

    async def _ask(self, client: ChatClient, max_retries: int, texts: list[str]) -> None:
        answer = None
        api = client.api.with_options(max_retries=max_retries)
        try:
            answer = await api.moderations.create(model=self._model, input=texts)
            results = answer.results
            flags = [
                ", ".join(sorted(name for name, on in result.categories if on)) or "flagged"
                if result.flagged
                else None
                for result in results
            ]
        except (openai.OpenAIError, AttributeError, TypeError) as error:
            said = client.redacted(_words(error, answer))[:300]
            raise ServerError(f"moderation by {self._model} gave no verdict: {said}") from error
        if len(flags) != len(texts):
            raise ServerError(
                f"moderation by {self._model} gave {len(flags)} verdicts for {len(texts)} texts"
            )
        for text, flag in zip(texts, flags, strict=True):
            self._history.record({"moderated": self._id(text), "flagged": flag})

    def _id(self, text: str) -> str:
        return content_id(self._model, text)


def _words(error: Exception, answer: object) -> str:
    """The endpoint's own words, be it that they came with HTTP 200."""
    reported = reported_error(getattr(answer, "model_extra", None))
    return str(error) if reported is None else reported.words

"""Ask questions one by one, several at a time, each answer journaled as it arrives."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tqdm import tqdm

from data_gen.asking.asker import Asker, BadRequest, Failed, Reply, Stopped
from data_gen.asking.server import ServerError
from data_gen.instructions.prompts import Question, Rejected
from data_gen.instructions.wording import Wording

CUT = "cut off at max_tokens"


def answer_entry(request: str, asked: Question, reply: Reply, wording: Wording) -> dict[str, Any]:
    """Make the journal's entry of an answer, usable or not."""
    entry: dict[str, Any] = {"request": request, **asdict(asked), "answer": reply.text}
    if reply.flaw is not None:
        return entry | {"rejected": reply.flaw}
    try:
        wording.parse(reply.text, asked)
    except Rejected as reason:
        return entry | {"rejected": CUT if reply.cut else str(reason)}
    return entry | {"rejected": None}


class OneByOne:
    """The direct way to answers.

    Args:
        asker: Asks.
        wording: How.
        concurrency: Requests in flight.
        bar: Shows how far it is.
    """

    def __init__(
        self, asker: Asker, wording: Wording, *, concurrency: int, bar: "tqdm[Any]"
    ) -> None:
        self._asker = asker
        self._wording = wording
        self._concurrency = concurrency
        self._bar = bar

    async def ask(self, questions: Mapping[str, Question], failures: dict[str, str]) -> None:
        """Ask every question.

        Args:
            questions: Request id -> question.
            failures: Gets those that found no answer -> why.

        Raises:
            BudgetMet: The rest would not fit into the budget; what was in flight is journaled.
            ServerError: The endpoint is down or refuses; the same.
        """
        todo = iter(questions.items())

        async def work() -> None:
            for request, asked in todo:
                try:
                    await self._ask(request, asked)
                except Failed as why:
                    if isinstance(why, Stopped):
                        return
                    failures[request] = str(why)
                except BaseException:
                    self._asker.stop()
                    raise
                self._bar.update()

        workers = (work() for _ in range(self._concurrency))
        ends = await asyncio.gather(*workers, return_exceptions=True)
        for end in ends:
            if end is not None:
                raise end

    async def _ask(self, request: str, asked: Question) -> None:
        try:
            await self._asker.ask(
                request,
                self._wording.body(asked),
                lambda reply: answer_entry(request, asked, reply, self._wording),
            )
        except BadRequest as why:
            if not self._asker.answered:
                raise ServerError(self._asker.refusal(str(why))) from why
            raise

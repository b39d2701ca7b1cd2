"""Ask questions one by one, several at a time, each answer journaled as it arrives."""

import asyncio
from collections.abc import Mapping

from data_gen.instructions.answers import NotTaken, answer_entry
from data_gen.instructions.prompts import Question
from data_gen.instructions.template import PromptTemplate
from inference.endpoints.client import ChatClient
from inference.endpoints.failures import BadRequest, Failed, Stopped
from inference.endpoints.history import History
from inference.progress import ProgressBar


class OneByOne:
    """The direct way to answers.

    Args:
        client: Asks.
        template: How.
        history: The journal.
        concurrency: Requests in flight.
        bar: Shows how far it is.
    """

    def __init__(
        self,
        client: ChatClient,
        template: PromptTemplate,
        history: History,
        *,
        concurrency: int,
        bar: ProgressBar,
    ) -> None:
        self._client = client
        self._template = template
        self._history = history
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
        not_taken = NotTaken(self._client, self._template, self._history, failures)

        async def work() -> None:
            for request, asked in todo:
                try:
                    await self._ask(request, asked)
                except Stopped:
                    return
                except BadRequest as why:
                    not_taken.hold(request, asked, why)
                except Failed as why:
                    failures[request] = str(why)
                except BaseException:
                    self._client.stop()
                    raise
                else:
                    not_taken.reject()
                self._bar.update()

        workers = (work() for _ in range(self._concurrency))
        ends = await asyncio.gather(*workers, return_exceptions=True)
        for end in ends:
            if end is not None:
                raise end
        await not_taken.settle()

    async def _ask(self, request: str, asked: Question) -> None:
        await self._client.ask(
            request,
            self._template.body(asked),
            lambda reply: answer_entry(request, asked, reply, self._template),
        )

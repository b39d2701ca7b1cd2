"""What goes into the journal of the instruction stage: answers, and questions not taken."""

from dataclasses import asdict, replace
from typing import Any, Final

from data_gen.instructions.prompts import Question, Rejected
from data_gen.instructions.structured import PROBE
from data_gen.instructions.template import PromptTemplate
from inference.content_id import content_id
from inference.endpoints.client import ChatClient
from inference.endpoints.failures import BadRequest, Failed, ServerError
from inference.endpoints.history import History
from inference.endpoints.replies import Reply

CUT: Final = "cut off at max_tokens"


def answer_entry(
    request: str, asked: Question, reply: Reply, template: PromptTemplate
) -> dict[str, Any]:
    """Make the journal's entry of an answer, usable or not."""
    entry: dict[str, Any] = {"request": request, **asdict(asked), "answer": reply.text}
    if reply.flaw is not None:
        return entry | {"rejected": reply.flaw}
    try:
        template.parse(reply.text, asked)
    except Rejected as reason:
        return entry | {"rejected": CUT if reply.cut else str(reason)}
    return entry | {"rejected": None}


class NotTaken:
    """Questions that the endpoint does not take, until it is known whether it takes any.

    Once it has answered another one since, the fault is the question's: it is rejected for good,
    or every run would end with it. Where it takes none, the fault is the recipe's or the
    endpoint's, and they are to be asked again when that is put right.

    Args:
        client: Asks the endpoint.
        template: How.
        history: The journal.
        failures: Request id -> why there is no answer; has those that are not rejected.
    """

    def __init__(
        self,
        client: ChatClient,
        template: PromptTemplate,
        history: History,
        failures: dict[str, str],
    ) -> None:
        self._client = client
        self._template = template
        self._history = history
        self._failures = failures
        self._held: dict[str, tuple[Question, BadRequest]] = {}

    def hold(self, request: str, asked: Question, why: BadRequest) -> None:
        """Take note of a question."""
        self._held[request] = (asked, why)
        self._failures[request] = str(why)

    def reject(self) -> None:
        """Journal those held as rejected: another question has been answered since."""
        for request, (asked, why) in self._held.items():
            entry = answer_entry(request, asked, why.reply, self._template)
            self._history.record(entry | {"dollars": "0"})
            del self._failures[request]
        self._held.clear()

    async def settle(self) -> None:
        """Where any are left, find out whose fault it is, with a question that has none.

        Raises:
            ServerError: The endpoint takes no question of this kind.
            BudgetMet: Not even this fits into the budget.
        """
        if not self._held:
            return
        asked, _ = next(iter(self._held.values()))
        body = self._template.body(replace(asked, caption=PROBE))
        without = self._client.without
        try:
            await self._client.ask_unlogged(content_id("taken", PROBE, asked.edit_type), body)
        except BadRequest as why:
            raise ServerError(self._client.refusal(str(why))) from why
        except Failed:
            return
        # Otherwise it was a field that is known now not to be taken: they are asked again.
        if self._client.without == without:
            self.reject()

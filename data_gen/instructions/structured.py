"""Find out what an endpoint's answers can be held to: a ladder, tried from the strictest rung.

Servers differ in what they take (``response_format``), and some take it and ignore it. So each
rung is tried with a real question, and stands if the answer passes the very check that all answers
will go through. What is found is journaled and holds for the whole data set.
"""

from typing import Final

from data_gen.instructions.prompts import Question, Rejected
from data_gen.instructions.template import PromptTemplate
from inference.content_id import content_id
from inference.endpoints.client import ChatClient
from inference.endpoints.config import ResponseFormat
from inference.endpoints.failures import BadRequest, Failed
from inference.endpoints.replies import Reply

_HELD: Final = frozenset({"response_format"})
LADDER: Final[tuple[ResponseFormat, ...]] = ("json_schema", "json_object", "tagged")
TRIES: Final = 2
PROBE: Final = "a red apple on a wooden table"
"""The caption of the questions that find out what the endpoint can do."""

_WELL_FORMED: Final = frozenset(
    {"no such edit suits the caption", "edited caption equals the caption"}
)
"""Reasons to reject an answer that say nothing against its form."""


async def find_form(client: ChatClient, template: PromptTemplate, edit_type: str) -> ResponseFormat:
    """Return the strictest form that the endpoint's answers keep to.

    Args:
        client: Asks the endpoint.
        template: How questions are worded but for the form.
        edit_type: A kind of edit that will be asked for.

    Raises:
        ServerError: The endpoint is down or refuses all of it.
        BudgetMet: Not even this fits into the budget.
    """
    asked = Question(caption=PROBE, edit_type=edit_type)
    for form in LADDER[:-1]:
        if await _keeps_to(client, template.held_to(form), asked):
            return form
    return LADDER[-1]


async def _keeps_to(client: ChatClient, template: PromptTemplate, asked: Question) -> bool:
    for attempt in range(TRIES):
        request = content_id("probe", template.form, str(attempt))
        try:
            reply = await client.ask_unlogged(request, template.body(asked), required=_HELD)
        except BadRequest:
            return False
        except Failed:
            continue
        if _is_well_formed(reply, template, asked):
            return True
    return False


def _is_well_formed(reply: Reply, template: PromptTemplate, asked: Question) -> bool:
    try:
        template.parse(reply.text, asked)
    except Rejected as reason:
        return reply.flaw is None and str(reason) in _WELL_FORMED
    return reply.flaw is None

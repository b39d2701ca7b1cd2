"""Find out what an endpoint's answers can be held to: a ladder, tried from the strictest rung.

Servers differ in what they take (``response_format``), and some take it and ignore it. So each
rung is tried with a real question, and stands if the answer passes the very check that all answers
will go through. What is found is journaled and holds for the whole data set.
"""

from collections.abc import Mapping
from typing import Any, Final

from data_gen.asking.asker import Asker, BadRequest, Failed, Reply
from data_gen.asking.terms import Form
from data_gen.instructions.prompts import Question, Rejected
from data_gen.instructions.wording import Wording
from data_gen.records import content_id

LADDER: Final[tuple[Form, ...]] = ("json_schema", "json_object", "tagged")
TRIES: Final = 2
PROBE: Final = "a red apple on a wooden table"
"""The caption of the questions that find out what the endpoint can do."""

_WELL_FORMED: Final = frozenset(
    {"no such edit suits the caption", "edited caption equals the caption"}
)
"""Reasons to reject an answer that say nothing against its form."""


async def find_form(asker: Asker, wording: Wording, edit_type: str) -> Form:
    """Return the strictest form that the endpoint's answers keep to.

    Args:
        asker: Asks the endpoint.
        wording: How questions are worded but for the form.
        edit_type: A kind of edit that will be asked for.

    Raises:
        ServerError: The endpoint is down or refuses all of it.
        BudgetMet: Not even this fits into the budget.
    """
    asked = Question(caption=PROBE, edit_type=edit_type)
    for form in LADDER[:-1]:
        if await _keeps_to(asker, wording.held_to(form), asked):
            return form
    return LADDER[-1]


async def _keeps_to(asker: Asker, wording: Wording, asked: Question) -> bool:
    for attempt in range(TRIES):
        request = content_id("probe", wording.form, str(attempt))
        try:
            reply = await heard(asker, request, wording.body(asked))
        except BadRequest:
            return False
        except Failed:
            continue
        if _is_well_formed(reply, wording, asked):
            return True
    return False


async def heard(asker: Asker, request: str, body: Mapping[str, Any]) -> Reply:
    """Ask without keeping the answer; only its cost goes to the journal.

    Raises:
        Failed: There is none.
        BudgetMet: It does not fit into the budget.
        ServerError: The endpoint is down or refuses.
    """
    heard: list[Reply] = []

    def entry(reply: Reply) -> dict[str, Any]:
        heard.append(reply)
        return {"freed": request, "dollars": "0"}

    await asker.ask(request, body, entry)
    return heard[0]


def _is_well_formed(reply: Reply, wording: Wording, asked: Question) -> bool:
    try:
        wording.parse(reply.text, asked)
    except Rejected as reason:
        return reply.flaw is None and str(reason) in _WELL_FORMED
    return reply.flaw is None

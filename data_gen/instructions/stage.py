"""The instruction stage: captions in, triplets out, each answer of the language model paid once.

Every answer, usable or not, goes to an append-only journal before anything else happens to it; a
question that stands there is not asked again. ``prompts`` says what is asked and how an answer is
checked, ``rounds`` which questions there are; ``inference.endpoints`` gets an
answer within the budget.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from data_gen.instructions.account import Account, account, dollars
from data_gen.instructions.batch_api import InBatches
from data_gen.instructions.examples import ExampleBook, read_examples
from data_gen.instructions.knobs import InstructionKnobs
from data_gen.instructions.one_by_one import OneByOne
from data_gen.instructions.prompts import Question, Rejected, caption_flaw, edit_types_for
from data_gen.instructions.rounds import Plan
from data_gen.instructions.structured import find_form
from data_gen.instructions.template import PromptTemplate
from data_gen.records import Caption, EditTriplet, triplet_to_json
from inference.content_id import content_id
from inference.endpoints.budget import BudgetMet, Ledger
from inference.endpoints.client import ChatClient
from inference.endpoints.config import ResponseFormat
from inference.endpoints.failures import ServerError
from inference.endpoints.history import History, applied
from inference.endpoints.journal import Journal, read_journal
from inference.endpoints.moderation import Moderator
from inference.endpoints.session import EndpointSession
from inference.files import folder_digest, write_lines
from inference.progress import ProgressBar


class Unanswered(ServerError):
    """Some questions got no answer in this run; what the others brought is written."""


class Way(Protocol):
    """A way to answers."""

    async def ask(self, questions: Mapping[str, Question], failures: dict[str, str]) -> None:
        """Ask questions and journal the answers; ``failures`` gets those without one -> why."""


def write_triplets(
    captions: Sequence[Caption], knobs: InstructionKnobs, *, journal: Path, triplets: Path
) -> list[EditTriplet]:
    """Get an edit, or several, written for every caption.

    Args:
        captions: The captions, ids distinct.
        knobs: How.
        journal: File of all answers so far, appended to.
        triplets: File that gets the usable ones, one JSON object a line, sorted by id.

    Returns:
        The triplets, sorted by id.

    Raises:
        BudgetMet: The budget is met and questions are left. What has been answered is written.
        Unanswered: Some questions got no answer. What the others brought is written.
        ServerError: The server is down or refuses, or there is no triplet at all. What had been
            answered is in the journal; the same call goes on from there.
        ValueError: Not one answer was usable.
    """
    with Journal(journal) as file:
        history = History(file, Ledger(knobs.prices, knobs.endpoint.dollars))
        stage = _Stage(captions, knobs, history)
        met = asyncio.run(stage.run())
        found = stage.account()
    print(found.summary(knobs.edit_types))
    if not found.triplets and not stage.failures and not met:
        count, reasons = sum(found.reasons.values()), dict(found.reasons)
        raise ValueError(f"none of {count} answers was usable: {reasons}")
    write_lines(triplets, map(triplet_to_json, found.triplets))
    if met:
        raise BudgetMet(_budget_met(found, knobs))
    if stage.failures:
        kind = Unanswered if found.triplets else ServerError
        raise kind(
            f"{len(stage.failures)} of {stage.questions} questions got no answer (the last: "
            f"{list(stage.failures.values())[-1]}): run again to ask them again"
        )
    return list(found.triplets)


def _budget_met(found: Account, knobs: InstructionKnobs) -> str:
    open_ones = sum(status in ("left", "failed") for status in found.captions.values())
    return (
        f"the budget is met: {dollars(found.spent)} of ${knobs.budget} are spent, "
        f"{len(found.triplets)} triplets are written, {open_ones} of {len(found.captions)} "
        f"captions have no answer yet: raise the budget and run again to go on"
    )


def plan_questions(captions: Sequence[Caption], knobs: InstructionKnobs) -> dict[str, Question]:
    """List what is asked where one round asks for everything: request id -> question."""
    template = plain_template(knobs)
    return {
        template.request_id(asked): asked
        for caption in captions
        for edit_type in edit_types_for(caption.id, knobs.edit_types, knobs.edits_per_caption)
        for asked in [Question(caption=caption.text, edit_type=edit_type)]
    }


def plain_template(knobs: InstructionKnobs) -> PromptTemplate:
    """How questions are worded where the endpoint is not held to a form.

    A local writer is known by its weights, so that a changed one is asked anew.
    """
    digest = folder_digest(Path(knobs.model)) if knobs.base_url is None else None
    book = None
    if knobs.examples is not None:
        book = ExampleBook(read_examples(knobs.examples), knobs.examples_per_question)
    return PromptTemplate(
        writer=digest or knobs.model,
        form="plain" if knobs.form == "auto" else knobs.form,
        inverse=knobs.inverse,
        examples=book,
        temperature=knobs.temperature,
        max_tokens=knobs.max_tokens,
        extra=knobs.extra,
    )


def endpoint_id(knobs: InstructionKnobs) -> str:
    """The name under which a journal keeps the form of an endpoint's answers."""
    return content_id(str(knobs.base_url), knobs.model)


def count_answers(
    captions: Sequence[Caption], knobs: InstructionKnobs, journal: Path
) -> Counter[str]:
    """Count the answers that a run of these knobs would find: text of the caption -> how many.

    Args:
        captions: The captions.
        knobs: How they are asked for.
        journal: File of all answers so far; a run may be writing more.

    Raises:
        ValueError: A line of the journal is no entry.
    """
    template, texts = plain_template(knobs), {caption.text for caption in captions}
    answers: Counter[str] = Counter()
    for line, entry in enumerate(read_journal(journal), start=1):
        with applied(journal, line):
            if "form" in entry:
                if knobs.form == "auto" and entry["endpoint"] == endpoint_id(knobs):
                    template = template.held_to(entry["form"])
            elif "answer" in entry and entry["caption"] in texts:
                asked = Question(caption=entry["caption"], edit_type=entry["edit_type"])
                answers[asked.caption] += entry["request"] == template.request_id(asked)
    return answers


class _Stage:
    """One run of the stage over its journal."""

    def __init__(
        self, captions: Sequence[Caption], knobs: InstructionKnobs, history: History
    ) -> None:
        self.failures: dict[str, str] = {}
        self.questions = 0
        self._captions = captions
        self._knobs = knobs
        self._history = history
        self._template = plain_template(knobs)
        self._moderator = Moderator(knobs.moderation, history) if knobs.moderation else None
        self._plan: Plan | None = None
        self._flagged: dict[str, str] = {}

    async def run(self) -> bool:
        """Ask all that is not answered yet; return whether the budget was met on the way."""
        async with EndpointSession(self._knobs.endpoint, self._history) as session:
            try:
                sound = [one.text for one in self._captions if caption_flaw(one.text) is None]
                await self._screen(session, sound)
                clean = [caption for caption in self._captions if self._may_pass(caption)]
                await self._choose_form(session, clean)
                self._plan = Plan(clean, self._knobs, self._template, self._is_usable)
                for number, questions in self._plan.rounds(self._history):
                    await self._ask(session, number, questions)
            except BudgetMet:
                return True
        return False

    def account(self) -> Account:
        """Say what became of every caption."""
        return account(
            self._captions,
            self._plan.asked if self._plan else {},
            self._flagged,
            self._history,
            failed=self.failures,
            judge=self._judged,
        )

    async def _choose_form(self, session: EndpointSession, captions: Sequence[Caption]) -> None:
        if self._knobs.form == "auto" and self._knobs.base_url is not None:
            place = endpoint_id(self._knobs)
            form = self._history.form(place) or self._form_before(captions)
            if form is None:
                kinds = sorted(self._knobs.edit_types)
                form = await find_form(session.client(), self._template, kinds[0])
                self._history.record({"form": form, "endpoint": place})
            self._template = self._template.held_to(form)

    def _form_before(self, captions: Sequence[Caption]) -> ResponseFormat | None:
        """Plain where questions of this data set were asked so: they are not to be paid again."""
        first = plan_questions(captions, self._knobs) if self._history.has_answers else {}
        return "plain" if len(self._history.unanswered(first)) < len(first) else None

    async def _ask(
        self, session: EndpointSession, number: int, questions: Mapping[str, Question]
    ) -> None:
        self.questions += len(questions)
        missing = {name: questions[name] for name in self._history.unanswered(questions)}
        try:
            if missing:
                await self._ask_missing(session, number, missing)
        except BudgetMet:
            await self._screen_answers(session, questions)  # of those that came before it was met
            raise
        await self._screen_answers(session, questions)

    async def _ask_missing(
        self, session: EndpointSession, number: int, missing: Mapping[str, Question]
    ) -> None:
        rounds = self._knobs.rounds
        said = f"instructions, round {number} of {rounds}" if rounds > 1 else "instructions"
        with ProgressBar(total=len(missing), desc=said, unit="caption") as bar:
            await self._way(session.client(), bar).ask(missing, self.failures)

    async def _screen_answers(
        self, session: EndpointSession, questions: Mapping[str, Question]
    ) -> None:
        if self._moderator is None:
            return
        answers = [self._history.answer(request) for request in questions]
        made = [self._made(entry) for entry in answers if entry is not None]
        await self._screen(session, [_texts(one) for one in made if isinstance(one, EditTriplet)])

    def _way(self, client: ChatClient, bar: ProgressBar) -> Way:
        if self._knobs.batch:
            return InBatches(client, self._template, self._knobs, self._history, bar)
        return OneByOne(
            client, self._template, self._history, concurrency=self._knobs.concurrency, bar=bar
        )

    async def _screen(self, session: EndpointSession, texts: Sequence[str]) -> None:
        if self._moderator and self._moderator.unknown(texts):
            await self._moderator.screen(
                session.client(),
                texts,
                concurrency=self._knobs.concurrency,
                max_retries=self._knobs.max_retries,
            )

    def _may_pass(self, caption: Caption) -> bool:
        flaw = caption_flaw(caption.text)
        if flaw is None and self._moderator and (flag := self._moderator.flagged(caption.text)):
            flaw = f"caption flagged by moderation: {flag}"
        if flaw is not None:
            self._flagged[caption.id] = flaw
        return flaw is None

    def _is_usable(self, entry: Mapping[str, Any]) -> bool:
        if entry["rejected"] or self._moderator is None:
            return not entry["rejected"]
        return isinstance(self._judged(entry), EditTriplet)

    def _judged(self, entry: Mapping[str, Any]) -> EditTriplet | str:
        """The triplet in an answer's entry, or why there is none."""
        made = self._made(entry)
        if self._moderator and isinstance(made, EditTriplet):
            flag = self._moderator.flagged(_texts(made))
            return made if flag is None else f"answer flagged by moderation: {flag}"
        return made

    def _made(self, entry: Mapping[str, Any]) -> EditTriplet | str:
        if entry["rejected"]:
            return str(entry["rejected"])
        asked = Question(caption=entry["caption"], edit_type=entry["edit_type"])
        try:
            return self._template.parse(entry["answer"], asked)
        except Rejected as reason:  # by a check that was not there when it was journaled
            return str(reason)


def _texts(triplet: EditTriplet) -> str:
    """What the language model wrote, for moderation."""
    return "\n".join((triplet.instruction, triplet.edited_caption, triplet.inverse_instruction))

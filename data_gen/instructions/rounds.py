"""The questions of a run, round after round, as the journal's answers let them follow."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from data_gen.instructions.knobs import InstructionKnobs
from data_gen.instructions.prompts import Question
from data_gen.instructions.quotas import plan_round, round_of
from data_gen.instructions.template import PromptTemplate
from data_gen.records import Caption
from inference.content_id import content_id
from inference.endpoints.history import History

Usable = Callable[[Mapping[str, Any]], bool]
"""Whether an answer's entry makes a triplet."""


class Plan:
    """What is asked of a set of captions.

    Args:
        captions: The captions, ids distinct.
        knobs: The mix, and in how many rounds.
        template: How questions are worded, hence their ids.
        usable: Which answers count.
    """

    def __init__(
        self,
        captions: Sequence[Caption],
        knobs: InstructionKnobs,
        template: PromptTemplate,
        usable: Usable,
    ) -> None:
        self.asked: dict[str, dict[str, str]] = {}
        self._captions = captions
        self._knobs = knobs
        self._template = template
        self._usable = usable
        self._outcomes: dict[str, dict[str, bool | None]] = {}

    def rounds(self, history: History) -> Iterator[tuple[int, dict[str, Question]]]:
        """Go through the rounds: number, and request id -> question.

        Whoever takes the next round has the answers to this one in the history, as far as there
        are any: questions that failed are not asked again in other words. ``asked`` grows on the
        way: caption id -> edit type -> request id.
        """
        plan, rounds = self._id(), self._knobs.rounds
        firsts = [(round_of(caption.id, rounds), caption) for caption in self._captions]
        for number in range(1, rounds + 1):
            # What is asked first depends on no answer.
            if number > 1:
                self._learn(history, history.mark(plan, number))
            come = [caption for first, caption in firsts if first <= number]
            yield number, self._questions(come)

    def _questions(self, captions: Sequence[Caption]) -> dict[str, Question]:
        knobs = self._knobs
        chosen = plan_round(
            captions,
            self._outcomes,
            knobs.edit_types,
            edits_per_caption=knobs.edits_per_caption,
        )
        questions = {}
        for caption, edit_type in chosen:
            question = Question(caption=caption.text, edit_type=edit_type)
            request = self._template.request_id(question)
            questions[request] = question
            self.asked.setdefault(caption.id, {})[edit_type] = request
            self._outcomes.setdefault(caption.id, {})[edit_type] = None
        return questions

    def _learn(self, history: History, place: int) -> None:
        """Take in the answers journaled before a place."""
        for caption, outcomes in self._outcomes.items():
            for edit_type, outcome in outcomes.items():
                if outcome is None:
                    entry = history.answer(self.asked[caption][edit_type], before=place)
                    outcomes[edit_type] = None if entry is None else self._usable(entry)

    def _id(self) -> str:
        """A hash of all that decides the questions but the answers."""
        knobs = self._knobs
        quotas = [knobs.edit_types, knobs.edits_per_caption, knobs.rounds]
        example = Question(caption="", edit_type="")
        ids = sorted(caption.id for caption in self._captions)
        return content_id(
            json.dumps(quotas, sort_keys=True), self._template.request_id(example), *ids
        )

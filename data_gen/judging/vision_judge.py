"""Have a vision-language model judge edits, each answer paid once and within a budget.

What is asked and answered goes into one journal of the data set, ``judge.jsonl``, which all workers
share: a pair, known by the bytes of its pictures, is never asked about again, whichever recipe
renders it. An answer that cannot be used makes a pair's score not a number, which no filter lets
pass; so does a pair that the endpoint does not take. No answer at all is an error, so that
the unit is made again.
"""

import asyncio
import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

from data_gen.judging.judge_knobs import JudgeKnobs
from data_gen.judging.rubric import SCHEMA, SYSTEM, Unusable, parse_marks, user_text
from data_gen.records import ImagePair
from data_gen.shards.members import encode_jpeg
from inference.content_id import content_id
from inference.endpoints.budget import BudgetMet, Ledger, prompt_bound
from inference.endpoints.client import ChatClient
from inference.endpoints.failures import BadRequest, Failed, ServerError, Stopped
from inference.endpoints.history import History
from inference.endpoints.journal import SharedJournal
from inference.endpoints.replies import Reply
from inference.endpoints.session import EndpointSession

JOURNAL: Final = "judge.jsonl"
_USUAL_CHARACTERS: Final = 200
_FORMATS: Final[Mapping[str, Any]] = {
    "json_schema": {
        "type": "json_schema",
        "json_schema": {"name": "judgement", "strict": True, "schema": SCHEMA},
    },
    "json_object": {"type": "json_object"},
}


class JudgeError(RuntimeError):
    """The judge did not answer; the unit fails, and the next run asks again."""


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """A pair as the judge sees it."""

    key: str
    instruction: str
    pictures: tuple[bytes, bytes]

    @classmethod
    def of(cls, pair: ImagePair) -> "_Shown":
        return cls(
            key=pair.key,
            instruction=pair.triplet.instruction,
            pictures=(encode_jpeg(pair.source), encode_jpeg(pair.edited)),
        )


class VisionJudge:
    """Scores the edit of a pair, in [0, 1] (see `rubric`).

    Args:
        knobs: Whom to ask, and how.
        root: The data set's folder, which holds the journal.
    """

    name: ClassVar[str] = "judge"
    dear: ClassVar[bool] = True

    def __init__(self, knobs: JudgeKnobs, root: Path) -> None:
        self._knobs = knobs
        self._journal = SharedJournal(root / JOURNAL)
        self._history = History(self._journal, Ledger(knobs.prices, knobs.endpoint.dollars))
        # One loop for all calls: the client's connections and the rate limits outlive a call.
        self._loop = asyncio.Runner()
        self._session = EndpointSession(knobs.endpoint, self._history, partial(_bound, knobs=knobs))

    def __call__(self, pairs: Sequence[ImagePair]) -> list[float]:
        """See `Scorer`.

        Raises:
            JudgeError: The endpoint gave no answer to some question.
            BudgetMet: The rest does not fit into the budget.
            ServerError: The endpoint is down or refuses.
        """
        asked = [_Shown.of(pair) for pair in pairs]
        requests = [self._request_id(shown) for shown in asked]
        self._history.catch_up()
        missing = set(self._history.unanswered(requests))
        todo = {r: shown for r, shown in zip(requests, asked, strict=True) if r in missing}
        if todo:
            self._loop.run(self._ask_all(todo))
        return [self._score(request) for request in requests]

    def close(self) -> None:
        """End the connections."""
        self._loop.run(self._session.__aexit__(None, None, None))
        self._loop.close()
        self._journal.close()

    def _score(self, request: str) -> float:
        entry = self._history.answer(request)
        assert entry is not None
        return float("nan") if entry["rejected"] else parse_marks(entry["answer"])

    async def _ask_all(self, todo: Mapping[str, _Shown]) -> None:
        client, left = self._session.client(), iter(todo.items())
        failures: list[str] = []

        async def work() -> None:
            for request, shown in left:
                try:
                    await self._ask(client, request, shown)
                except Stopped:
                    return
                except Failed as why:
                    failures.append(str(why))

        ends = await asyncio.gather(
            *(work() for _ in range(self._knobs.concurrency)), return_exceptions=True
        )
        for end in ends:
            if isinstance(end, BudgetMet):
                raise BudgetMet(self._budget_met()) from end
            if end is not None:
                raise end
        if failures:
            raise JudgeError(
                f"the judge gave no answer to {len(failures)} of {len(todo)} questions: "
                f"{failures[0]}"
            )

    async def _ask(self, client: ChatClient, request: str, shown: _Shown) -> None:
        try:
            await client.ask(
                request, _body(shown, self._knobs), lambda reply: _entry(request, shown, reply)
            )
        except BadRequest as why:
            if not client.answered:  # it takes no question of this kind, so none will be answered
                raise ServerError(client.refusal(str(why))) from why
            # Of this pair it takes none, in the next run as little.
            self._history.record(_entry(request, shown, why.reply) | {"dollars": "0"})

    def _request_id(self, shown: _Shown) -> str:
        decides = json.dumps([SYSTEM, self._knobs.decides()], sort_keys=True)
        pictures = (hashlib.sha256(picture).hexdigest() for picture in shown.pictures)
        return content_id("judge", decides, shown.instruction, *pictures)

    def _budget_met(self) -> str:
        return (
            f"the judge's budget is met: ${self._history.ledger.spent} of ${self._knobs.budget} "
            "are spent; give pairs.scorers.judge.budget more and run again, nothing is paid twice"
        )


def dearest(knobs: JudgeKnobs) -> Decimal:
    """The most dollars that a judgement of an instruction of usual length can cost."""
    shown = _Shown(key="", instruction="x" * _USUAL_CHARACTERS, pictures=(b"", b""))
    return knobs.prices.worst(_bound(_body(shown, knobs), knobs), knobs.max_tokens)


def _body(shown: _Shown, knobs: JudgeKnobs) -> dict[str, Any]:
    """The fields of a request."""
    pictures = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{_text(picture)}"}}
        for picture in shown.pictures
    ]
    content = [{"type": "text", "text": user_text(shown.instruction)}, *pictures]
    body: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": content},
        ],
        "max_completion_tokens": knobs.max_tokens,
        **knobs.extra,
    }
    if knobs.temperature is not None:
        body["temperature"] = knobs.temperature
    if knobs.form in _FORMATS:
        body["response_format"] = _FORMATS[knobs.form]
    return body


def _bound(body: Mapping[str, Any], knobs: JudgeKnobs) -> int:
    """The tokens that a prompt cannot exceed: its texts, and its pictures as the user says."""
    system, user = body["messages"]
    text, *pictures = user["content"]
    words = {"role": "user", "content": text["text"]}
    said = prompt_bound({**body, "messages": [system, words]})
    return said + len(pictures) * knobs.picture_tokens


def _entry(request: str, shown: _Shown, reply: Reply) -> dict[str, Any]:
    """The journal's entry of an answer, usable or not."""
    rejected = reply.flaw
    if rejected is None:
        try:
            parse_marks(reply.text)
        except Unusable as reason:
            rejected = "cut off at max_tokens" if reply.cut else str(reason)
    return {"request": request, "pair": shown.key, "answer": reply.text, "rejected": rejected}


def _text(picture: bytes) -> str:
    return base64.b64encode(picture).decode()

"""The instruction stage: captions in, triplets out, each answer of the language model paid once.

Every answer, usable or not, goes to an append-only journal before anything else happens to it; a
question that stands there is not asked again. ``prompts`` says what is asked and how an answer is
checked.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import openai
from tqdm import tqdm

from data_gen.files import read_lines
from data_gen.journal import Journal
from data_gen.prompts import (
    SYSTEM,
    Question,
    Rejected,
    edit_types_for,
    messages,
    parse_answer,
    question,
)
from data_gen.records import Caption, EditTriplet, content_id, triplet_from_json, triplet_to_json
from data_gen.server import Endpoint, ServerError, serving
from inference.files import folder_digest, write_lines

DEFAULT_MIX = {
    "recolour": 1.0,
    "reshape": 1.0,
    "resize": 1.0,
    "move": 1.0,
    "add": 1.0,
    "remove": 1.0,
    "background": 1.0,
    "pattern": 1.0,
    "style": 1.0,
}


@dataclass(frozen=True, kw_only=True)
class InstructionKnobs:
    """How edits are written.

    Attributes:
        model: A local transformers folder, or the model's name on the server at ``base_url``.
        base_url: Root of an OpenAI-compatible API; null serves ``model`` on loopback. The key
            comes from the environment variable OPENAI_API_KEY.
        edit_types: Edit type -> its weight in the mix, > 0.
        edits_per_caption: How many edits, of different types, each caption gets.
        temperature: Sampling temperature.
        max_tokens: Longest answer, in tokens.
        concurrency: Requests in flight. At 1 a local server's answers are reproducible.
        timeout_s: Longest wait for one answer, in seconds.
        max_retries: How often the client repeats a request that failed.
    """

    model: str = "inference/shapes/models/writer"
    base_url: str | None = None
    edit_types: dict[str, float] = field(default_factory=lambda: dict(DEFAULT_MIX))
    edits_per_caption: int = 1
    temperature: float = 0.7
    max_tokens: int = 256
    concurrency: int = 1
    timeout_s: float = 120.0
    max_retries: int = 2

    def __post_init__(self) -> None:
        wrong = {name: weight for name, weight in self.edit_types.items() if not weight > 0}
        if wrong:
            raise ValueError(f"the weights of edit_types must be above 0, got {wrong}")
        if not 1 <= self.edits_per_caption <= len(self.edit_types):
            raise ValueError(
                f"edits_per_caption must be between 1 and the number of edit_types, "
                f"{len(self.edit_types)}, got {self.edits_per_caption}"
            )
        if self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {self.concurrency}")


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
        ServerError: The server is down, refuses, or left questions unanswered. What had been
            answered is in the journal; the same call goes on from there.
        ValueError: Not one answer was usable.
    """
    questions = plan_questions(captions, knobs)
    with Journal(journal) as answers:
        known = {str(entry["request"]): entry for entry in answers.entries()}
        missing = {name: asked for name, asked in questions.items() if name not in known}
        if missing:
            with _endpoint(knobs) as (endpoint, client):
                asyncio.run(_ask_all(client, endpoint, missing, knobs, answers))
        known = {str(entry["request"]): entry for entry in answers.entries()}
    entries = [(asked, known[request]) for request, asked in questions.items()]
    written = sorted(
        (parse_answer(entry["answer"], asked) for asked, entry in entries if not entry["rejected"]),
        key=lambda triplet: triplet.id,
    )
    reasons = Counter(entry["rejected"] for _, entry in entries if entry["rejected"])
    print(f"instructions: {len(written)} triplets, {reasons.total()} rejected {dict(reasons)}")
    if not written:
        raise ValueError(f"none of {len(entries)} answers was usable: {dict(reasons)}")
    write_lines(triplets, map(triplet_to_json, written))
    return written


def read_triplets(path: Path) -> list[EditTriplet]:
    """Read what `write_triplets` wrote.

    Raises:
        FileNotFoundError: The stage has not run yet.
        ValueError: The file is empty, or a line is no triplet.
    """
    return read_lines(path, triplet_from_json, stage="instructions")


def plan_questions(captions: Sequence[Caption], knobs: InstructionKnobs) -> dict[str, Question]:
    """List what is to be asked: request id -> question.

    A request id is a hash of the question, the system text, the temperature and the model (of a
    local one, its weights), so that a changed writer is asked anew.
    """
    model = folder_digest(Path(knobs.model)) if knobs.base_url is None else knobs.model
    how = (model or knobs.model, str(knobs.temperature), SYSTEM)
    questions = {}
    for caption in captions:
        for edit_type in edit_types_for(caption.id, knobs.edit_types, knobs.edits_per_caption):
            asked = Question(caption=caption.text, edit_type=edit_type)
            questions[content_id(*how, question(asked))] = asked
    return questions


@contextmanager
def _endpoint(knobs: InstructionKnobs) -> Iterator[tuple[Endpoint, openai.AsyncOpenAI]]:
    if knobs.base_url is not None:
        key = os.environ.get("OPENAI_API_KEY", "none")
        endpoint = Endpoint(base_url=knobs.base_url, model=knobs.model)
        yield endpoint, _client(endpoint, key, knobs)
        return
    with serving(knobs.model) as endpoint:
        # Our own server gets neither the user's key nor, by way of a proxy, an outside line.
        yield endpoint, _client(endpoint, "none", knobs, trust_env=False)


def _client(
    endpoint: Endpoint, key: str, knobs: InstructionKnobs, *, trust_env: bool = True
) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=endpoint.base_url,
        api_key=key,
        timeout=knobs.timeout_s,
        max_retries=knobs.max_retries,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=trust_env),
    )


async def _ask_all(
    client: openai.AsyncOpenAI,
    endpoint: Endpoint,
    questions: Mapping[str, Question],
    knobs: InstructionKnobs,
    answers: Journal,
) -> None:
    """Ask every question, ``concurrency`` at a time, and journal each answer as it arrives."""
    todo = iter(questions.items())
    failures: list[str] = []

    async def work() -> None:
        for request, asked in todo:
            try:
                text = await _ask(client, endpoint, request, asked, knobs)
            except (openai.RateLimitError, openai.InternalServerError) as error:
                failures.append(_said(error))
            else:
                answers.append(_entry(request, asked, text))
            bar.update()

    with tqdm(total=len(questions), desc="instructions", unit="caption") as bar:
        try:
            await asyncio.gather(*(work() for _ in range(knobs.concurrency)))
        except openai.APIConnectionError as error:
            raise ServerError(
                f"the language-model server at {endpoint.base_url} is down: {error.message} "
                "Start it and run again; answers so far are kept"
            ) from error
        except openai.APIStatusError as error:
            raise ServerError(
                f"the language-model server at {endpoint.base_url} refuses: {_said(error)}"
            ) from error
        finally:
            await client.close()
    if failures:
        raise ServerError(
            f"{len(failures)} of {len(questions)} questions got no answer (the last: "
            f"{failures[-1]}): run again to ask them again"
        )


async def _ask(
    client: openai.AsyncOpenAI,
    endpoint: Endpoint,
    request: str,
    asked: Question,
    knobs: InstructionKnobs,
) -> str:
    completion = await client.chat.completions.create(
        model=endpoint.model,
        messages=messages(asked.caption, asked.edit_type),
        temperature=knobs.temperature,
        max_completion_tokens=knobs.max_tokens,
        seed=int(request, 16) % 2**31,
    )
    return completion.choices[0].message.content or ""


def _said(error: openai.APIStatusError) -> str:
    """The server's own words: the client's message holds them in OpenAI's form only."""
    return f"HTTP {error.status_code}, {error.response.text[:300]}"


def _entry(request: str, asked: Question, text: str) -> dict[str, object]:
    entry: dict[str, object] = {"request": request, **asdict(asked), "answer": text}
    try:
        parse_answer(text, asked)
    except Rejected as reason:
        return entry | {"rejected": str(reason)}
    return entry | {"rejected": None}

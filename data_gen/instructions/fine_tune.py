"""Fine-tune a hosted language model on people's own edits, as InstructPix2Pix fine-tuned GPT-3.

The training file has the very format in which the model is asked afterwards: the plain wording of
the instruction stage. The job runs at the endpoint; a journal in the output folder holds what was
started there, so that a killed command goes on waiting for the same job.
"""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import openai
from openai.types.fine_tuning import FineTuningJob

from data_gen.instructions.examples import Example, read_examples
from data_gen.instructions.knobs import FineTuneKnobs
from data_gen.instructions.prompts import ANSWER_FIELDS, Question, Rejected
from data_gen.instructions.template import PromptTemplate
from inference.content_id import content_id
from inference.endpoints.connection import place, sync_api
from inference.endpoints.failures import ServerError
from inference.endpoints.journal import Journal
from inference.endpoints.keys import Redactor, api_key
from inference.endpoints.replies import required_text
from inference.files import file_digest, write_lines

UNTYPED: Final = "any"
"""The edit type of examples that name none."""

FEWEST: Final = 10
"""Examples that the endpoint asks for at least."""

_ENDED: Final = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, kw_only=True)
class TrainingFile:
    """What a model is fine-tuned on.

    Attributes:
        path: The file.
        inverse: Whether its answers have an inverse instruction.
        edit_types: Edit type -> how many of its examples have it.
    """

    path: Path
    inverse: bool
    edit_types: Counter[str]


def run_fine_tuning(knobs: FineTuneKnobs) -> str:
    """Write the training file, run the endpoint's job on it, and say how to use its model.

    Returns:
        The new model's name.

    Raises:
        ValueError: The edits are no good.
        ServerError: The endpoint refuses, or the job failed.
    """
    file = write_training_file(read_examples(knobs.triplets), knobs.output / "training.jsonl")
    print(f"fine-tune: {file.edit_types.total()} examples in {file.path}")
    key = api_key(knobs.key_env, knobs.base_url)
    redactor = Redactor(key)
    with (
        Journal(knobs.output / "fine-tune.jsonl") as journal,
        sync_api(knobs.base_url, key) as client,
    ):
        try:
            name = _Job(client, knobs, file, journal, redactor).finish()
        except (openai.OpenAIError, AttributeError, TypeError) as error:  # also 200 with an error
            said = redactor.text(str(error))[:300]
            raise ServerError(
                f"fine-tuning at {place(knobs.base_url)} failed: {said}. Run again to go on"
            ) from error
    print(f"fine-tune: the model is {name}. In a recipe:\n{_recipe(name, knobs, file)}")
    return name


def write_training_file(examples: Sequence[Example], path: Path) -> TrainingFile:
    """Write edits as chats, each ending with the answer wanted.

    An edit whose answer the instruction stage would reject is left out and counted by reason.

    Raises:
        ValueError: Too few edits are left, or some have an inverse instruction and some do not.
    """
    with_inverse = sum(one.inverse_instruction is not None for one in examples)
    if with_inverse not in (0, len(examples)):
        raise ValueError(
            f"{with_inverse} of {len(examples)} edits have an inverse instruction: "
            "give it to all of them, or to none"
        )
    template = PromptTemplate(writer="", inverse=bool(with_inverse), extra={})
    lines: dict[str, str] = {}
    reasons: Counter[str] = Counter()
    for one in examples:
        try:
            line, edit_type = _chat(one, template)
        except Rejected as reason:
            reasons[str(reason)] += 1
        else:
            reasons["said before"] += line in lines
            lines[line] = edit_type
    left_out = dict(+reasons)
    if left_out:
        print(f"fine-tune: left out {left_out}")
    if len(lines) < FEWEST:
        raise ValueError(f"fine-tuning takes {FEWEST} edits at least, got {len(lines)}: {left_out}")
    write_lines(path, lines)
    return TrainingFile(path=path, inverse=bool(with_inverse), edit_types=Counter(lines.values()))


def _chat(example: Example, template: PromptTemplate) -> tuple[str, str]:
    """One line of the training file, and the edit type it is about."""
    asked = Question(caption=example.caption, edit_type=example.edit_type or UNTYPED)
    fields = {name: getattr(example, name) for name in ANSWER_FIELDS}
    answer = json.dumps({name: text for name, text in fields.items() if text is not None})
    template.parse(answer, asked)
    chat = [*template.messages(asked), {"role": "assistant", "content": answer}]
    return json.dumps({"messages": chat}), asked.edit_type


class _Job:
    """One fine-tuning job, from wherever an earlier run left it."""

    def __init__(
        self,
        client: openai.OpenAI,
        knobs: FineTuneKnobs,
        file: TrainingFile,
        journal: Journal,
        redactor: Redactor,
    ) -> None:
        self._client = client
        self._knobs = knobs
        self._file = file
        self._journal = journal
        self._redactor = redactor
        self._key = content_id(
            *(file_digest(file.path), knobs.base_url, knobs.model, knobs.suffix),
            *(str(knobs.epochs), str(knobs.seed)),
        )

    def finish(self) -> str:
        """Start the job if there is none, wait for its end, and return the model's name."""
        said = self._said_before()
        file = said.get("file") or self._upload()
        job = said.get("job") or self._found(file) or self._start(file)
        ended = self._wait(job)
        if ended.status == "succeeded" and ended.fine_tuned_model:
            return self._redactor.text(ended.fine_tuned_model)
        self._say(ended=ended.status)
        why = ended.error.message if ended.error and ended.error.message else "it does not say why"
        said_of_it = self._redactor.text(f"the fine-tuning job {job} is {ended.status}: {why}")
        raise ServerError(said_of_it)

    def _said_before(self) -> dict[str, str]:
        """What the journal knows of this very job; nothing of one that failed."""
        said: dict[str, str] = {}
        for entry in self._journal.entries():
            if entry["run"] == self._key:
                said |= entry
                if "ended" in entry:
                    said = {}
        return said

    def _say(self, **what: str) -> None:
        self._journal.append(self._redactor.value({"run": self._key, **what}))

    def _upload(self) -> str:
        content = self._file.path.read_bytes()
        file = self._client.files.create(file=("training.jsonl", content), purpose="fine-tune")
        name = required_text(file, "id")
        self._say(file=name)
        return name

    def _found(self, file: str) -> str | None:
        """A job that was started on this file just before a kill."""
        for job in self._client.fine_tuning.jobs.list(limit=100):
            if job.training_file == file:
                name = required_text(job, "id")
                self._say(job=name)
                return name
        return None

    def _start(self, file: str) -> str:
        epochs = self._knobs.epochs
        # Not repeated on errors: it would train, and cost, twice.
        job = self._client.with_options(max_retries=0).fine_tuning.jobs.create(
            training_file=file,
            model=self._knobs.model,
            suffix=self._knobs.suffix,
            seed=self._knobs.seed,
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": epochs or "auto"}},
            },
        )
        name = required_text(job, "id")
        self._say(job=name)
        return name

    def _wait(self, job: str) -> FineTuningJob:
        status = None
        while True:
            found = self._client.fine_tuning.jobs.retrieve(job)
            if required_text(found, "status") != status:
                status = found.status
                print(self._redactor.text(f"fine-tune: job {job} is {status}"), flush=True)
            if status in _ENDED:
                return found
            time.sleep(self._knobs.poll_s)


def _recipe(name: str, knobs: FineTuneKnobs, file: TrainingFile) -> str:
    """The part of a recipe that asks the new model the way it has been taught."""
    mix = {kind: float(count) for kind, count in sorted(file.edit_types.items())}
    lines = [
        "instructions:",
        f"  model: {json.dumps(name)}",
        f"  base_url: {json.dumps(knobs.base_url)}",
        f"  key_env: {json.dumps(knobs.key_env)}",
        "  form: plain",
        f"  inverse: {json.dumps(file.inverse)}",
        f"  edit_types: {json.dumps(mix)}",
    ]
    return "\n".join(lines)

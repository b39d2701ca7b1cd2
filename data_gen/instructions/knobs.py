"""How the instruction stage is told what to do."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from inference.endpoints.budget import Prices
from inference.endpoints.config import OPENAI_URL, EndpointConfig, check_base_url
from inference.endpoints.keys import AUTO_KEY_ENV, check_key_env
from inference.model_names import located
from inference.number_types import (
    Connections,
    NonNegative,
    Positive,
    PositiveCount,
    PositiveSmallCount,
    Seconds,
    Seed,
    SmallCount,
    checks_numbers,
)

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


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class InstructionKnobs:
    """How edits are written.

    Attributes:
        model: A transformers folder, one that ships (``shapes/writer``) or OWNER/NAME of the hub;
            with ``base_url`` the model's name on that server.
        base_url: Root of an OpenAI-compatible API; null serves ``model`` on loopback.
        key_env: The environment variable that holds the key for ``base_url``; ``auto`` sends
            ``OPENAI_API_KEY`` to OpenAI's own host and no key elsewhere; null sends no key.
        edit_types: Edit type -> its weight in the mix, > 0.
        edits_per_caption: How many edits, of different types, each caption gets.
        rounds: In how many rounds the captions are gone through. After each one the types that
            fell behind their share of the mix are asked for more often, and captions whose answer
            was not usable are asked for an edit of another type. 1 asks once and leaves it so.
        form: How answers are written down. ``auto`` finds out what the endpoint can be held to:
            a JSON schema, JSON, or text between tags; our own server is asked plainly for JSON.
        inverse: Whether the instruction that leads back is asked for too.
        examples: A file of edits that people wrote, one JSON object a line; null for none.
        examples_per_question: How many of them accompany each question.
        temperature: Sampling temperature; null leaves it to the endpoint.
        max_tokens: Longest answer, in tokens.
        extra: Further fields of each request, such as ``frequency_penalty``. Fields that the
            endpoint turns out not to take are left out, and told.
        batch: Whether questions go through the endpoint's Batch API. Each round is then a batch,
            which may take a day: take few.
        batch_poll_s: How often a batch is looked at, in seconds.
        concurrency: Requests in flight. At 1 a local server's answers are reproducible.
        requests_per_minute: The endpoint's limit; null for none.
        tokens_per_minute: The endpoint's limit, prompts and answers together; null for none.
        timeout_s: Longest wait for one answer, in seconds.
        max_retries: How often a request that failed is repeated.
        prices: What the endpoint charges.
        budget: Dollars that this data set's answers may cost, never exceeded; null for no limit.
        moderation: The endpoint's moderation model that captions and answers must pass; null for
            none.
    """

    model: str = "shapes/writer"
    base_url: str | None = None
    key_env: str | None = AUTO_KEY_ENV
    edit_types: dict[str, Positive] = field(default_factory=lambda: dict(DEFAULT_MIX))
    edits_per_caption: PositiveSmallCount = 1
    rounds: PositiveSmallCount = 8
    form: Literal["auto", "plain", "json_schema", "json_object", "tagged"] = "auto"
    inverse: bool = True
    examples: Path | None = None
    examples_per_question: PositiveSmallCount = 4
    temperature: NonNegative | None = 0.7
    max_tokens: PositiveCount = 256
    extra: dict[str, Any] = field(default_factory=dict)
    batch: bool = False
    batch_poll_s: Seconds = 30.0
    concurrency: Connections = 1
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    timeout_s: Seconds = 120.0
    max_retries: SmallCount = 5
    prices: Prices = field(default_factory=Prices)
    budget: NonNegative | None = None
    moderation: str | None = None

    def __post_init__(self) -> None:
        if self.edits_per_caption > len(self.edit_types):
            raise ValueError(
                f"edits_per_caption must be at most the number of edit_types, "
                f"{len(self.edit_types)}, got {self.edits_per_caption}"
            )
        try:
            _ = self.endpoint
        except ValueError as error:
            raise ValueError(f"instructions.{error}") from error
        needs = [name for name in ("moderation", "batch") if getattr(self, name)]
        if needs and self.base_url is None:
            raise ValueError(f"{needs[0]} needs an endpoint that has it: give base_url")

    def located(self) -> Self:
        """The same, a language model that is served here by its folder.

        Raises:
            FileNotFoundError, ValueError: As `inference.model_names.located`.
        """
        if self.base_url is not None:
            return self
        return replace(self, model=str(located(self.model, "transformers")))

    @property
    def endpoint(self) -> EndpointConfig:
        """Whom to ask, and how."""
        return EndpointConfig.of(self)


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class FineTuneKnobs:
    """How a language model is fine-tuned.

    Attributes:
        triplets: The edits, one JSON object a line: ``caption``, ``instruction`` and
            ``edited_caption``, or ``input``, ``edit`` and ``output``, and, where there are any,
            ``inverse_instruction`` and ``edit_type``.
        output: Folder for the training file and the journal of the job.
        model: The model to start from, as the endpoint calls it.
        base_url: Root of an API with OpenAI's fine-tuning.
        key_env: The environment variable that holds the key for ``base_url``; ``auto`` sends
            ``OPENAI_API_KEY`` to OpenAI's own host and no key elsewhere; null sends no key.
        epochs: How often the edits are gone through; null leaves it to the endpoint.
        suffix: Part of the new model's name.
        seed: Of the endpoint's training.
        poll_s: How often the job is looked at, in seconds.
    """

    triplets: Path
    output: Path
    model: str
    base_url: str = OPENAI_URL
    key_env: str | None = AUTO_KEY_ENV
    epochs: PositiveSmallCount | None = 1
    suffix: str = "emend"
    seed: Seed = 0
    poll_s: Seconds = 30.0

    def __post_init__(self) -> None:
        check_key_env(self.key_env, "key_env")
        check_base_url(self.base_url, "base_url")

"""How a vision-language model is asked to judge."""

from dataclasses import dataclass, field
from typing import Any, Literal

from inference.endpoints.budget import Prices
from inference.endpoints.config import EndpointConfig
from inference.endpoints.keys import AUTO_KEY_ENV
from inference.number_types import (
    Connections,
    NonNegative,
    Positive,
    PositiveCount,
    Seconds,
    SmallCount,
    checks_numbers,
)


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class JudgeKnobs:
    """A vision-language model behind an OpenAI-compatible endpoint.

    It is shown pairs that everything else lets pass and that are about to be kept.

    Attributes:
        model: The model's name on the server.
        base_url: Root of an OpenAI-compatible API.
        key_env: The environment variable that holds the key for ``base_url``; ``auto`` sends
            ``OPENAI_API_KEY`` to OpenAI's own host and no key elsewhere; null sends no key.
        form: What the endpoint holds answers to; ``plain`` only asks for JSON. They are checked
            here in any case.
        temperature: Sampling temperature; null leaves it to the endpoint.
        max_tokens: Longest answer, in tokens.
        picture_tokens: The most tokens that the endpoint counts for one picture. What a question
            can cost is reckoned with it.
        extra: Further fields of each request. Fields that the endpoint turns out not to take are
            left out, and told.
        concurrency: Requests in flight, of each worker.
        requests_per_minute: The limit of each worker; null for none.
        tokens_per_minute: The limit of each worker, prompts and answers together; null for none.
        timeout_s: Longest wait for one answer, in seconds.
        max_retries: How often a request that failed is repeated.
        prices: What the endpoint charges.
        budget: Dollars that this data set's judgements may cost, over all workers, never exceeded;
            null for no limit.
    """

    model: str
    base_url: str
    key_env: str | None = AUTO_KEY_ENV
    form: Literal["json_schema", "json_object", "plain"] = "json_schema"
    temperature: NonNegative | None = 0.0
    max_tokens: PositiveCount = 128
    picture_tokens: PositiveCount = 6000
    extra: dict[str, Any] = field(default_factory=dict)
    concurrency: Connections = 4
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    timeout_s: Seconds = 120.0
    max_retries: SmallCount = 4
    prices: Prices = field(default_factory=Prices)
    budget: NonNegative | None = None

    def __post_init__(self) -> None:
        try:
            _ = self.endpoint
        except ValueError as error:
            raise ValueError(f"pairs.scorers.judge.{error}") from error

    @property
    def endpoint(self) -> EndpointConfig:
        """Whom to ask, and how."""
        return EndpointConfig.of(self)

    def decides(self) -> dict[str, Any]:
        """What decides its answers; the rest is where it is, patience and money."""
        names = ("model", "form", "temperature", "max_tokens", "extra")
        return {name: getattr(self, name) for name in names}

"""On what terms an endpoint is asked: where it is, what it charges, how patient one is with it."""

from typing import Literal, Protocol

from inference.endpoints.budget import Prices

ResponseFormat = Literal["plain", "json_schema", "json_object", "tagged"]
"""How an answer is written down: as plain JSON, held to a schema, held to JSON, between tags."""


OURS = frozenset(
    {"model", "messages", "response_format", "stream", "n", "seed", "max_completion_tokens"}
)
"""Fields of a request that are not the user's to choose as ``extra``."""


class EndpointConfig(Protocol):
    """What all options that lead to an endpoint have in common; `InstructionKnobs` says each."""

    @property
    def model(self) -> str:
        """A local transformers folder, or the model's name on the server at ``base_url``."""

    @property
    def base_url(self) -> str | None:
        """Root of an OpenAI-compatible API; None serves ``model`` on loopback."""

    @property
    def key_env(self) -> str | None:
        """The environment variable that holds the key for ``base_url``; None sends no key."""

    @property
    def max_tokens(self) -> int:
        """Longest answer, in tokens."""

    @property
    def concurrency(self) -> int:
        """Requests in flight."""

    @property
    def requests_per_minute(self) -> float | None:
        """The endpoint's limit; None for none."""

    @property
    def tokens_per_minute(self) -> float | None:
        """The endpoint's limit, prompts and answers together; None for none."""

    @property
    def timeout_s(self) -> float:
        """Longest wait for one answer, in seconds."""

    @property
    def max_retries(self) -> int:
        """How often a request that failed is repeated."""

    @property
    def prices(self) -> Prices:
        """What the endpoint charges."""

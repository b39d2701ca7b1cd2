"""The user's keys: they come from the environment, and stay out of all that is written or said."""

import os
from typing import Final

DEFAULT_KEY_ENV: Final = "OPENAI_API_KEY"
NO_KEY: Final = "none"
"""What is sent where there is no key; servers of one's own ask for none."""


def check_key_env(key_env: str | None, field: str) -> None:
    """Require the name of an environment variable, or None.

    Raises:
        ValueError: It is none. It may be the key itself, so the message does not repeat it.
    """
    if key_env is not None and not (key_env.isascii() and key_env.isidentifier()):
        raise ValueError(
            f"{field} must be the name of an environment variable, such as {DEFAULT_KEY_ENV}, and "
            f"not the key itself; got a text of {len(key_env)} characters that can be no name"
        )


def api_key(key_env: str | None) -> str:
    """Return the key that an environment variable holds, or `NO_KEY`.

    Args:
        key_env: The variable's name; None for no key.

    Raises:
        ValueError: The variable is not set, and it is not the one that nobody had to name.
    """
    key = os.environ.get(key_env) if key_env else None
    if key_env and not key and key_env != DEFAULT_KEY_ENV:
        raise ValueError(f"the environment variable {key_env}, named by key_env, is not set")
    return key or NO_KEY


def redacted(text: str, key: str) -> str:
    """Return a text without the key, should a server have repeated it."""
    return text if key == NO_KEY else text.replace(key, "[key]")

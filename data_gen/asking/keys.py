"""The user's key: it comes from the environment, and stays out of all that is written or said."""

import os

NO_KEY = "none"
"""What is sent where there is no key; servers of one's own ask for none."""


def api_key() -> str:
    """Return the key in OPENAI_API_KEY, or `NO_KEY`."""
    return os.environ.get("OPENAI_API_KEY") or NO_KEY


def redacted(text: str, key: str) -> str:
    """Return a text without the key, should a server have repeated it."""
    return text if key == NO_KEY else text.replace(key, "[key]")

"""The provider of language models, and options that ask it."""

from tests.endpoints import impatient, knobs_for, provider  # noqa: F401

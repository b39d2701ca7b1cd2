"""Ids that are hashes of content: the same text has the same id in every run, on every machine."""

import hashlib
import json


def content_id(*parts: str) -> str:
    """Hash text into an id: the first 16 hexadecimal digits of SHA-256 over the parts as JSON."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

"""A pool of distinct captions, drawn from in an order that depends on seed and content alone.

SQLite holds the pool, in a temporary file of its own that grows beyond 64 MB of memory only where
it must and is gone when the process ends, killed or not.
"""

import hashlib
import sqlite3
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from data_gen.captions.filters import folded

_BATCH = 1000
_CACHE_KIB = 64 * 1024
_ADD = """
INSERT INTO captions VALUES (?, ?, 1)
ON CONFLICT (rank) DO UPDATE SET text = max(text, excluded.text), copies = copies + 1
"""


class CaptionPool:
    """Collect captions and give back the distinct ones, by their rank.

    A rank is a keyed hash of the caption's folded text, so the first n of the order are a uniform
    sample without replacement, and the same one whatever order or file the captions came in. Of
    several spellings the last in Unicode's order stands for all: small letters before capitals.

    Args:
        seed: Key of the hash.
    """

    def __init__(self, seed: int) -> None:
        self._key = str(seed).encode()
        self._waiting: list[tuple[bytes, str]] = []
        self._database = sqlite3.connect("", isolation_level=None)  # a temporary file
        self._database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._database.execute("PRAGMA journal_mode = OFF")  # what is torn is gone anyway
        self._database.execute(
            "CREATE TABLE captions (rank BLOB PRIMARY KEY, text TEXT, copies INTEGER) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def add(self, text: str) -> None:
        """Add a caption, which may be there already.

        Raises:
            OSError: The temporary file cannot grow.
        """
        key = hashlib.blake2b(folded(text).encode(), key=self._key, digest_size=16)
        self._waiting.append((key.digest(), text))
        if len(self._waiting) == _BATCH:
            self._flush()

    def __len__(self) -> int:
        """The number of distinct captions."""
        self._flush()
        (number,) = self._database.execute("SELECT count(*) FROM captions").fetchone()
        return int(number)

    def __iter__(self) -> Iterator[str]:
        """The distinct captions, by their rank."""
        self._flush()
        rows = self._database.execute("SELECT text FROM captions ORDER BY rank")
        return (text for (text,) in rows)

    def repeated(self) -> Iterator[tuple[str, int]]:
        """The captions that were added more than once, by their rank, and how often beyond once."""
        self._flush()
        yield from self._database.execute(
            "SELECT text, copies - 1 FROM captions WHERE copies > 1 ORDER BY rank"
        )

    def _flush(self) -> None:
        try:
            self._database.executemany(_ADD, self._waiting)
        except sqlite3.OperationalError as error:
            raise OSError(f"captions do not fit into the temporary folder: {error}") from error
        self._waiting.clear()

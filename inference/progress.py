"""The progress bar of all commands: it moves on a terminal, and takes a line a tenth in a file.

tqdm redraws its bar with a carriage return. A file keeps every drawing, so that the log of a long
run holds hundreds of bars on one line.
"""

from typing import Any, Final

from tqdm import tqdm

LINES: Final = 10
"""Lines that a bar takes in a file, beside the one it begins with."""


class ProgressBar(tqdm):  # type: ignore[type-arg]
    """tqdm's bar; where its stream is no terminal, a line whenever a tenth more is done.

    Of what has no total, only the beginning and the end are written there.
    """

    _written: tuple[int, float] | None = None
    """Tenths and count of the last line."""

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Draw the bar, or `msg` in its place, where that is due; see tqdm."""
        if self._moves():
            return super().display(msg, pos)
        tenths = int(LINES * self.n // self.total) if self.total else 0
        if msg is None and (self._written is None or tenths != self._written[0]):
            self._write(tenths)
        return False

    def close(self) -> None:
        """Draw the bar as it ended; see tqdm."""
        if not self.disable and not self._moves():
            self.leave = False  # tqdm would end the line once more
            was_shown = self.last_print_t >= self.start_t + (self.delay or 0)
            if was_shown and (self._written is None or self.n != self._written[1]):
                self._write(LINES)
        super().close()

    def clear(self, nolock: bool = False) -> None:
        """Make room for a line that is written between; see tqdm."""
        if self._moves():
            super().clear(nolock)

    def _moves(self) -> bool:
        return bool(getattr(self.fp, "isatty", bool)())

    def _write(self, tenths: int) -> None:
        self._written = tenths, self.n
        self.fp.write(f"{self}\n")
        self.fp.flush()

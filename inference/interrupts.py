"""End a program on Ctrl-C with a word while its libraries are being imported, which takes seconds.

From then on `command_line.run` does it. Nothing is imported here that takes long.
"""

import os
import sys
from types import TracebackType

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def end_quietly() -> None:
    """Show no traceback of Ctrl-C in a program that is started by ``python -m``.

    Who imports the package as a library keeps his own hook.
    """
    if sys.argv[:1] == ["-m"]:  # so it is while Python imports the packages that hold the program
        sys.excepthook = _tell


def _tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    sys.stderr.write("interrupted\n")
    sys.stderr.flush()
    os._exit(INTERRUPTED)  # else Python would end as killed by the signal

"""What the processes that read do on a signal: nothing, unless their own parent sent it.

Ctrl-C reaches all processes of a terminal, SLURM signals those of a step and torchrun those of a
group, to let a run save and end. A worker of torch's would end at once, and the run with it, in the
middle of a step.
"""

import os
import signal
import threading


def end_for_parent_alone(worker: int) -> None:
    """Leave Ctrl-C to the parent, and heed SIGTERM only from it; a `worker_init_fn`.

    A worker whose parent is gone still ends, as torch looks after that by itself. To ignore the
    signal altogether would not do: a parent that fails ends its workers by it, and waits for them.
    Where a signal's sender cannot be told (macOS), torch's own handler stays.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, args=(os.getppid(),), daemon=True).start()


def _end_when_told(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)

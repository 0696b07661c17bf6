"""No orphans: a child process that the kernel ends when whoever started it dies without having stopped it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(number: signal.Signals) -> Callable[[], None]:
    """A child's ``preexec_fn``: the kernel sends it `number` when the thread that started it ends.

    Linux only; elsewhere it does nothing.
    """
    libc = ctypes.CDLL(None)  # loaded here: between fork and exec a child must do little
    parent = os.getpid()

    def prepare() -> None:
        if sys.platform != "linux":
            return
        libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)

    return prepare

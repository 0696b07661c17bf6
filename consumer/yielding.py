"""Handing over the core between two pieces of work, so that answers need not wait for the scheduler's next tick."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

MAX_SHARE = 0.25  # of the time, which others may take: one that never sleeps keeps the core for a tick each time
MAX_CREDIT_S = 0.02


class Yielder:
    """Lets whoever waits for this core run first; to be called every millisecond or so.

    Linux takes the core from a process that never sleeps only at a tick, which is every 1 to 10 ms, and an answer takes
    a third of a millisecond. A call costs less than a microsecond where nobody waits.

    Args:
        hand_over: returns when it is this process's turn again.
    """

    def __init__(self, hand_over: Callable[[], None] = os.sched_yield) -> None:
        self._hand_over = hand_over
        self._credit_s = MAX_CREDIT_S
        self._looked_at = time.perf_counter()

    def __call__(self) -> None:
        begin = time.perf_counter()
        self._credit_s = min(self._credit_s + MAX_SHARE * (begin - self._looked_at), MAX_CREDIT_S)
        if self._credit_s > 0:
            self._hand_over()
        self._looked_at = time.perf_counter()
        self._credit_s -= self._looked_at - begin

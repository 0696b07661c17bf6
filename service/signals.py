"""Ctrl-C and its like, as an event that those who work look at, to end in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_signals(*more: signal.Signals, insist: bool = True) -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM and `more` set.

    Args:
        insist: the second signal ends the command at once, as nobody may look at the event.
    """
    stop = threading.Event()

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        if insist and stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    former = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM, *more)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)

"""Sends a stream at a rate, and tells how it went."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic

from flexihash.producer.producer_errors import RateError

TICK_S = 0.01  # the shortest sleep: at high rates what falls due meanwhile is sent in one go, without a sleep each
PROGRESS_S = 0.1  # between two calls of `on_progress`: often enough for a bar that moves


@dataclass(frozen=True)
class Replayed:
    """What a replay did: `n_events` sent in `seconds`."""

    n_events: int
    seconds: float

    @property
    def events_per_second(self) -> float:
        """The rate that came out; 0.0 for an empty replay."""
        return self.n_events / self.seconds if self.n_events else 0.0


def replay(
    events: Iterable[bytes],
    send: Callable[[bytes], object],
    rate: float | None = None,
    *,
    stop: threading.Event | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Replayed:
    """Send each event, event n no earlier than n / rate seconds after the start.

    The schedule counts from the start, so sleeps that last too long don't add up: after a pause in `send` the events
    that fell due are sent at once, and the rate holds over the whole.

    Args:
        events: encoded events.
        send: takes one event; may block, and what it raises ends the replay.
        rate: events per second; None sends as fast as `send` takes them.
        stop: once set, nothing more is sent. It cuts a sleep short, but not a wait for the next of `events`.
        on_progress: told how many events are sent, every PROGRESS_S at most, and at the end.

    Raises:
        RateError: the rate is not above zero.
    """
    if rate is not None and not rate > 0:
        raise RateError(f"rate is {rate}: give a number of events per second above 0, or none for as fast as possible")
    stop = stop or threading.Event()
    n_events = 0
    start = reported = monotonic()
    for event in events:
        now = monotonic()
        if on_progress and now - reported >= PROGRESS_S:
            on_progress(n_events)
            reported = now
        if rate is not None and (early := start + n_events / rate - now) > 0:
            stop.wait(max(early, TICK_S))
        if stop.is_set():
            break
        send(event)
        n_events += 1
    if on_progress:
        on_progress(n_events)
    return Replayed(n_events, monotonic() - start)

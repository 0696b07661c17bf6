"""What a peer is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from flexihash.model.tasks import Task

Predict = Callable[[], Sequence[float]]
Prepare = Callable[[Task, Sequence[bytes]], Predict]

EVERY = (Task.BINARY, Task.REGRESSION)
SEED = 1

parse = msgspec.json.Decoder().decode


@dataclass(frozen=True)
class Peer:
    """A learner to compare with.

    Args:
        library: whose it is.
        name: which configuration.
        prepare: given the events, gives what is timed.
        n_flights, n_stream: how many events of the flights, and of another stream, it is given at most: as many as it
            takes some seconds for; None for all.
        n_turns: how often it is timed on the flights.
        tasks: that it can learn.
        is_quality: whether its predictions differ from those of the peers before it; if not, it is run for its speed.
        first_portion: the share of the events that it must have seen before it predicts any: they are not scored.
    """

    library: str
    name: str
    prepare: Prepare
    n_flights: int | None = None
    n_stream: int | None = None
    n_turns: int = 1
    tasks: tuple[Task, ...] = EVERY
    is_quality: bool = True
    first_portion: float = 0.0

    @property
    def case(self) -> str:
        return f"{self.library} {self.name}"

    def scored(self, n_given: int) -> slice:
        """Which of the events that it was given are scored."""
        return slice(int(n_given * self.first_portion), n_given)

    def portion(self, n_given: int, n_all: int) -> str:
        """The same in words."""
        if self.first_portion:
            return f"from {self.first_portion:.0%} on"
        return "all" if n_given == n_all else f"first {n_given:,}"

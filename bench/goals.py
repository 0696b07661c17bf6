"""What the product promises of its speed and quality, each beside what a run measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.results import Row, describe, learners

Bound = Literal["at least", "at most", "below"]
Find = Callable[[Sequence[Row]], float | None]


@dataclass(frozen=True)
class Goal:
    """One promise; `find` gives its figure in a run, None where the run has none."""

    what: str
    find: Find
    bound: Bound
    limit: float
    unit: str

    def cells(self, rows: Sequence[Row]) -> tuple[str, str, str, str]:
        """As a line of the table that HEADS heads."""
        found = self.find(rows)
        promised = f"{self.bound} {describe(self.limit)} {self.unit}"
        if found is None:
            return self.what, promised, "not measured", ""
        return self.what, promised, f"{describe(found)} {self.unit}", "yes" if self._is_met(found) else "NO"

    def _is_met(self, found: float) -> bool:
        if self.bound == "at least":
            return found >= self.limit
        return found < self.limit if self.bound == "below" else found <= self.limit


HEADS = ("goal", "promised", "measured", "met")


def value_of(*name: str) -> Find:
    """The figure of a section, a case and a measure."""
    return lambda rows: row.value if (row := _find_row(rows, name)) else None


def ratio_of(*name: str) -> Find:
    """Its ratio to what it was measured beside."""
    return lambda rows: row.ratio if (row := _find_row(rows, name)) else None


def _find_row(rows: Sequence[Row], name: tuple[str, ...]) -> Row | None:
    return next((row for row in rows if (row.section, row.case, row.measure) == name), None)


def slowest_lead(rows: Sequence[Row]) -> float | None:
    """Our speed by that of the fastest of VW's configurations that take our JSON through its Python API."""
    ratios = [
        found["speed"].ratio
        for case, found in learners(rows).items()
        if case.startswith("VW ") and "JSON parser" not in case and found["speed"].ratio is not None
    ]
    return min(ratios, default=None)


def narrowest_loss(rows: Sequence[Row]) -> float | None:
    """Our log loss by that of VW's or River's configuration that comes closest, on the events that it was given."""
    ratios = [
        found["log loss of ours"].value / found["log loss"].value
        for case, found in learners(rows).items()
        if case.startswith(("VW ", "River ")) and "log loss of ours" in found
    ]
    return max(ratios, default=None)


GOALS = (
    Goal(
        "flights learned from JSON bytes, on one core",
        value_of("learning", "flexihash", "speed"),
        "at least",
        1e6,
        "events/s",
    ),
    Goal("speed, to the fastest VW through its Python API", slowest_lead, "at least", 2.0, "x"),
    Goal("log loss on flights, to the best of VW and River", narrowest_loss, "below", 1.0, "x"),
    Goal(
        "flights learned from JSON bytes with embeddings, on one core",
        value_of("embeddings", "flights from JSON bytes, embeddings on", "speed"),
        "at least",
        0.7e6,
        "events/s",
    ),
    Goal(
        "kilometres to the five destinations with the nearest embeddings",
        value_of("embeddings", "flights, dest (88), flexihash", "mean distance of the nearest 5"),
        "at most",
        930.0,
        "km",
    ),
    Goal(
        "from Kafka to the table, to the bare client, kafka-python",
        ratio_of("kafka", "learner, kafka-python", "rate"),
        "at least",
        0.5,
        "x",
    ),
    Goal(
        "from Kafka to the table, to the bare client, confluent",
        ratio_of("kafka", "learner, confluent", "rate"),
        "at least",
        0.5,
        "x",
    ),
    Goal(
        "p99 of a prediction under ingest, to idle",
        ratio_of("http", "1 worker, under ingest, 1 a request", "p99"),
        "at most",
        1.2,
        "x",
    ),
    Goal(
        "pause of learning for a checkpoint of 1 GiB",
        value_of("checkpoint", "table of 1 GiB, of changes", "pause"),
        "at most",
        10.0,
        "ms",
    ),
    Goal(
        "from SIGKILL to learning again, 1 GiB",
        value_of("checkpoint", "table of 1 GiB", "recovery from SIGKILL"),
        "at most",
        5.0,
        "s",
    ),
    Goal(
        "first prediction after a start with compiled kernels, as the image has",
        value_of("start", "kernels cached", "first prediction"),
        "below",
        10.0,
        "s",
    ),
)

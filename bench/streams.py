"""The public streams that the model's quality is measured on, as events in the product's own wire shape.

    python -m bench.streams agrawal --out agrawal.ndjson

writes one stream as NDJSON. The synthetic streams have fixed parameters and seeds, so every run sees the same events.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from river import datasets
from river.datasets import synth

from flexihash.model.tasks import Task
from flexihash.producer.flights import flights
from flexihash.producer.ndjson import write

Event = Mapping[str, Any]
"""One event of the wire format: `{"features": {name: number or string}, "label": number}`."""

N_SYNTHETIC = 50_000  # events taken from a generator that has no end


@dataclass(frozen=True)
class Stream:
    """A named stream.

    Args:
        name: as the commands take it and the tables print it.
        task: what its label is: `Task.BINARY` or `Task.REGRESSION`.
        events: starts it anew; every call gives the same events in the same order.
    """

    name: str
    task: Task
    events: Callable[[], Iterator[Event]]


def wire_events(examples: Iterable[tuple[dict[Any, Any], Any]], task: Task) -> Iterator[Event]:
    """River's (features, label) pairs as events.

    Names become strings, values that are neither numbers nor strings become strings. A binary label becomes 0 or 1,
    any other a float.
    """
    for x, y in examples:
        features = {
            str(name): value if isinstance(value, int | float | str) else str(value) for name, value in x.items()
        }
        yield {"features": features, "label": int(y) if task is Task.BINARY else float(y)}


def river_stream(
    name: str, task: Task, examples: Callable[[], Iterable[tuple[dict[Any, Any], Any]]], n_events: int | None = None
) -> Stream:
    """A stream out of one of River's datasets, cut after `n_events` where it would go on for ever."""
    return Stream(name, task, lambda: wire_events(islice(examples(), n_events), task))


def drifting_hyperplane() -> Iterable[tuple[dict[Any, Any], Any]]:
    """Ten features, four of which change their weight all the time; one label in twenty is flipped."""
    return synth.Hyperplane(seed=1, n_features=10, n_drift_features=4, mag_change=0.001, noise_percentage=0.05)


def drifting_friedman() -> Iterable[tuple[dict[Any, Any], Any]]:
    """Friedman's function, whose terms swap features gradually, at two points of the stream."""
    return synth.FriedmanDrift(drift_type="gra", position=(20_000, 35_000), seed=1)


STREAMS: dict[str, Stream] = {
    stream.name: stream
    for stream in (
        Stream("flights", Task.BINARY, flights),
        river_stream("phishing", Task.BINARY, datasets.Phishing),
        river_stream("bananas", Task.BINARY, datasets.Bananas),
        river_stream("agrawal", Task.BINARY, lambda: synth.Agrawal(classification_function=3, seed=1), N_SYNTHETIC),
        river_stream("hyperplane", Task.BINARY, drifting_hyperplane, N_SYNTHETIC),
        river_stream("trump-approval", Task.REGRESSION, datasets.TrumpApproval),
        river_stream("chick-weights", Task.REGRESSION, datasets.ChickWeights),
        river_stream("friedman", Task.REGRESSION, lambda: synth.Friedman(seed=1), N_SYNTHETIC),
        river_stream("friedman-drift", Task.REGRESSION, drifting_friedman, N_SYNTHETIC),
    )
}
"""Every stream by its name, in the order of the printed tables."""


def write_events(events: Iterable[Event], path: Path) -> None:
    """Write events as NDJSON, one a line."""
    write(map(msgspec.json.encode, events), path)


def main() -> None:
    """Write the stream that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench.streams", description="Write a public stream as NDJSON.")
    parser.add_argument("name", choices=list(STREAMS))
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    arguments = parser.parse_args()
    stream = STREAMS[arguments.name]
    write_events(stream.events(), arguments.out)
    print(f"{stream.name} is in {arguments.out}; learn it with --task {stream.task}")


if __name__ == "__main__":
    main()

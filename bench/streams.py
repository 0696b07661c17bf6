"""The public streams that the model's quality is measured on, as events in the product's own wire shape.

    python -m bench.streams agrawal --out agrawal.ndjson

writes one stream as NDJSON. The synthetic streams have fixed parameters and seeds, so every run sees the same events.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from river import datasets
from river.datasets import synth
from sklearn.datasets import load_digits

from flexihash.model.tasks import Task
from flexihash.producer.flights import flights
from flexihash.producer.ndjson import write

Event = Mapping[str, Any]
"""One event of the wire format: `{"features": {name: number or string}, "label": number}`."""

LABEL_TYPES: dict[Task, Callable[[Any], Any]] = {Task.BINARY: int, Task.MULTICLASS: str, Task.MULTILABEL: dict}
N_CLASSES_SYNTHETIC = 20_000  # of the streams of many classes, on which every head is scored
WHEN = ("month", "dow", "hour")
N_CARRIERS, N_DESTINATIONS = 100_000, 20_000  # flights
N_SYNTHETIC = 50_000  # events taken from a generator that has no end


@dataclass(frozen=True)
class Stream:
    """A named stream.

    Args:
        name: as the commands take it and the tables print it.
        task: what its label is.
        events: starts it anew; every call gives the same events in the same order.
    """

    name: str
    task: Task
    events: Callable[[], Iterator[Event]]


def wire_events(examples: Iterable[tuple[dict[Any, Any], Any]], task: Task) -> Iterator[Event]:
    """River's (features, label) pairs as events.

    Names become strings, values that are neither numbers nor strings become strings. A binary label becomes 0 or 1, a
    class a string, what is several labels stays as it is, any other becomes a float.
    """
    for x, y in examples:
        features = {
            str(name): value if isinstance(value, int | float | str) else str(value) for name, value in x.items()
        }
        yield {"features": features, "label": LABEL_TYPES.get(task, float)(y)}


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


def irrelevant_led() -> Iterable[tuple[dict[Any, Any], Any]]:
    """Ten digits by seven lamps, five of which change places; beside 17 features that mean nothing."""
    return synth.LEDDrift(seed=1, noise_percentage=0.1, irrelevant_features=True, n_drift_features=5)


def drifting_rbf() -> Iterable[tuple[dict[Any, Any], Any]]:
    """Five classes around fifty centres, half of which move."""
    return synth.RandomRBFDrift(**CENTROIDS, change_speed=0.0001, n_drift_centroids=25)


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


def digits() -> Iterator[tuple[dict[Any, Any], Any]]:
    """scikit-learn's 1,797 handwritten digits, shuffled: 64 numbers."""
    images, labels = load_digits(return_X_y=True)
    for place in np.random.default_rng(1).permutation(len(images)):
        yield {f"p{j}": float(value) for j, value in enumerate(images[place])}, labels[place]


def flights_of(label: str, names: Sequence[str], n_events: int) -> Callable[[], Iterator[Event]]:
    """Flights of which one feature is to be told from some others."""

    def events() -> Iterator[Event]:
        for event in flights(n_events):
            features = event["features"]
            yield {"features": {name: features[name] for name in names}, "label": features[label]}

    return events


CENTROIDS = {"seed_model": 1, "seed_sample": 1, "n_classes": 5, "n_features": 10, "n_centroids": 50}
CLASS_STREAMS: dict[str, Stream] = {
    stream.name: stream
    for stream in (
        river_stream("image-segments", Task.MULTICLASS, datasets.ImageSegments),
        Stream("digits", Task.MULTICLASS, lambda: wire_events(digits(), Task.MULTICLASS)),
        river_stream("led", Task.MULTICLASS, lambda: synth.LED(seed=1, noise_percentage=0.1), N_CLASSES_SYNTHETIC),
        river_stream("led-drift", Task.MULTICLASS, irrelevant_led, N_CLASSES_SYNTHETIC),
        river_stream("random-rbf", Task.MULTICLASS, lambda: synth.RandomRBF(**CENTROIDS), N_CLASSES_SYNTHETIC),
        river_stream("random-rbf-drift", Task.MULTICLASS, drifting_rbf, N_CLASSES_SYNTHETIC),
        river_stream("waveform", Task.MULTICLASS, lambda: synth.Waveform(seed=1), N_CLASSES_SYNTHETIC),
        Stream("carrier", Task.MULTICLASS, flights_of("carrier", ("origin", "dest", *WHEN, "distance"), N_CARRIERS)),
        Stream("destination", Task.MULTICLASS, flights_of("dest", ("carrier", "origin", *WHEN), N_DESTINATIONS)),
        river_stream("yeast", Task.MULTILABEL, datasets.Yeast),
    )
}
"""Those of many classes, and of labels."""


def write_events(events: Iterable[Event], path: Path) -> None:
    """Write events as NDJSON, one a line."""
    write(map(msgspec.json.encode, events), path)


def main() -> None:
    """Write the stream that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench.streams", description="Write a public stream as NDJSON.")
    parser.add_argument("name", choices=list(STREAMS | CLASS_STREAMS))
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    arguments = parser.parse_args()
    stream = (STREAMS | CLASS_STREAMS)[arguments.name]
    write_events(stream.events(), arguments.out)
    print(f"{stream.name} is in {arguments.out}; learn it with --task {stream.task}")


if __name__ == "__main__":
    main()

"""Learning leaves the same bits as ever: the digests were made with release 0.1.0.

They hold for one kind of processor, since exp() and log() may differ in their last bit on another. Whoever changes what
is learned, and means to, makes new ones.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.wire import EventFormat
from flexihash.model.config import ModelConfig
from flexihash.model.online import OnlineModel
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task
from flexihash.producer.events import encode
from flexihash.producer.flights import flights
from flexihash.producer.synthetic import synthetic

N_SYNTHETIC = 20_000
POLL_EVENTS = 1_000

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the digests are of x86-64")


def counts() -> Iterator[bytes]:
    for event in synthetic(N_SYNTHETIC, task="binary"):
        yield json.dumps({"features": event["features"], "label": int(event["features"]["price"]) // 10}).encode()


def learn(task: Task, events: Iterator[bytes]) -> OnlineModel:
    """As the learner does, poll by poll."""
    model = OnlineModel(Tables.create(ModelConfig(task=task)))
    decoder = EventDecoder(EventFormat(), task, model.config.n_rows)
    position = 0
    while records := list(islice(events, POLL_EVENTS)):
        decoded = decoder.decode(records)
        next_offsets = np.arange(position, position + len(records))[decoded.kept] + 1
        model.learn(decoded.batch, decoded.labels, decoded.weights, 0, next_offsets)
        position += len(records)
        model.advance(0, position)
    return model


def digest(model: OnlineModel) -> str:
    bits = hashlib.sha256()
    for name in sorted(model.tables.tensors.keys() - {"digests"}):  # of records, which there are none here
        bits.update(name.encode() + model.tables.tensors[name].numpy().tobytes())
    return bits.hexdigest()


def test_flights() -> None:
    model = learn(Task.BINARY, encode(flights()))
    assert model.n_events == 327_346
    assert digest(model) == "ed139f42cc78b092c53192039e6d13ccf3c46936f23fe5d974bd0850cee7db7c"


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (Task.BINARY, "1bbd9b3d4cfcc56131f81dff53eb855b60586dd4e02233c11b3de3ca84e87c92"),
        (Task.REGRESSION, "dd31bc0e2aa095d5d55af8d5e4a03a1b283358b6b36c44a252b52d932743b3bc"),
        (Task.QUANTILE, "c9ee2879477e7994f83959fcc9e373cbe0af160a3b499203fbca3c3dcd8cbf38"),
    ],
)
def test_synthetic(task: Task, expected: str) -> None:
    labels = "binary" if task is Task.BINARY else "regression"
    assert digest(learn(task, encode(synthetic(N_SYNTHETIC, task=labels)))) == expected


def test_counts() -> None:
    assert digest(learn(Task.COUNTS, counts())) == "efe92170af4fcf4cfdf164511b95bccc8de0e002e5b9af0e3c6600470b50bb9d"

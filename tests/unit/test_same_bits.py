"""Learning leaves the same bits as ever: the digests were made with the four experts of 2026-11-29.

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
    assert digest(model) == "a52e2d78002f26c5d130e799f7345cbd7432950255f5381d928c5a69f90c70f9"


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (Task.BINARY, "f2dbefc7bedce2efb81402443644c158a815c67c105e8854b80f16cec6df34e8"),
        (Task.REGRESSION, "5277f9b380995251041ebd67aeda58a24bb9a5f953ca17405fcbab20de8e4785"),
        (Task.QUANTILE, "b18f7c9450f417e45f3caac867cc4487aef900d064ec0f6d3bf34c4b155a50ab"),
    ],
)
def test_synthetic(task: Task, expected: str) -> None:
    labels = "binary" if task is Task.BINARY else "regression"
    assert digest(learn(task, encode(synthetic(N_SYNTHETIC, task=labels)))) == expected


def test_counts() -> None:
    assert digest(learn(Task.COUNTS, counts())) == "b5ffba8faaabe4a9d27a4890b2843b49d02bc28ef635422d2a647bc327fd59bf"

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
    assert digest(model) == "8eda35f4e035ff4f76bbf09c89135bb1aab232d44e4e78696ccf8200b93feeb7"


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (Task.BINARY, "805c81eda4b68945509878742cb5b2a6c6789beaebc25f0cbe712014867356f6"),
        (Task.REGRESSION, "20164c1bb8a9ad2b4f981d3d6e8f48358826b07d0e8e728d054fea32da345014"),
        (Task.QUANTILE, "97dcfa64b670108c48362203e09054a246735a691979a30465a8f3bdd62c5cd4"),
    ],
)
def test_synthetic(task: Task, expected: str) -> None:
    labels = "binary" if task is Task.BINARY else "regression"
    assert digest(learn(task, encode(synthetic(N_SYNTHETIC, task=labels)))) == expected


def test_counts() -> None:
    assert digest(learn(Task.COUNTS, counts())) == "e5df3212df4e65237d5a86e475260a0ebd2d5cd4c1c4c9b2f7d872a0c9d69c85"

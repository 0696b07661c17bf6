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
    assert digest(model) == "eb307b8db3ac725c2d1abd0d55e11a574afc5b598eefb1a1ddce6ae08cfee9b2"


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (Task.BINARY, "304059c49b210e8efc0e8f7b19cdc6d081a43c5ab0228a2de082eb1c6bd5a66d"),
        (Task.REGRESSION, "448195db64679fa900bef50b98be8187698664b41fd50c8b8713bc48a2a09a91"),
        (Task.QUANTILE, "ca887e0d1f14f9b570891cdd92c9ca1014c13d2c8fd1626ae511c9557f727247"),
    ],
)
def test_synthetic(task: Task, expected: str) -> None:
    labels = "binary" if task is Task.BINARY else "regression"
    assert digest(learn(task, encode(synthetic(N_SYNTHETIC, task=labels)))) == expected


def test_counts() -> None:
    assert digest(learn(Task.COUNTS, counts())) == "c9011dea6e5fb85557ee9da7bab8bbce2fa3897784403fb54dcbd2e49cb42d30"

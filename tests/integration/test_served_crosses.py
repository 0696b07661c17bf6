"""Crosses by `flexihash serve`: from the setting, through a real broker, to answers, checkpoints and their refusal."""

from __future__ import annotations

from itertools import islice

import msgspec
import numpy as np

from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.publisher import Publisher
from flexihash.consumer.wire import EventFormat
from flexihash.model.config import ModelConfig
from flexihash.model.features import FeatureRules
from flexihash.model.online import OnlineModel
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task
from flexihash.producer.flights import flights
from tests.integration.served import N_ROWS, READY_S, Launch, assert_exact

CROSSES = ("carrier*origin", "plane.* * distance")
NESTED = b'{"features": {"plane": {"age": 7, "kind": "jet"}, "distance": 900.5, "origin": "JFK"}, "label": 1}'


def learn_here(events: list[bytes], crosses: tuple[str, ...]) -> OnlineModel:
    model = OnlineModel(Tables.create(ModelConfig(n_rows=N_ROWS, crosses=crosses)))
    decoded = EventDecoder(EventFormat(rules=FeatureRules(crosses=crosses)), Task.BINARY, N_ROWS).decode(events)
    model.learn(decoded.batch, decoded.labels, decoded.weights)
    return model


def predict_here(model: OnlineModel, instances: list[bytes]) -> list[float]:
    crosses = model.config.crosses
    decoder = EventDecoder(EventFormat(rules=FeatureRules(crosses=crosses)), Task.BINARY, N_ROWS)
    values: list[float] = model.predict(decoder.decode_instances(instances, N_ROWS).batch).values.tolist()
    return values


def test_crosses_are_learned_and_asked_by_the_service(broker: KafkaConnection, topic: str, launch: Launch) -> None:
    events = [*map(msgspec.json.encode, islice(flights(), 1500)), NESTED] * 2
    with Publisher(Topic(broker, topic)) as publisher:
        publisher.publish(events, timeout_s=60)
    service = launch(broker, topic, FLEXIHASH_CROSSES=",".join(CROSSES)).start().wait_ready()
    service.wait_position(len(events))

    instances = [msgspec.json.decode(event)["features"] for event in (*events[:4], NESTED)]
    crossed, plain = (
        predict_here(learn_here(events, crosses), [*map(msgspec.json.encode, instances)]) for crosses in (CROSSES, ())
    )
    together = service.post("/v1/predictions", {"instances": instances})["predictions"]
    alone = [service.post("/v1/predictions", {"instances": [one]})["predictions"][0] for one in instances]
    assert [one["value"] for one in together] == [one["value"] for one in alone] == crossed
    assert np.abs(np.subtract(crossed, plain)).min() > 0
    assert service.http.get("/v1/model").json()["configuration"]["crosses"] == list(CROSSES)

    service.post("/v1/checkpoints", None)
    assert service.stop() == 0, service.log
    (checkpoint, *_) = sorted((service.folder / "checkpoints").glob("*/manifest.json"), reverse=True)
    assert_exact(checkpoint.parent, broker, len(events))

    service.environment["FLEXIHASH_CROSSES"] = "carrier*origin"
    assert service.start().process.wait(READY_S) == 2  # type: ignore[union-attr]
    assert "crosses = ['carrier*origin', 'plane.* * distance'], but ['carrier*origin'] is asked for" in service.log

"""A topic of Debezium envelopes, through a real broker, to answers, counts, checkpoints and their refusal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec
from kafka import KafkaProducer

from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.source import read_topic
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.wire import EventFormat
from flexihash.model.config import ModelConfig
from flexihash.model.online import OnlineModel
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task
from flexihash.producer.flights import flights
from tests.integration.served import N_ROWS, READY_S, Launch, assert_exact

N_FLIGHTS = 600
HEADER = b"\0\0\0\0\x07"
SETTINGS = {
    "FLEXIHASH_ENVELOPE": "debezium",
    "FLEXIHASH_FEATURES_FIELD": "",
    "FLEXIHASH_LABEL_FIELD": "status",
    "FLEXIHASH_POSITIVE_LABELS": "late,very late",
}


def rows() -> Iterator[dict[str, Any]]:
    """Flights as rows of a table: the label is a string, and the rest lies beside it."""
    for flight in islice(flights(), N_FLIGHTS):
        yield {"id": flight["id"], **flight["features"], "status": "late" if flight["label"] else "on time"}


def wrap(row: dict[str, Any], n: int) -> bytes:
    """The change that inserts a row; with a schema, and with a header, every other time."""
    source = {"connector": "postgresql", "ts_ms": 1700000000000 + n, "sequence": f'["{n}","{n}"]', "xmin": None}
    change = {"before": None, "after": row, "source": source, "op": "c", "ts_ms": 1700000000000 + n}
    schema = {"type": "struct", "fields": [{"type": "string", "optional": True, "field": name} for name in row]}
    message = {"schema": schema, "payload": change} if n % 2 else change
    return (HEADER if n % 4 > 1 else b"") + msgspec.json.encode(message)


def publish(connection: KafkaConnection, topic: str) -> int:
    """Inserts all rows and deletes some again; returns how many records that is."""
    producer = KafkaProducer(**connection.client_settings())
    n_records = 0
    for n, row in enumerate(rows()):
        values = [wrap(row, n)]
        if n % 10 == 0:
            deletion = {"before": row, "after": None, "op": "d"}
            values += [msgspec.json.encode(deletion), None]  # type: ignore[list-item]
        for value in values:
            producer.send(topic, value, key=row["id"].encode())
        n_records += len(values)
    producer.send(topic, msgspec.json.encode({"flight": 1}))
    producer.flush()
    producer.close()
    return n_records + 1


def predict_here(instances: list[dict[str, Any]]) -> list[float]:
    """What a model says that was given the rows as plain events."""
    model = OnlineModel(Tables.create(ModelConfig(n_rows=N_ROWS)))
    format = EventFormat(features_field="", label_field="late")
    decoder = EventDecoder(format, Task.BINARY, N_ROWS)
    events = [{**row, "late": int(row["status"] == "late")} for row in rows()]
    decoded = decoder.decode([msgspec.json.encode({**event, "status": None}) for event in events])
    model.learn(decoded.batch, decoded.labels, decoded.weights)
    values: list[float] = model.predict(
        decoder.decode_instances([*map(msgspec.json.encode, instances)], N_ROWS).batch
    ).values.tolist()
    return values


def test_rows_of_a_table_are_learned_and_asked(tansu: KafkaConnection, topic_name: str, launch: Launch) -> None:
    service = launch(tansu, topic_name, FLEXIHASH_CREATE_TOPIC="true", **SETTINGS).start().wait_ready()
    n_records = publish(tansu, topic_name)
    service.wait_position(n_records)

    instances = [
        {name: value for name, value in row.items() if name not in ("id", "status")} for row in islice(rows(), 5)
    ]
    answer = service.post("/v1/predictions", {"instances": instances})
    assert [one["value"] for one in answer["predictions"]] == predict_here(instances)
    assert answer["version"]["events"] == N_FLIGHTS
    model = service.http.get("/v1/model").json()
    assert model["learner"]["rejected"] == {"deleted": 2 * N_FLIGHTS // 10, "no_envelope": 1}
    assert model["learner"]["recent"]["untaught"] == {"no_envelope": 1}
    assert model["configuration"]["envelope"] == "debezium"
    metrics = service.http.get("/metrics").text
    assert f'flexihash_rejected_events{{reason="deleted"}} {2.0 * N_FLIGHTS / 10}' in metrics

    change = msgspec.json.decode(wrap(next(rows()), 0))
    assert service.post("/v1/events", change)["events"] == 1
    gone = service.http.post("/v1/events", json={**change, "after": None})
    assert (gone.status_code, gone.json()["reason"]) == (422, "deleted")
    bare = service.http.post("/v1/events", json=change["after"])
    assert (bare.status_code, bare.json()["reason"]) == (422, "no_envelope")
    whole = service.http.post("/v1/predictions", json={"instances": [change]})
    assert (whole.status_code, whole.json()["reason"]) == (422, "whole_event")
    event = service.http.get("/openapi.json").json()["components"]["schemas"]["Event"]["properties"]
    assert (
        set(event["after"]["properties"])
        == {"status", "weight"}
        == set(event["payload"]["properties"]["after"]["properties"])
    )

    service.wait_position(n_records + 1)
    service.post("/v1/checkpoints", None)
    assert service.stop() == 0, service.log
    (checkpoint, *_) = sorted((service.folder / "checkpoints").glob("*/manifest.json"), reverse=True)
    assert_exact(checkpoint.parent, tansu, N_FLIGHTS + 1)

    (letter,) = read_topic(Topic(tansu, f"{topic_name}.dlq"))
    assert letter.value == b'{"flight":1}'

    service.environment["FLEXIHASH_POSITIVE_LABELS"] = "late"
    assert service.start().process.wait(READY_S) == 2  # type: ignore[union-attr]
    assert "positive_labels = ['late', 'very late'], but ['late'] is asked for" in service.log

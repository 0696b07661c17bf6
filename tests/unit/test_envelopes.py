"""Envelopes and headers: what is in them, and what is said of those that have nothing in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flexihash.consumer.consumer_errors import EventRejected, RowDeleted
from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.files import learn_file
from flexihash.consumer.wire import EventFormat
from flexihash.model.config import ModelConfig
from flexihash.model.tasks import Task

ROW = {"id": 7, "late": 1, "city": "Rome"}
CHANGE = {"before": None, "after": ROW, "op": "c", "source": {"ts_ms": 1, "sequence": '["1"]'}, "ts_ms": 2}
FORMAT = EventFormat(envelope="debezium", features_field="", label_field="late")
CONNECT = EventFormat(envelope="connect", features_field="", label_field="late")


def decoder_of(format: EventFormat) -> EventDecoder:
    return EventDecoder(format, Task.BINARY, 2)


@pytest.mark.parametrize(
    ("format", "message"),
    [
        (FORMAT, CHANGE),
        (FORMAT, {"schema": {"type": "struct"}, "payload": CHANGE}),
        (FORMAT, {"payload": {"after": ROW}}),
        (CONNECT, {"schema": None, "payload": ROW}),
        (CONNECT, {"payload": ROW}),
    ],
)
def test_the_event_in_an_envelope(format: EventFormat, message: dict[str, Any]) -> None:
    decoder = decoder_of(format)
    for text in (json.dumps(message).encode(), b"\0\0\0\0\x01" + json.dumps(message).encode()):
        event = decoder.decode_one(text)
        assert (event.features, event.label) == ([("city", "Rome")], 1.0)
        assert decoder.decode([text]).labels.tolist() == [1.0]


@pytest.mark.parametrize(
    ("format", "message"),
    [
        (FORMAT, {"before": ROW, "after": None, "op": "d"}),
        (FORMAT, {"payload": {"before": ROW, "after": None, "op": "d"}}),
        (FORMAT, {"op": "t", "source": {}}),  # all rows at once
        (FORMAT, {"schema": None, "payload": None}),
        (FORMAT, None),
        (CONNECT, {"schema": {}, "payload": None}),
        (CONNECT, None),
    ],
)
def test_rows_that_are_gone_are_told_from_what_is_wrong(format: EventFormat, message: dict[str, Any] | None) -> None:
    text = json.dumps(message).encode() if message else None
    ((_, rejected),) = decoder_of(format).decode([text]).rejections
    assert isinstance(rejected, RowDeleted)
    assert rejected.reason == "deleted"


@pytest.mark.parametrize(
    ("format", "message", "reason", "says"),
    [
        (FORMAT, ROW, "no_envelope", 'the message has no "after" (envelope=debezium)'),
        (FORMAT, {"payload": ROW}, "no_envelope", 'the message has no "after" (envelope=debezium)'),
        (FORMAT, {"payload": 3}, "no_envelope", 'the message has no "after" (envelope=debezium)'),
        (FORMAT, {"after": [ROW]}, "no_envelope", "the row is an array, not an object (envelope=debezium)"),
        (FORMAT, [CHANGE], "not_an_object", "the event is an array, not an object"),
        (CONNECT, ROW, "no_envelope", 'the message has no "payload" (envelope=connect)'),
        (CONNECT, {"payload": "x"}, "no_envelope", "the row is a string, not an object (envelope=connect)"),
    ],
)
def test_what_is_in_no_such_envelope(format: EventFormat, message: Any, reason: str, says: str) -> None:
    ((_, rejected),) = decoder_of(format).decode([json.dumps(message).encode()]).rejections
    assert not isinstance(rejected, RowDeleted)
    assert (rejected.reason, str(rejected)) == (reason, says)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\0", "not_json"),
        (b"\0\0\0\0\1", "not_json"),
        (b'\0\0\0\0\1{"features":{}', "not_json"),
        (b'\0\0\0\0\1\0\0\0\0\1{"features":{}}', "not_json"),
        (b'\1\0\0\0\1{"features":{}}', "not_json"),
        (b"\0\0\0\0\1\xff", "not_json"),
        (b"\0\0\0\0\1[]", "not_an_object"),
    ],
)
def test_headers_before_what_is_no_event(message: bytes, reason: str) -> None:
    ((_, rejected),) = decoder_of(EventFormat()).decode([message]).rejections
    assert rejected.reason == reason


def test_a_header_needs_no_setting() -> None:
    decoder = decoder_of(EventFormat(max_event_bytes=40))
    message = b'\0\xff{\0"{"features":{"a":1},"label":1}'
    assert decoder.decode_one(message).label == 1.0
    assert decoder.decode([message, message + b" " * 10]).kept.tolist() == [0]


@pytest.mark.parametrize("instance", [CHANGE, {"payload": CHANGE}, {"schema": 1, "payload": {}}])
def test_an_envelope_is_no_instance(instance: dict[str, Any]) -> None:
    with pytest.raises(EventRejected) as raised:
        decoder_of(FORMAT).read_instance(instance)
    assert (raised.value.reason, raised.value.key) == ("whole_event", "debezium")
    assert decoder_of(FORMAT).read_instance({**ROW, "payload": "x"}) == [("city", "Rome"), ("payload", "x")]


def test_an_event_whose_features_lie_at_a_path_is_no_instance() -> None:
    decoder = decoder_of(EventFormat(features_field="flight.now", label_field="flight.now.late"))
    with pytest.raises(EventRejected, match=r'send what is in "flight\.now", without the object around it'):
        decoder.read_instance({"flight": {"now": {"city": "Rome"}, "then": 3}})
    assert decoder.read_instance({"city": "Rome", "late": 1}) == [("city", "Rome")]


def test_a_file_of_changes_is_learned_but_for_the_deletions(tmp_path: Path) -> None:
    deletion = {"before": ROW, "after": None, "op": "d"}
    lines = [CHANGE, {"payload": CHANGE}, deletion, {"payload": None}, ROW]
    path = tmp_path / "changes.ndjson"
    path.write_text("\n".join(map(json.dumps, lines)))
    report = learn_file(path, ModelConfig(n_rows=256), FORMAT)
    assert (report.events, report.rejected) == (2, {"deleted": 2, "no_envelope": 1})
    assert report.rejected_samples == [f'{path}:5: the message has no "after" (envelope=debezium)']

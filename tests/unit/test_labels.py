"""Labels of every kind: what they are, by both ways of decoding, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from flexihash.consumer.consumer_errors import EventRejected
from flexihash.consumer.decoding import Decoded, EventDecoder
from flexihash.consumer.label_numbers import MOST_BYTES
from flexihash.consumer.labels import LabelRule, parse_rule
from flexihash.consumer.wire import Event, EventFormat
from flexihash.model.model_errors import ConfigurationError
from flexihash.model.tasks import Task

NESTED = '{"a":{"b":"x"}}'  # features that the scan leaves


def make_event(label: str, features: str = '{"a":"x"}') -> bytes:
    return f'{{"features":{features},"label":{label}}}'.encode()


class ScanOnly(EventDecoder):
    """Fails on what the scan leaves."""

    def decode_one(self, value: bytes | None) -> Event:
        raise AssertionError(f"{value!r} was left")


def decode(task: Task, labels: Sequence[str], **format: Any) -> Decoded:
    """Events of these labels, by the scan alone, and the same by both ways in turns, and by the long way alone."""
    scanned = ScanOnly(EventFormat(**format), task, 2, needs_label=False).decode([make_event(one) for one in labels])
    mixed = [make_event(one, NESTED if place % 2 else '{"a":"x"}') for place, one in enumerate(labels)]
    long = [make_event(one, NESTED) for one in labels]
    for messages in (mixed, long):
        decoded = EventDecoder(EventFormat(**format), task, 2, needs_label=False).decode(messages)
        assert decoded.classes == scanned.classes
        assert decoded.labels.tobytes() == scanned.labels.tobytes()
        assert decoded.labels.shape == scanned.labels.shape
        assert decoded.n_unlabelled == scanned.n_unlabelled
    return scanned


def refuse(task: Task, label: str, **format: Any) -> str:
    """The message for a label, beside good ones, by either way."""
    decoder = EventDecoder(EventFormat(**format), task, 2)
    good = {Task.MULTILABEL: '["x"]'}.get(task, '"x"')
    decoded = decoder.decode([make_event(good), make_event(label), make_event(good), make_event(label, NESTED)])
    assert decoded.kept.tolist() == [0, 2]
    assert decoded.batch.offsets.tolist() == [0, 1, 2]
    (place, first), (other, second) = decoded.rejections
    assert (place, other, first.reason, first.key, str(second)) == (1, 3, "bad_label", "label", str(first))
    return str(first)


# --- classes --------------------------------------------------------------------------------------------------------


def test_classes_are_named_by_their_json_in_the_order_in_which_they_come() -> None:
    labels = ['"UA"', "3", "true", '"3"', "null", '"UA"', "false", '"löwe"', "3", '""']
    decoded = decode(Task.MULTICLASS, labels)
    assert decoded.classes == ('"UA"', "3", "true", '"3"', "false", '"löwe"', '""')
    assert decoded.labels[[0, 1, 2, 3, 5, 6, 7, 8, 9]].tolist() == [0, 1, 2, 3, 0, 4, 5, 1, 6]
    assert np.isnan(decoded.labels[4])
    assert decoded.n_unlabelled == 1


def test_a_class_written_with_escapes_is_the_same_class() -> None:
    decoded = decode(Task.MULTICLASS, ['"A"', '"\\u0041"', '"a/b"', '"a\\/b"', '"\\n"', '"\\u000a"'])
    assert decoded.classes == ('"A"', '"a/b"', '"\\n"')
    assert decoded.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_minus_zero_is_zero() -> None:
    decoded = EventDecoder(EventFormat(), Task.MULTICLASS, 2).decode([make_event("0"), make_event("-0")])
    assert (decoded.classes, decoded.labels.tolist()) == (("0",), [0, 0])


def test_classes_are_those_of_the_batch_alone() -> None:
    decoder = EventDecoder(EventFormat(), Task.MULTICLASS, 2)
    assert decoder.decode([make_event('"a"'), make_event('"b"')]).classes == ('"a"', '"b"')
    decoded = decoder.decode([make_event('"c"'), make_event('"b"'), make_event('"c"')])
    assert decoded.classes == ('"c"', '"b"')
    assert decoded.labels.tolist() == [0, 1, 0]
    assert decoder.decode([]).classes == ()


def test_events_without_a_class_are_left_out_where_a_label_is_needed() -> None:
    messages = [make_event('"a"'), make_event("null"), b'{"features":{}}', make_event('"b"')]
    decoded = EventDecoder(EventFormat(), Task.MULTICLASS, 2).decode(messages)
    assert (decoded.kept.tolist(), decoded.labels.tolist(), decoded.n_unlabelled) == ([0, 3], [0, 1], 2)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("1.5", "label 1.5 is not a string, a whole number or a boolean (task=multiclass)"),
        ("3.0", "label 3.0 is not a string, a whole number or a boolean (task=multiclass)"),
        ('["a"]', 'label ["a"] is not a string, a whole number or a boolean (task=multiclass)'),
        ('{"a":1}', 'label {"a":1} is not a string, a whole number or a boolean (task=multiclass)'),
        ('"' + "x" * 199 + '"', f'label "{"x" * 79} has 201 bytes, more than 200 (task=multiclass)'),
        ("1" + "0" * 200, f"label 1{'0' * 79} has 201 bytes, more than 200 (task=multiclass)"),
    ],
)
def test_labels_that_are_no_class(label: str, message: str) -> None:
    assert refuse(Task.MULTICLASS, label) == message


def test_a_class_of_200_bytes_is_one() -> None:
    longest = '"' + "x" * 198 + '"'
    assert decode(Task.MULTICLASS, [longest]).classes == (longest,)


def test_classes_without_end_are_forgotten_again() -> None:
    """More than are remembered, in one batch and over many."""
    decoder = EventDecoder(EventFormat(), Task.MULTICLASS, 2)
    for begin in range(0, 60_000, 20_000):
        labels = [f'"{begin + number}-{"x" * 100}"' for number in range(20_000)]
        decoded = decoder.decode([make_event(label) for label in labels])
        assert decoded.classes == tuple(labels)
        assert decoded.labels.tolist() == list(range(20_000))
    decoder.decode([])
    assert decoder._numbers._n_bytes < MOST_BYTES


# --- several labels -------------------------------------------------------------------------------------------------


def test_several_labels_are_columns_in_the_order_in_which_they_come() -> None:
    decoded = decode(Task.MULTILABEL, ['["b","a"]', "[]", "null", '["a","c","a"]', "[ 3 , true ]", '["b","a"]'])
    assert decoded.classes == ('"b"', '"a"', '"c"', "3", "true")
    assert decoded.labels[[0, 1, 3, 4, 5]].tolist() == [
        [1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 0, 1, 1],
        [1, 1, 0, 0, 0],
    ]
    assert np.isnan(decoded.labels[2]).all()
    assert decoded.n_unlabelled == 1


def test_labels_that_are_all_none_have_no_columns() -> None:
    decoded = decode(Task.MULTILABEL, ["[]", "[]"])
    assert (decoded.labels.shape, decoded.classes, decoded.n_unlabelled) == ((2, 0), (), 0)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ('"a"', 'label "a" is not a list (task=multilabel)'),
        ('["a",1.5]', "label 1.5 is not a string, a whole number or a boolean (task=multilabel)"),
        ('["a",null]', "label null is not a string, a whole number or a boolean (task=multilabel)"),
        ('[["a"]]', 'label ["a"] is not a string, a whole number or a boolean (task=multilabel)'),
    ],
)
def test_lists_that_are_no_labels(label: str, message: str) -> None:
    assert refuse(Task.MULTILABEL, label) == message


# --- targets --------------------------------------------------------------------------------------------------------

TARGETS = (("late", Task.BINARY), ("out.delay", Task.REGRESSION), ("stops", Task.COUNTS))


def decode_targets(*events: dict[str, Any], needs_label: bool = True, kind: type[EventDecoder] = ScanOnly) -> Decoded:
    decoder = kind(EventFormat(targets=TARGETS), Task.TARGETS, 2, needs_label)
    return decoder.decode([msgspec.json.encode(event) for event in events])


def test_targets_are_columns_each_read_by_its_task() -> None:
    events: list[dict[str, Any]] = [
        {"features": {"a": "x"}, "late": 1, "out": {"delay": -2.5, "gate": [1]}, "stops": 2},
        {"stops": 0, "features": {"a": "x"}, "late": None},
        {"features": {"a": "x"}, "out": {"delay": None}},
        {"features": {"a": "x"}, "late": False},
    ]
    for kind in (ScanOnly, EventDecoder):
        if kind is EventDecoder:
            events = [{**event, "features": {"a": {"b": "x"}}} for event in events]
        decoded = decode_targets(*events, kind=kind)
        assert decoded.labels.shape == (3, 3)
        assert [[None if np.isnan(one) else one for one in row] for row in decoded.labels.tolist()] == [
            [1, -2.5, 2],
            [None, None, 0],
            [0, None, None],
        ]
        assert (decoded.kept.tolist(), decoded.n_unlabelled) == ([0, 1, 3], 1)
        decoded = decode_targets(*events, needs_label=False, kind=kind)
        assert (len(decoded.labels), np.isnan(decoded.labels[2]).all(), decoded.n_unlabelled) == (4, True, 1)


@pytest.mark.parametrize(
    ("event", "key", "message"),
    [
        ({"late": 2}, "late", "label 2 is not 0 or 1 (task=binary)"),
        ({"late": 1, "stops": -1}, "stops", "label -1 is negative (task=counts)"),
        ({"out": {"delay": "x"}}, "out.delay", 'label "x" is not a number (task=regression)'),
    ],
)
def test_targets_that_their_tasks_refuse(event: dict[str, Any], key: str, message: str) -> None:
    decoded = decode_targets({"features": {"a": "x"}, "late": 1}, {"features": {"a": "x"}, **event}, kind=EventDecoder)
    ((place, rejected),) = decoded.rejections
    assert (place, rejected.reason, rejected.key, str(rejected)) == (1, "bad_label", key, message)


# --- positive labels ------------------------------------------------------------------------------------------------

POSITIVES = ("late", "yes", "1", "true", "2.5")


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ('"late"', 1),
        ('"Late"', 0),
        ('"on time"', 0),
        ('""', 0),
        ('"l\\u0061te"', 1),
        ("1", 1),
        ('"1"', 1),
        ("1.0", 0),
        ("2.5", 1),
        ("2.50", 1),
        ("0", 0),
        ("true", 1),
        ("false", 0),
    ],
)
def test_texts_that_mean_yes(label: str, value: float) -> None:
    assert decode(Task.BINARY, [label, label], positive_labels=POSITIVES).labels.tolist() == [value, value]


def test_null_means_neither_yes_nor_no() -> None:
    decoded = decode(Task.BINARY, ["null", '"yes"'], positive_labels=POSITIVES)
    assert (decoded.n_unlabelled, np.isnan(decoded.labels).tolist()) == (1, [True, False])


@pytest.mark.parametrize("label", ['["late"]', '{"late":1}'])
def test_labels_that_are_no_text(label: str) -> None:
    expected = f"label {label} is not a string, a number or a boolean (positive_labels)"
    assert refuse(Task.BINARY, label, positive_labels=POSITIVES) == expected


# --- rules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("arr_delay > 15", LabelRule("arr_delay", ">", 15.0)),
        (" payload.after.delay>=-1.5e1 ", LabelRule("payload.after.delay", ">=", -15.0)),
        ("/a/b.c<0", LabelRule("/a/b.c", "<", 0.0)),
        ("a <= 0.25", LabelRule("a", "<=", 0.25)),
        ('status == "late"', LabelRule("status", "==", "late")),
        ("status != 'on time'", LabelRule("status", "!=", "on time")),
        ('a b=="\\u0041>=3"', LabelRule("a b", "==", "A>=3")),
    ],
)
def test_how_a_rule_is_written(text: str, rule: LabelRule) -> None:
    assert parse_rule(text) == rule
    assert parse_rule(str(rule)) == rule


@pytest.mark.parametrize(
    "text",
    ["", "late", "> 15", "a > ", "a = 15", "a > b", "a > late", "a > 1 and b > 2", "a > NaN", "a > true", "a == null"],
)
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"must compare a field with a number or a string, by one of >= <="):
        parse_rule(text)


VALUES = ["14", "15", "15.0", "1.5e1", "16", "-3", "15.000000000000002", "9007199254740993", "null"]


@pytest.mark.parametrize(
    ("rule", "labels"),
    [
        ("label > 15", [0, 0, 0, 0, 1, 0, 1, 1]),
        ("label >= 15", [0, 1, 1, 1, 1, 0, 1, 1]),
        ("label < 15", [1, 0, 0, 0, 0, 1, 0, 0]),
        ("label <= 15", [1, 1, 1, 1, 0, 1, 0, 0]),
        ("label == 15", [0, 1, 1, 1, 0, 0, 0, 0]),
        ("label != 15", [1, 0, 0, 0, 1, 1, 1, 1]),
        ("label > 9007199254740992", [0, 0, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_numbers_by_a_rule(rule: str, labels: list[float]) -> None:
    decoded = decode(Task.BINARY, VALUES, label_rule=rule)
    assert decoded.labels[:-1].tolist() == labels
    assert np.isnan(decoded.labels[-1])


@pytest.mark.parametrize(
    ("rule", "labels"),
    [
        ('label == "late"', [1, 0, 0, 0]),
        ('label != "late"', [0, 1, 1, 1]),
        ('label >= "late"', [1, 0, 1, 1]),
        ('label < "löwe"', [1, 1, 1, 0]),
    ],
)
def test_texts_by_a_rule(rule: str, labels: list[float]) -> None:
    assert (
        decode(Task.BINARY, ['"l\\u0061te"', '"early"', '"later"', '"löwe"'], label_rule=rule).labels.tolist() == labels
    )


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        ("delay > 15", '"20"', 'delay "20" is not a number (label_rule=delay > 15)'),
        ("delay > 15", "true", "delay true is not a number (label_rule=delay > 15)"),
        ("delay > 15", "[20]", "delay [20] is not a number (label_rule=delay > 15)"),
        ("delay > 15", "1" + "0" * 400, "int too large to convert to float"),
        ("delay == 'late'", "20", 'delay 20 is not a string (label_rule=delay == "late")'),
    ],
)
def test_fields_that_a_rule_cannot_compare(rule: str, value: str, message: str) -> None:
    decoder = EventDecoder(EventFormat(features_field="", label_rule=rule), Task.BINARY, 2)
    with pytest.raises(EventRejected) as raised:
        decoder.decode_one(f'{{"a":"x","delay":{value}}}'.encode())
    assert (raised.value.reason, raised.value.key, str(raised.value)) == ("bad_label", "delay", message)


def test_the_field_of_a_rule_is_no_feature() -> None:
    message = b'{"flight":{"delay":20,"carrier":"UA"},"label":"x"}'
    format = EventFormat(features_field="", label_rule="flight.delay > 15")
    event = EventDecoder(format, Task.BINARY, 2).decode_one(message)
    assert event.features == [("flight.carrier", "UA"), ("label", "x")]
    assert event.label == 1.0
    scanned = ScanOnly(EventFormat(features_field="flight", label_rule="flight.delay > 15"), Task.BINARY, 1 << 18)
    assert scanned.decode([message]).batch.offsets.tolist() == [0, 1]

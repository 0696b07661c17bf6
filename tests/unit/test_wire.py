"""The wire format: what each event means, and what is said about those that cannot be learned from."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction import FeatureHasher

from flexihash.consumer.consumer_errors import EventRejected
from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.wire import EventFormat
from flexihash.model.features import FeatureRules
from flexihash.model.tasks import Task

OUT_OF_RANGE = "a number is out of range: Number out of range - at `$[...][...]`"


def make_decoder(format: EventFormat | None = None, task: Task = Task.BINARY) -> EventDecoder:
    return EventDecoder(format or EventFormat(), task, 1 << 18)


def read(text: str, **rules: Any) -> list[tuple[str, str | float]]:
    """The features of an event that is nothing else, with the numbers' types told apart."""
    return make_decoder(EventFormat(features_field="", rules=FeatureRules(**rules))).decode_one(text.encode()).features


def rejection(text: str | bytes | None, decoder: EventDecoder) -> tuple[str, str, str]:
    """Reason, message and key; the same whether one event or many are decoded."""
    value = text.encode() if isinstance(text, str) else text
    with pytest.raises(EventRejected) as raised:
        decoder.decode_one(value)
    ((place, rejected),) = decoder.decode([b'{"features":{"a":1}}', value]).rejections
    assert place == 1
    found = rejected.reason, str(rejected), rejected.key
    assert found == (raised.value.reason, str(raised.value), raised.value.key)
    return found


# --- flattening -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "features"),
    [
        ('"red"', [("k", "red")]),
        ('""', [("k", "")]),
        ('"löwe \\u2713"', [("k", "löwe ✓")]),
        ("3.5", [("k", 3.5)]),
        ("3", [("k", 3.0), ("k", "3")]),
        ("-3", [("k", -3.0), ("k", "-3")]),
        ("0", [("k", 0.0), ("k", "0")]),
        ("-0", [("k", 0.0), ("k", "0")]),
        ("3.0", [("k", 3.0)]),
        ("3e2", [("k", 300.0)]),
        ("12345678901234567890123", [("k", 1.2345678901234568e22), ("k", "12345678901234567890123")]),
        ("true", [("k", "true")]),
        ("false", [("k", "false")]),
        ("null", []),
        ('{"a":"x","b":{"c":2.5}}', [("k.a", "x"), ("k.b.c", 2.5)]),
        ("{}", []),
        ('["x","y"]', [("k", "x"), ("k", "y")]),
        ("[true,null]", [("k", "true")]),
        ("[1.5,2.5]", [("k.0", 1.5), ("k.1", 2.5)]),
        ('[{"a":"x"},{"a":"y"}]', [("k.0.a", "x"), ("k.1.a", "y")]),
        ("[[1.5],[]]", [("k.0.0", 1.5)]),
        ("[]", []),
    ],
)
def test_flattening(value: str, features: list[tuple[str, str | float]]) -> None:
    found = read(f'{{"k":{value}}}')
    assert found == features
    assert [type(value) for _, value in found] == [type(value) for _, value in features]


def test_a_name_that_comes_twice_has_its_last_value() -> None:
    assert read('{"a":"x","b":"y","a":null,"b":"z"}') == [("b", "z")]


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ('{"user_id":7}', [("user_id", "7")]),
        ('{"user_id":7.5}', [("user_id", "7.5")]),
        ('{"user_id":"seven"}', [("user_id", "seven")]),
        ('{"a":{"user_id":7}}', [("a.user_id", "7")]),
        ('{"year":2013}', [("year", 2013.0)]),
        ('{"year":"2013"}', [("year", 2013.0)]),
        ('{"year":"MMXIII"}', [("year", "MMXIII")]),
        ('{"year":"1e999"}', [("year", "1e999")]),
        ('{"year":[2013,"2014"]}', [("year.0", 2013.0), ("year", 2014.0)]),
        ('{"other":7}', [("other", 7.0), ("other", "7")]),
        ('{"year_id":7}', [("year_id", "7")]),
    ],
)
def test_globs_say_what_a_feature_is(text: str, features: list[tuple[str, str | float]]) -> None:
    assert read(text, categorical_features=("*_id",), numeric_features=("year*",)) == features


def test_rows_are_those_of_feature_hasher() -> None:
    message = {"features": {"color": "red", "price": 3.5, "n": 7, "löwe": "ja", "new": True}, "label": 1}
    features = {"color": "red", "price": 3.5, "n": 7.0, "löwe": "ja", "new": "true"}
    batch = make_decoder().decode([json.dumps(message, ensure_ascii=False).encode()]).batch
    hasher = FeatureHasher(1 << 18, alternate_sign=False)
    expected = [hasher.transform([{name: value}]).indices[0] for name, value in features.items()]
    expected.insert(3, hasher.transform([{"n": "7"}]).indices[0])
    assert batch.rows.tolist() == expected
    assert batch.values.tolist() == [1.0, 3.5, 7.0, 1.0, 1.0, 1.0]
    assert batch.is_number.tolist() == [False, True, True, False, False, False]
    assert batch.offsets.tolist() == [0, 6]


# --- fields ---------------------------------------------------------------------------------------------------------


def test_whole_events_leave_out_what_is_no_feature() -> None:
    format = EventFormat(features_field="", label_field="y", rules=FeatureRules(ignored_features=("secret",)))
    event = make_decoder(format).decode_one(
        b'{"a":"x","y":1,"weight":2,"id":"i","timestamp":"t","secret":"s","label":"l","features":"f","b":{"id":"n"}}'
    )
    assert event.features == [("a", "x"), ("label", "l"), ("features", "f"), ("b.id", "n")]
    assert (event.label, event.weight) == (1.0, 2.0)


def test_ignored_features_are_names_among_the_features() -> None:
    format = EventFormat(features_field="data", rules=FeatureRules(ignored_features=("a", "label")))
    event = make_decoder(format).decode_one(b'{"data":{"a":"x","label":"l","b":{"a":"y"}},"label":0}')
    assert event.features == [("b.a", "y")]
    assert event.label == 0.0


@pytest.mark.parametrize(
    ("task", "label", "value"),
    [
        (Task.BINARY, "0", 0.0),
        (Task.BINARY, "1.0", 1.0),
        (Task.BINARY, "true", 1.0),
        (Task.BINARY, "false", 0.0),
        (Task.REGRESSION, "-7.25", -7.25),
        (Task.REGRESSION, "1e100", 1e100),
        (Task.COUNTS, "0", 0.0),
        (Task.COUNTS, "2.5", 2.5),
        (Task.QUANTILE, "-1", -1.0),
        (Task.QUANTILE, "9007199254740993", 9007199254740992.0),
    ],
)
def test_labels(task: Task, label: str, value: float) -> None:
    decoder = make_decoder(task=task)
    message = f'{{"features":{{"a":1}},"label":{label}}}'.encode()
    assert decoder.decode_one(message).label == value
    assert decoder.decode([message]).labels.tolist() == [value]


@pytest.mark.parametrize(
    ("task", "label", "message"),
    [
        (Task.BINARY, "2", "label 2 is not 0 or 1 (task=binary)"),
        (Task.BINARY, "0.5", "label 0.5 is not 0 or 1 (task=binary)"),
        (Task.BINARY, '"yes"', 'label "yes" is not a number (task=binary)'),
        (Task.REGRESSION, "[1]", "label [1] is not a number (task=regression)"),
        (Task.REGRESSION, "2e100", "label 2e+100 is not a finite number of at most 1e+100 (task=regression)"),
        (Task.QUANTILE, "-2e100", "label -2e+100 is not a finite number of at most 1e+100 (task=quantile)"),
        (Task.COUNTS, "-1", "label -1 is negative (task=counts)"),
        (Task.COUNTS, "1" + "0" * 400, "int too large to convert to float"),
        (Task.COUNTS, '{"a":"' + "x" * 99 + '"}', 'label {"a":"' + "x" * 74 + " is not a number (task=counts)"),
    ],
)
def test_labels_that_a_task_cannot_take(task: Task, label: str, message: str) -> None:
    text = f'{{"features":{{"a":1}},"label":{label}}}'
    assert rejection(text, make_decoder(task=task)) == ("bad_label", message, "label")


def test_events_without_a_label_are_counted() -> None:
    decoder = make_decoder()
    assert decoder.decode_one(b'{"features":{"a":1},"label":null}').label is None
    decoded = decoder.decode([b'{"features":{"a":1}}', b'{"features":{"a":1},"label":null}', b'{"features":{"a":[]}}'])
    assert decoded.n_unlabelled == 3
    assert decoded.kept.tolist() == []
    assert decoded.batch.offsets.tolist() == [0]


@pytest.mark.parametrize(
    ("weight", "value"),
    [("2", 2.0), ("0", 0.0), ("0.25", 0.25), ("1e6", 1e6), ("null", 1.0)],
)
def test_weights(weight: str, value: float) -> None:
    message = f'{{"features":{{"a":1}},"label":1,"weight":{weight}}}'.encode()
    assert make_decoder().decode_one(message).weight == value
    assert make_decoder().decode([message]).weights.tolist() == [value]


@pytest.mark.parametrize(
    ("weight", "quoted"),
    [
        ("-1", "-1"),
        ("1000000.5", "1000000.5"),
        ("1" + "0" * 30, "1" + "0" * 30),
        ("true", "true"),
        ('"1"', '"1"'),
        ("[1,2]", "[1,2]"),
    ],
)
def test_weights_that_are_none(weight: str, quoted: str) -> None:
    message = f"weight {quoted} is not from 0 to 1e+06"
    text = f'{{"features":{{"a":1}},"label":1,"weight":{weight}}}'
    assert rejection(text, make_decoder()) == ("bad_weight", message, "weight")


# --- rejections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason", "message", "key"),
    [
        (None, "empty", "the message is empty", ""),
        (b"", "empty", "the message is empty", ""),
        (b"  ", "not_json", "not JSON: Input data was truncated", ""),
        (b'{"features":', "not_json", "not JSON: Input data was truncated", ""),
        (b'{"features":{},}', "not_json", "not JSON: JSON is malformed: trailing comma in object (byte 15)", ""),
        (b'{"features":{}} {}', "not_json", "not JSON: JSON is malformed: trailing characters (byte 17)", ""),
        (b'{"features":{"a":NaN}}', "not_json", "not JSON: JSON is malformed: invalid character (byte 17)", ""),
        (b'{"features":{"a":01}}', "not_json", "not JSON: JSON is malformed: invalid number (byte 18)", ""),
        (b'{"features":{"a":"\n"}}', "not_json", "not JSON: JSON is malformed: invalid character (byte 18)", ""),
        (b'{"features":{"a":"\xff"}}', "not_utf8", "not UTF-8: invalid start byte at byte 0", ""),
        (b'{"features":{"a":1e999}}', "non_finite_number", OUT_OF_RANGE, ""),
        (b'{"features":{"a":1' + b"0" * 400 + b"}}", "non_finite_number", '"a" is not a finite number', "a"),
        (b"[" * 100_000, "too_deep", "nested deeper than can be read", ""),
        (b"[]", "not_an_object", "the event is an array, not an object", ""),
        (b"null", "not_an_object", "the event is null, not an object", ""),
        (b"3", "not_an_object", "the event is a number, not an object", ""),
        (b'"{}"', "not_an_object", "the event is a string, not an object", ""),
        (b"true", "not_an_object", "the event is a boolean, not an object", ""),
        (b'{"label":1}', "no_features", 'the event has no "features"', "features"),
        (b'{"features":null}', "no_features", "the features are null, not an object", ""),
        (b'{"features":["a"]}', "no_features", "the features are an array, not an object", ""),
    ],
)  # fmt: skip
def test_rejections(text: bytes | None, reason: str, message: str, key: str) -> None:
    assert rejection(text, make_decoder()) == (reason, message, key)


def test_limit_of_bytes() -> None:
    text = '{"features":{"a":1}}'
    decoder = make_decoder(EventFormat(max_event_bytes=len(text)))
    assert decoder.decode_one(text.encode()).features == [("a", 1.0), ("a", "1")]
    assert rejection(text + " ", decoder) == ("too_large", "the message has 21 bytes, more than 20", "")


def test_limit_of_features() -> None:
    decoder = make_decoder(EventFormat(rules=FeatureRules(max_features=3)))
    assert len(decoder.decode_one(b'{"features":{"a":1,"b":"x","c":null}}').features) == 3
    too_many = "too_many_features"
    assert rejection('{"features":{"a":1,"b":2}}', decoder) == (too_many, "more than 3 features", "b")
    assert rejection('{"features":{"a":"x","b":"x","c":"x","d":"x"}}', decoder) == (
        too_many,
        "4 features, more than 3",
        "",
    )


def test_limit_of_depth() -> None:
    decoder = make_decoder(EventFormat(rules=FeatureRules(max_depth=2)))
    assert decoder.decode_one(b'{"features":{"a":{"b":"x"}}}').features == [("a.b", "x")]
    message = '"a.b" is nested deeper than 2 levels'
    assert rejection('{"features":{"a":{"b":{}}}}', decoder) == ("too_deep", message, "a.b")
    assert rejection('{"features":{"a":{"b":[]}}}', decoder) == ("too_deep", message, "a.b")


def test_limit_of_a_name() -> None:
    decoder = make_decoder(EventFormat(rules=FeatureRules(max_key_length=4)))
    assert decoder.decode_one('{"features":{"löwe":"x"}}'.encode()).features == [("löwe", "x")]  # 5 bytes
    message = '"a.bcd..." has 5 characters, more than 4'
    assert rejection('{"features":{"a":{"bcd":null}}}', decoder) == ("key_too_long", message, "a.bcd")
    long = "x" * 100
    message = f'"{"x" * 80}..." has 100 characters, more than 4'
    assert rejection(f'{{"features":{{"{long}":1}}}}', decoder) == ("key_too_long", message, "x" * 80)


@pytest.mark.parametrize("field", ["label", "weight"])
def test_nesting_of_every_depth_is_rejected(field: str) -> None:
    """There is a depth that can be read, but not written into the message."""
    decoder = make_decoder()
    for depth in range(900, 1010):
        value = '{"a":' * depth + "1" + "}" * depth
        message = f'{{"features":{{}},"{field}":{value}}}'.encode()
        ((_, rejected),) = decoder.decode([message]).rejections
        assert rejected.reason in (f"bad_{field}", "too_deep")


def test_the_rest_of_a_poll_is_learned_from() -> None:
    good = b'{"features":{"a":"x"},"label":1,"weight":2}'
    decoded = make_decoder().decode(
        [b"oops", good, None, b'{"features":{"a":"y"}}', good, b'{"features":{},"label":2}']
    )
    assert [(place, rejected.reason) for place, rejected in decoded.rejections] == [
        (0, "not_json"),
        (2, "empty"),
        (5, "bad_label"),
    ]
    assert decoded.kept.tolist() == [1, 4]
    assert decoded.n_unlabelled == 1
    assert decoded.labels.tolist() == [1.0, 1.0]
    assert decoded.weights.tolist() == [2.0, 2.0]
    assert np.diff(decoded.batch.offsets).tolist() == [1, 1]

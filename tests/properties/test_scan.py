"""The compiled fast path against parsing, flattening and hashing: the same for every message."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import product
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple
from numpy.typing import NDArray

from flexihash.consumer.consumer_errors import EventRejected
from flexihash.consumer.decoding import FEW_INSTANCES, EventDecoder
from flexihash.consumer.envelopes import WAYS as ENVELOPE_WAYS
from flexihash.consumer.wire import Event, EventFormat
from flexihash.model.features import FeatureRules, hash_features
from flexihash.model.tasks import Task
from tests.properties.times import ODD_TIMES, TIME_LIKE

FORMATS = [
    EventFormat(),
    EventFormat(features_field=""),
    EventFormat(features_field="", rules=FeatureRules(ignored_features=("a", "löwe")), label_field="y"),
    EventFormat(rules=FeatureRules(ignored_features=("a", "features", "label"))),
    EventFormat(label_field="weight"),
    EventFormat(label_field="features"),
    EventFormat(features_field="label"),
    EventFormat(features_field="weight", label_field="löwe"),
    EventFormat(features_field="", label_field="id"),
    EventFormat(rules=FeatureRules(max_features=3, max_key_length=4), max_event_bytes=120),
    EventFormat(rules=FeatureRules(categorical_features=("a*",), numeric_features=("b",))),
    EventFormat(rules=FeatureRules(ignored_features=("l?*", "[!b-y]", "a.b", "price"))),
    EventFormat(features_field="", label_field="y", rules=FeatureRules(ignored_features=("*a*", "l*", "日?"))),
    EventFormat(rules=FeatureRules(crosses=("*",))),
    EventFormat(features_field="", rules=FeatureRules(crosses=("a*price", "l* * ?"), ignored_features=("b",))),
    EventFormat(rules=FeatureRules(crosses=("a*a.b",), categorical_features=("price",))),
    EventFormat(
        rules=FeatureRules(
            time_features=("a", "löwe"),
            time_zone="America/New_York",
            text_features=("b", "日*"),
            max_words=3,
            missing_features=("*", "a.b", "zz", "日本"),
        )
    ),
    EventFormat(
        features_field="",
        rules=FeatureRules(
            numeric_features=("a", "x*"),
            categorical_features=("price",),
            time_features=("y",),
            text_features=("id", "löwe"),
            crosses=("*.hour * b", "b.weekday * *"),
            ignored_features=("*.hour_of_week", "label.weekday"),
            missing_features=("b", "timestamp", "a=b"),
        ),
        label_field="y",
    ),
]
NUMERIC = (Task.BINARY, Task.REGRESSION, Task.COUNTS, Task.QUANTILE)
DECODERS = [
    EventDecoder(format, task, n_rows)
    for format in FORMATS
    for task, n_rows in zip(NUMERIC, (1 << 18, 2, 1 << 30, 64), strict=True)
]

TARGETS = (("y", Task.BINARY), ("m.y", Task.REGRESSION), ("p.after.label", Task.COUNTS))
OTHERS = [  # topics that somebody else designed, and labels of other kinds
    (
        EventFormat(features_field="p.after", label_field="p.after.y", weight_field="p.weight", id_field="p.after.id"),
        *NUMERIC,
    ),
    (
        EventFormat(
            features_field="p.after", label_field="m.y", rules=FeatureRules(ignored_features=("p.after.a", "b"))
        ),
        *NUMERIC,
    ),
    (EventFormat(features_field="", label_field="m.y", weight_field="m.weight", id_field="m.id"), Task.REGRESSION),
    (EventFormat(features_field="a.b", label_field="/p/a.b"), Task.REGRESSION),
    (EventFormat(features_field="", label_field="a.b", weight_field="", id_field=""), Task.BINARY),
    (
        EventFormat(features_field="features", label_field="features.y", rules=FeatureRules(ignored_features=("/p",))),
        Task.BINARY,
    ),
    (EventFormat(features_field="p.after", label_field="p"), Task.BINARY),
    (EventFormat(envelope="debezium", features_field="", label_field="y"), Task.BINARY, Task.MULTICLASS),
    (EventFormat(envelope="debezium", features_field="m", label_field="m.y", weight_field="a.b"), Task.REGRESSION),
    (EventFormat(envelope="connect", features_field="", label_field="m.y"), Task.COUNTS, Task.MULTILABEL),
    (EventFormat(envelope="connect"), Task.BINARY),
    (EventFormat(positive_labels=("late", "1", "true", "7.5")), Task.BINARY),
    (EventFormat(positive_labels=("late",), features_field="p.after", label_field="weight"), Task.BINARY),
    (EventFormat(label_rule="y > 1", features_field=""), Task.BINARY),
    (EventFormat(label_rule="m.y != -7.5", features_field="p.after"), Task.BINARY),
    (EventFormat(label_rule='p.after.y <= "late"', features_field="p.after"), Task.BINARY),
    (EventFormat(), Task.MULTICLASS, Task.MULTILABEL),
    (EventFormat(features_field="", label_field="m.y"), Task.MULTICLASS, Task.MULTILABEL),
    (EventFormat(targets=TARGETS, features_field="p.after"), Task.TARGETS),
    (EventFormat(targets=TARGETS, features_field="", weight_field="y"), Task.TARGETS),
    (EventFormat(targets=TARGETS[:1]), Task.TARGETS),
]
OTHER_DECODERS = [EventDecoder(format, task, 1 << 18) for format, *tasks in OTHERS for task in tasks]


class CountingDecoder(EventDecoder):
    """Counts the messages that the fast path leaves."""

    n_left = 0

    def decode_one(self, value: bytes | None) -> Event:
        self.n_left += 1
        return super().decode_one(value)


def assert_same(decoder: EventDecoder, messages: Sequence[bytes | None]) -> None:
    """`decode` gives what `decode_one` and `hash_features` say, to the bit."""
    events: list[tuple[int, Event]] = []
    rejections = []
    n_unlabelled = 0
    for index, message in enumerate(messages):
        try:
            event = decoder.decode_one(message)
        except EventRejected as rejected:
            rejections.append((index, rejected.reason, str(rejected), rejected.key))
            continue
        if event.label is None:
            n_unlabelled += 1
        else:
            events.append((index, event))
    expected = hash_features([event.features for _, event in events], decoder.n_rows, decoder.format.rules.crosses)

    decoded = decoder.decode(messages)
    found = [(index, rejected.reason, str(rejected), rejected.key) for index, rejected in decoded.rejections]
    assert found == rejections
    assert decoded.n_unlabelled == n_unlabelled
    assert decoded.kept.tolist() == [index for index, _ in events]
    labels, classes = expect_labels(decoder, [event.label for _, event in events])
    assert decoded.classes == classes
    assert np.isnan(decoded.labels).tolist() == np.isnan(labels).tolist()
    assert_equal(np.nan_to_num(decoded.labels), np.nan_to_num(labels))
    assert_equal(decoded.weights, np.array([event.weight for _, event in events], np.float64))
    assert_equal(decoded.batch.rows, expected.rows)
    assert_equal(decoded.batch.offsets, expected.offsets)
    assert_equal(decoded.batch.values, expected.values)
    assert_equal(decoded.batch.is_number, expected.is_number)
    assert_equal(decoded.batch.fields, expected.fields)
    assert_equal(decoded.batch.sides, expected.sides)


def expect_labels(decoder: EventDecoder, labels: list[Any]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """The array of these labels, and the classes that it speaks of."""
    if decoder.task is Task.MULTICLASS:
        classes = list(dict.fromkeys(labels))
        return np.array([classes.index(label) for label in labels], np.float64), tuple(classes)
    if decoder.task is Task.MULTILABEL:
        classes = list(dict.fromkeys(name for names in labels for name in names))
        rows = [[name in names for name in classes] for names in labels]
        return np.array(rows, np.float64).reshape(len(labels), len(classes)), tuple(classes)
    shape = (-1, len(decoder.format.targets)) if decoder.format.targets else -1
    return np.array(labels, np.float64).reshape(shape), ()


def assert_same_instances(decoder: EventDecoder, instances: Sequence[bytes]) -> None:
    """`decode_instances` gives what reading them one by one gives, and the errors of those that have one."""
    expected, rejections = [], []
    for index, instance in enumerate(instances):
        try:
            expected.append(decoder.decode_instance(instance).features)
        except EventRejected as rejected:
            rejections.append((index, rejected.reason, str(rejected), rejected.key))

    decoded = decoder.decode_instances(instances, decoder.n_rows)
    assert [(index, error.reason, str(error), error.key) for index, error in decoded.rejections] == rejections
    batch = hash_features(expected, decoder.n_rows, decoder.format.rules.crosses)
    for found, wanted in zip(astuple(decoded.batch), astuple(batch), strict=True):
        assert_equal(found, wanted)


def assert_equal(found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert found.dtype == expected.dtype
    assert found.tolist() == expected.tolist()
    assert found.tobytes() == expected.tobytes()  # -0.0 is not 0.0


# --- messages: plain events, or those with something odd in them ----------------------------------------------------

SPACES = st.sampled_from([""] * 6 + [" ", "\n", "\t", "\r", " \r\n\t "])  # one an object
NAMES = ["a", "b", "price", "löwe", "id", "y", "label", "weight", "features", "timestamp", "a=b", "日本", "x" * 9, ""]
TEXTS = st.text(st.characters(exclude_characters='"\\', exclude_categories=["Cc", "Cs"]), max_size=12)
LETTERS = st.one_of(
    *(
        st.characters(max_codepoint=n, exclude_characters='"\\', exclude_categories=["Cc", "Cs"])
        for n in (127, 0x7FF, 0x20FF)
    ),
    st.sampled_from("İßΣςÅ\u030a\u0345ǅⅧ²₂ªй日🦁"),
)
NUMBERS = st.one_of(
    st.integers(-20, 20).map(str),
    st.integers(-(10**18), 10**18).map(str),
    st.floats(-1000, 1000).map(repr),
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr),
    st.from_regex(r"-?(0|[1-9][0-9]{0,9})(\.[0-9]{1,10})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
    st.sampled_from(
        ["0", "0.0", "-0.0", "1e22", "1e23", "9007199254740993", "9007199254740993.0", "0.3000000000000000"]
    ),
)
TIMES = st.one_of(
    st.datetimes().map(str),
    st.datetimes().flatmap(
        lambda moment: st.sampled_from([f"{moment.isoformat()}{zone}" for zone in ("Z", "-0930", "+14")])
    ),
    st.dates().map(str),
    st.from_regex(TIME_LIKE, fullmatch=True),
    st.sampled_from(ODD_TIMES),
)
SENTENCES = st.lists(st.text(LETTERS, max_size=3), max_size=6).map(" ".join)
VALUES = st.one_of(
    st.one_of(TEXTS, TIMES, NUMBERS, SENTENCES).map(lambda text: f'"{text}"'),
    *(NUMBERS, NUMBERS, st.sampled_from(["true", "false", "null"])),
)
LABELS = st.sampled_from(["0", "1"] * 4 + ["1.0", "-0.0", "true", "false", "null", "2", "1e200", "-7.5", '"1"'])
WEIGHTS = st.sampled_from(["0", "1", "2.5", "1e6", "0.1e-3", "-0.0", "null"] * 2 + ["1000001", "-1", "true", '"1"'])


def write(members: dict[str, str], space: str) -> str:
    """The text of an object."""
    inside = f"{space},{space}".join(f'"{name}"{space}:{space}{value}' for name, value in members.items())
    return f"{{{space}{inside}{space}}}"


@st.composite
def members(draw: st.DrawFn, min_size: int) -> dict[str, str]:
    """The names of an object and the text of their values."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=min_size, max_size=5, unique=True))
    return {name: draw(VALUES) for name in names}


@st.composite
def plain_events(draw: st.DrawFn, format: EventFormat) -> bytes:
    """Mostly what can be learned from."""
    fields = draw(members(0))
    if "weight" in fields:
        fields["weight"] = draw(WEIGHTS)
    if format.features_field:
        fields[format.features_field] = write(draw(members(1)), draw(SPACES))
    fields[format.label_field] = draw(LABELS)
    space = draw(SPACES)
    return (space + write({name: fields[name] for name in draw(st.permutations(list(fields)))}, space) + space).encode()


ODD_TEXTS = [
    *(b"\\u0061", b"\\n", b'\\"', b"\\\\", b"\\", b"\\x", b"\\ud83e\\udd81", b"\\ud800", b"x" * 513),  # escapes
    *(b"\0", b"\x1f", b"\n", b"\t", b"\x0b", b"\x0c", b"\x7f", b" ", b"\xc2\xa0", b"\xef\xbb\xbf"),
    *(
        b"\xc3",
        b"\xff",
        b"\x80",
        b"\xc0\x80",
        b"\xc1\xbf",
        b"\xe2\x82",
        b"\xe0\x9f\xbf",
        b"\xe0\xa0\x80",
    ),  # UTF-8, or not
    *(b"\xed\x9f\xbf", b"\xed\xa0\x80", b"\xf0\x8f\xbf\xbf", b"\xf0\x90\x80\x80", b"\xf0\x9f\xa6"),
    *(b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80"),
]
ODD_VALUES = [
    *b"-0 00 01 -01 1. .5 - +1 --1 1e 1e+ 1a 0x10 1_0 NaN Infinity -Infinity nul nulll True trub falsy xalse".split(),
    *b"1E-5 1e+05 1e-0 1E+00 1e0000005 1e18446744073709551617 0e999 0e-9999 1e280 1e281 -1e290 1e300 1.5e308".split(),
    *b"1e309 1e99999 1e-400 5e-324 2e-324 4503599627370497.5 9007199254741012e1 1000000.0000001".split(),
    *b"9223372036854775808 -9223372036854775808 -9223372036854775809 9999999999999999999 18446744073709551615".split(),
    *(b"18446744073709551616", b"1" + b"0" * 100, b"1" + b"0" * 101, b"1" + b"0" * 400, b"1." + b"0" * 18),
    *(b"0." + b"0" * 30 + b"1", b"0." + b"3" * 19, b"", b"{}", b"[]", b'[1,true,"x"]', b'{"a":{"b":[]}}'),
]
ODD_MARKS = [b'"', b"{", b"}", b",", b":", b"[", b"]", b"-", b".", b"e", b"1", b'"a":1,', b"}}", b",}", b"{}", b'"":']


@st.composite
def odd_events(draw: st.DrawFn, format: EventFormat) -> bytes:
    """A plain event with one or two changes."""
    message = draw(plain_events(format))
    for _ in range(draw(st.integers(1, 2))):
        begin, end, odd = draw(st.one_of(change_text(message), change_value(message), repeat(message), change(message)))
        message = message[:begin] + odd + message[end:]
    return message


Change = st.SearchStrategy[tuple[int, int, bytes]]  # bytes to be replaced, from and to, and by what


def change_text(message: bytes) -> Change:
    """Something before or behind a quote."""
    places = [at + behind for at, c in enumerate(message) if c == ord('"') for behind in (0, 1)] or [0]
    return st.tuples(st.sampled_from(places), st.sampled_from(ODD_TEXTS)).map(lambda drawn: (drawn[0], *drawn))


def change_value(message: bytes) -> Change:
    """Another value for some name."""
    spans = [match.span(1) for match in re.finditer(rb":([^,{}]*)(?=[,}])", message)] or [(0, 0)]
    return st.tuples(st.sampled_from(spans), st.sampled_from(ODD_VALUES)).map(lambda drawn: (*drawn[0], drawn[1]))


def repeat(message: bytes) -> Change:
    """A name and its value once more, somewhere."""
    pairs = re.findall(rb'"[^"]*"\s*:[^,{}]*', message) or [b'"a":1']
    places = [at + 1 for at, c in enumerate(message) if c in b"{,"] or [0]
    return st.tuples(st.sampled_from(places), st.sampled_from(pairs)).map(
        lambda drawn: (drawn[0], drawn[0], drawn[1] + b",")
    )


def change(message: bytes) -> Change:
    """Up to three bytes, anywhere."""
    odd = st.one_of(st.binary(max_size=3), st.sampled_from(ODD_MARKS))
    begins = st.integers(0, len(message))
    return st.tuples(begins, st.integers(0, 3), odd).map(lambda drawn: (drawn[0], drawn[0] + drawn[1], drawn[2]))


@st.composite
def polls(draw: st.DrawFn) -> tuple[EventDecoder, list[bytes | None]]:
    """Messages, and who is to decode them."""
    decoder = draw(st.sampled_from(DECODERS[:8]) | st.sampled_from(DECODERS))  # the usual formats more often
    plain, odd = plain_events(decoder.format), odd_events(decoder.format)
    return decoder, draw(st.lists(st.one_of(plain, odd, plain, odd, st.none() | st.binary(max_size=8)), max_size=6))


@settings(deadline=None, max_examples=300)
@given(polls())
def test_any_bytes_give_what_parsing_gives(poll: tuple[EventDecoder, list[bytes | None]]) -> None:
    assert_same(*poll)


@settings(deadline=None, max_examples=300)
@given(polls())
def test_any_instances_give_what_parsing_gives(poll: tuple[EventDecoder, list[bytes | None]]) -> None:
    decoder, messages = poll
    instances = [message or b"" for message in messages]
    assert_same_instances(decoder, instances * FEW_INSTANCES)
    for instance in instances:
        assert_same_instances(decoder, [instance] * FEW_INSTANCES)


# --- messages in other people's formats -----------------------------------------------------------------------------

JUNK = [
    *('{"type":"struct","fields":[{"type":"int32","optional":false,"field":"id"},{"a":[]}],"version":1}', "[]", "{}"),
    *('"a\\"b\\\\\\n"', '"\\u0041\\u00e4"', '"\\ud83e\\udd81"', '"löwe"', "-1.5e-7", "1700000000000", "null", "true"),
    *('[1,[2,[3,{"x":[null,true,"y"]}]],-0.0]', '["[1,2]","{}"]', '{"":{"":{}}}', '[ 1 , { "a" : [ ] } ]'),
]
ODD_JUNK = [
    *(
        '"\\ud800"',
        '"\\udd81\\ud83e"',
        '"\\x"',
        '"\\u00g0"',
        '"\t"',
        "[1,]",
        "[,1]",
        '{"a":1,}',
        '{"a"}',
        "{1:2}",
        "[1 2]",
    ),
    *("nul", "01", "1e999", "-", "NaN", "[", "]", '{"a":[}', "[" * 70 + "]" * 70, '{"a":' * 61 + "1" + "}" * 61),
    *('"', "1" * 25, "1e400", '{"a":1e999}', '"\x7f"', "[tru]", '{"a" 1}', '[{"a":1]}', "-0", "2e-400", '{"a":1}}'),
]
WAYS = ["y", "m", "a.b", "p", "features", "label", "weight", "id", "payload", "after", "schema", "a"]


@st.composite
def trees(draw: st.DrawFn, depth: int) -> str:
    """An object whose names are those of fields and of the objects on their ways, more than once at times."""
    names = draw(st.lists(st.sampled_from(WAYS + NAMES[:6]), max_size=5, unique=draw(st.integers(0, 9)) > 0))
    return "{" + ",".join(f'"{name}":{draw(tree_values(depth))}' for name in names) + "}"


def tree_values(depth: int) -> st.SearchStrategy[str]:
    """What may be at a name, fields among it."""
    scalars = st.one_of(VALUES, LABELS, st.sampled_from(['"late"', '["a","b"]', "[]", "-7.5"]), st.sampled_from(JUNK))
    return st.one_of(scalars, trees(depth - 1)) if depth else scalars


def put(tree: dict[str, Any], way: tuple[str, ...], value: str) -> None:
    """Puts a field where it belongs, unless something else is on the way."""
    for name in way[:-1]:
        inner = tree.setdefault(name, {})
        if not isinstance(inner, dict):
            return
        tree = inner
    tree[way[-1]] = value


def write_tree(draw: st.DrawFn, tree: Any) -> str:
    """The text of a tree of texts, its names in any order."""
    if isinstance(tree, str):
        return tree
    names = draw(st.permutations(list(tree)))
    return "{" + ",".join(f'"{name}":{write_tree(draw, tree[name])}' for name in names) + "}"


@st.composite
def foreign_events(draw: st.DrawFn, decoder: EventDecoder) -> bytes:
    """Events of another format, mostly such as can be learned from; with junk beside everything that is read."""
    format, fields = decoder.format, decoder.fields
    junk = st.sampled_from(JUNK) if draw(st.integers(0, 4)) else st.sampled_from(JUNK + ODD_JUNK)
    event: dict[str, Any] = {name: draw(junk) for name in draw(st.lists(st.sampled_from(["x", "z", "q"]), unique=True))}
    event = event if format.features_field else {}
    if fields.features is not None:
        put(event, draw(st.sampled_from(fields.features.ways)), {})
        holder: Any = fields.features.find(event)
    else:
        holder = event
    if isinstance(holder, dict):
        holder.update(draw(members(0)))
    labels = {Task.MULTILABEL: st.sampled_from(['["a"]', '["b","a"]', "[]", '["\\u0061"]', "[1.5]", "null"])}
    names = st.sampled_from(['"late"', '"a"', '"b"', "3", '"\\u0061"', "true", "null", "1.5", '"lat\\u0065"'])
    for place in fields.labels:
        kind = labels.get(decoder.task, st.one_of(LABELS, names, NUMBERS))
        put(event, draw(st.sampled_from(place.ways)), draw(kind))
    if fields.weight is not None and draw(st.booleans()):
        put(event, fields.weight.path, draw(WEIGHTS))
    message: Any = event
    if format.envelope:
        beside = {"debezium": ["before", "source", "op", "ts_ms"], "connect": ["schema"]}[format.envelope]
        way = draw(st.sampled_from(ENVELOPE_WAYS[format.envelope]))
        for name in reversed(way):
            message = {name: message, **{other: draw(junk) for other in beside if draw(st.booleans())}}
    text = write_tree(draw, message).encode()
    return (b"\0\0\0\0\x07" if draw(st.integers(0, 4)) == 0 else b"") + text


@st.composite
def foreign_polls(draw: st.DrawFn) -> tuple[EventDecoder, list[bytes | None]]:
    """Messages in other formats, whole, changed, and of any shape; and who is to decode them."""
    decoder = draw(st.sampled_from(OTHER_DECODERS))
    plain = foreign_events(decoder)
    changed = plain.flatmap(
        lambda message: st.one_of(change_text(message), change_value(message), change(message)).map(
            lambda drawn: message[: drawn[0]] + drawn[2] + message[drawn[1] :]
        )
    )
    shapeless = trees(3).map(str.encode)
    return decoder, draw(st.lists(st.one_of(plain, plain, changed, shapeless, st.none()), max_size=6))


@settings(deadline=None, max_examples=400)
@given(foreign_polls())
def test_any_message_of_another_format_gives_what_parsing_gives(poll: tuple[EventDecoder, list[bytes | None]]) -> None:
    assert_same(*poll)


RUNS = [
    b'{"label":1,"n":10,"features":{"a":"x"},"z":{"ts":1700,"x":[-0.5,10,"05"],"s":"1e5 \\"7\\""},"op":"c","t":20}',
    b'{"x":"1e5","label":1,"q":[100,"200"],"features":{"a":"x"},"z":1e15,"w":"\\u0041\\ud83e\\udd81","t":9}',
    b'{"features":{"a":"x"},"label":0,"id":"flight-1099","z":{"y1":5,"f":[0,0.10,-1]},"timestamp":"2013-01-01T05:15:00Z"}',
    b' { "a1" : 1 , "label" : 1 , "b2" : { } , "features" : { "a" : 1 } , "c3" : [ 1 , 20 , 300 ] } ',
]


@st.composite
def alike(draw: st.DrawFn) -> list[bytes]:
    """A message many times, each time with some of its digits changed, mostly to digits, and now and then more."""
    message = draw(st.sampled_from(RUNS))
    places = [at for at, c in enumerate(message) if chr(c).isdigit()]
    messages = [message]
    for _ in range(draw(st.integers(2, 8))):
        changed = bytearray(message)
        for at in draw(st.lists(st.sampled_from(places), max_size=4)):
            changed[at] = ord(draw(st.sampled_from("0" * 4 + "123456789" + 'e."-x')))
        if draw(st.integers(0, 4)) == 0:
            at = draw(st.integers(0, len(message) - 1))
            changed[at : at + draw(st.integers(0, 1))] = draw(st.sampled_from([b"0", b"7", b"}", b",", b'"', b" "]))
        messages.append(bytes(changed))
    return messages


ALIKE = [
    EventDecoder(EventFormat(), Task.REGRESSION, 1 << 18),
    EventDecoder(EventFormat(label_field="z.ts"), Task.REGRESSION, 1 << 18),
    EventDecoder(EventFormat(label_field="y1", weight_field="c3"), Task.REGRESSION, 1 << 18),
]


@settings(deadline=None, max_examples=500)
@given(st.sampled_from(ALIKE), alike())
def test_messages_that_differ_by_digits_give_what_parsing_gives(decoder: EventDecoder, messages: list[bytes]) -> None:
    """Runs are remembered from one to the next."""
    assert_same(decoder, messages)


@settings(deadline=None, max_examples=100)
@given(foreign_polls())
def test_any_instance_of_another_format_gives_what_parsing_gives(
    poll: tuple[EventDecoder, list[bytes | None]],
) -> None:
    decoder, messages = poll
    for message in messages:
        assert_same_instances(decoder, [message or b""] * FEW_INSTANCES)


@pytest.mark.parametrize(
    "decoder", OTHER_DECODERS, ids=lambda decoder: f"{decoder.task}-{decoder.format.label_names[-1]}"
)
def test_every_junk_beside_the_fields(decoder: EventDecoder) -> None:
    """Skipped where it is valid, and rejected as parsing does where it is not."""
    good = '{"features":{"a":"x"},"label":1,"y":1,"m":{"y":1,"a":"x"},"a":{"b":{}},'
    good += '"p":{"after":{"a":"x","y":2,"label":1},"a.b":0}'
    inner = [f'{good},"junk":{junk}}}' for junk in (*JUNK, *ODD_JUNK)]
    messages = inner
    if decoder.format.envelope:
        messages = [
            f'{{"{way[-1]}":{text},"op":"c"}}' for way in ENVELOPE_WAYS[decoder.format.envelope] for text in inner
        ]
        messages += [
            f'{{"payload":{{"after":{good}}},"source":{junk}}},"schema":{junk}}}' for junk in (*JUNK, *ODD_JUNK)
        ]
    assert_same(decoder, [message.encode() for message in messages])


PLAIN = [
    b'{"features":{"carrier":"UA","flight":"1545","distance":1400},"label":0,"id":"flight-0","timestamp":"2013-01-01"}',
    b'{"features":{"color":"blue","price":-15.26,"new":true,"old":false,"size":null},"label":1,"weight":0.5}',
    b'{"features":{"a":-1.5e-7,"b":123456789012345678,"c":0.00012345678901234567},"label":1.0}\n',
    b' { "id" : null , "label" : 1 , "features" : { "a" : "x" , "" : "" }, "weight" : null } ',
    '{"features":{"löwe":"日本語 🦁"},"label":true}'.encode(),
    b'{"features":{"a":"b","akqlrggi":1},"label":0}',  # this name's hash is -2**31
    b'{"features":{"a":-0.0,"b":0,"c":1E+3,"d":17000000000000000.0},"label":-0.0,"meta":false}',
    b'{"features":{"label":"x","weight":2,"features":3},"label":1}',
    b'{"features":{"a":1}}',
    b'{"features":{"a":1},"label":null}',
]


PLACES = [
    b'{"features":{"a":"b","@":1},"label":1}',
    b'{"features":{"a":"b@","c@d":2.5},"label":1}',
    b'{"features":{"a":"12345@","1234567@":"x"},"label":1}',
    b'{"features":{"a":"b"},"label":1,"id":"@","@":"c"}',
]
VALUE_PLACES = [
    b'{"features":{"a":@},"label":1}',
    b'{"features":{"a":"b","c":@,"d":1},"label":0}',
    b'{"features":{"a":"b"},"label":@}',
    b'{"features":{"a":"b"},"label":1,"weight":@ }',
    b'{"id":@,"features":{"a":"b"},"label":1}',
    b'{"features":@,"label":1}',
]


FIELDS = [
    *('"label":1', '"label":0', '"label":null', '"weight":2', '"weight":null', '"a":1', '"y":1', '"löwe":1', '"id":0'),
    *('"features":{"a":1,"label":0,"weight":3}', '"features":{"b":"x","löwe":0}', '"features":0'),
]


def test_every_odd_piece_in_every_place() -> None:
    messages = [place.replace(b"@", text) for place in PLACES for text in ODD_TEXTS]
    messages += [place.replace(b"@", value) for place in VALUE_PLACES for value in ODD_VALUES]
    for decoder in DECODERS:
        assert_same(decoder, messages)


def test_every_three_fields() -> None:
    """In every order, also one of them twice."""
    messages = [f"{{{','.join(fields)}}}".encode() for fields in product(FIELDS, repeat=3)]
    for decoder in DECODERS:
        assert_same(decoder, messages)


@pytest.mark.parametrize("message", PLAIN[:6], ids=range(6))
def test_every_cut_and_every_mark_in_every_place(message: bytes) -> None:
    decoder = EventDecoder(EventFormat(), Task.BINARY, 1 << 18)
    begins = range(len(message) + 1)
    assert_same(decoder, [message[:begin] for begin in begins])
    assert_same(decoder, [message[:begin] + message[begin + 1 :] for begin in begins])
    for mark in [*ODD_MARKS, b"\0", b" ", b"\x0b", b"\x80", b"\\"]:
        assert_same(decoder, [message[:begin] + mark + message[begin:] for begin in begins])
        assert_same(decoder, [message[:begin] + mark + message[begin + 1 :] for begin in begins])


@pytest.mark.parametrize("n_rows", [2, 1 << 18, 1 << 30])
def test_plain_events_are_scanned(n_rows: int) -> None:
    decoder = CountingDecoder(EventFormat(), Task.BINARY, n_rows)
    assert decoder.decode(PLAIN).n_unlabelled == 2
    assert decoder.n_left == 0
    assert_same(decoder, PLAIN)


@pytest.mark.parametrize("task", NUMERIC)
def test_whole_events_are_scanned(task: Task) -> None:
    messages = [
        b'{"a":1,"b":"x","id":7,"weight":2,"timestamp":"now","y":true,"label":1,"c":3}',
        b'{"b":"x","c":3,"y":0}',
    ]
    decoder = CountingDecoder(
        EventFormat(features_field="", label_field="y", rules=FeatureRules(ignored_features=("c", "d"))), task, 1 << 18
    )
    decoded = decoder.decode(messages)
    assert decoder.n_left == 0
    assert decoded.weights.tolist() == [2.0, 1.0]
    assert np.diff(decoded.batch.offsets).tolist() == [5, 1]  # a twice, b, label twice; b
    assert_same(decoder, messages)


PATTERNS = EventFormat(rules=FeatureRules(ignored_features=("debug_*", "user.address", "row", "l?we")))


def test_events_with_ignored_patterns_are_scanned() -> None:
    messages = [
        '{"features":{"debug_a":1,"löwe":"x","lowe":2,"row":7,"debug":3.5,"user.address":"x","row_":"y"},"label":1}'.encode(),
        b'{"features":{"debug_":"z","row":null,"color":"red","debug_a":1},"label":0}',
    ]
    decoder = CountingDecoder(PATTERNS, Task.BINARY, 1 << 18)
    for _ in range(2):  # the names are new, and known
        decoded = decoder.decode(messages)
        assert np.diff(decoded.batch.offsets).tolist() == [2, 1]  # debug, row_; color
        assert decoder.n_left == 0
    assert_same(decoder, messages)
    assert_same_instances(decoder, [b'{"debug_a":1,"color":"red"}', b'{"user.address":2,"row":1}'] * 2)


def test_a_nested_path_is_ignored_with_all_that_is_in_it() -> None:
    decoder = EventDecoder(PATTERNS, Task.BINARY, 1 << 18)
    message = b'{"features":{"user":{"address":{"city":"x"},"name":"y","debug_":1},"row":[1]},"label":1}'
    assert [name for name, _ in decoder.decode_one(message).features] == ["user.name", "user.debug_", "user.debug_"]
    assert_same(decoder, [message])


ROW = '{"id":7,"carrier":"UA","late":%s,"distance":1400}'
SOURCE = (
    '{"version":"2.7.0.Final","connector":"postgresql","name":"db","ts_ms":1700000000000,"snapshot":"false","db":"f",'
    '"sequence":"[\\"24023128\\",\\"24023128\\"]","schema":"public","table":"flights","txId":555,"lsn":24023128,"xmin":null}'
)
SCHEMA = '{"type":"struct","fields":[{"fields":[{"type":"int32","optional":false,"field":"id"}]}],"optional":false}'
CHANGES = [
    f'{{"before":null,"after":{ROW % 1},"source":{SOURCE},"transaction":null,"op":"c","ts_ms":1700000000123}}',
    f'{{"before":{ROW % 0},"after":{ROW % 0},"source":{SOURCE},"op":"u","ts_ms":1700000000123}}',
]


def test_rows_in_debezium_envelopes_are_scanned() -> None:
    """By the envelope's name, and by paths; with schema, without, with Confluent's header."""
    wrapped = [f'{{"schema":{SCHEMA},"payload":{change}}}'.encode() for change in CHANGES]
    bare = [change.encode() for change in CHANGES]
    headed = [b"\0\0\0\x01\x02" + message for message in wrapped]
    by_paths = EventFormat(
        features_field="payload.after", label_field="payload.after.late", id_field="payload.after.id"
    )
    by_name = EventFormat(envelope="debezium", features_field="", label_field="late")
    flat = EventDecoder(EventFormat(features_field="", label_field="late"), Task.BINARY, 1 << 18)
    expected = flat.decode([(ROW % 1).encode(), (ROW % 0).encode()])
    for format, messages in ((by_name, wrapped), (by_name, bare), (by_name, headed), (by_paths, wrapped)):
        decoder = CountingDecoder(format, Task.BINARY, 1 << 18)
        decoded = decoder.decode(messages)
        assert decoder.n_left == 0
        assert decoded.labels.tolist() == [1.0, 0.0]
        assert decoded.batch.rows.tolist() == expected.batch.rows.tolist()
        assert_same(decoder, messages)


def test_classes_and_lists_are_scanned() -> None:
    for task, labels in ((Task.MULTICLASS, ('"a"', '"\\u0061"', "3")), (Task.MULTILABEL, ('["a"]', "[]", '["b",3]'))):
        decoder = CountingDecoder(EventFormat(features_field="x.y", label_field="x.z"), task, 1 << 18)
        messages = [f'{{"x":{{"z":{label},"y":{{"c":"d"}}}}}}'.encode() for label in labels]
        decoder.decode(messages)
        assert decoder.n_left == 0
        assert_same(decoder, messages)


def test_names_without_end_are_decided_on_again_and_again() -> None:
    """More than the book holds, in one event and over many; what came before is decided on as before."""
    decoder = CountingDecoder(
        EventFormat(rules=FeatureRules(ignored_features=("*7*",), max_features=30_000)), Task.BINARY, 1 << 18
    )
    usual = b'{"features":{"a7":1,"b":"x"},"label":1}'
    for begin in (0, 1_000, 2_000, 22_000, 24_000):
        text = ",".join(f'"{number}":"x"' for number in range(begin, begin + (20_000 if begin == 2_000 else 2_000)))
        assert_same(decoder, [usual, f'{{"features":{{{text}}},"label":1}}'.encode(), usual])
    decoder.decode([usual])
    decoder.n_left = 0
    assert np.diff(decoder.decode([usual] * 3).batch.offsets).tolist() == [1, 1, 1]
    assert decoder.n_left == 0


def test_events_with_crosses_are_scanned() -> None:
    crosses = "löwe*price", "l* * *d", "x*y"
    messages = [
        '{"features":{"löwe":"x","price":3,"id":7.5},"label":1}'.encode(),
        b'{"features":{"a":{"d":1}},"label":1}',
    ]
    decoder = CountingDecoder(EventFormat(rules=FeatureRules(crosses=crosses)), Task.BINARY, 1 << 18)
    for n_left in (1, 2):  # the names are new, and known; what is nested is left
        assert decoder.decode(messages).batch.sides.tolist() == [
            0b000101,
            0b000010,
            0b000010,
            0b001000,
            0b001000,
            0b001000,
        ]
        assert decoder.n_left == n_left
    assert_same(decoder, messages)
    assert_same_instances(decoder, [b'{"price":1,"d":"red"}', b'{"x":2,"a":{"y":1}}'] * 2)


def test_left_ones_take_their_place_between_the_others() -> None:
    left = [
        b'{"features":{"a":{"b":1}},"label":1}',
        b'{"features":{"a":["x"],"\\u0061":2},"label":0,"weight":3}',
        b"{}",
    ]
    messages = [left[0], PLAIN[0], left[2], left[1], PLAIN[8], PLAIN[1], None, PLAIN[2], left[0]]
    decoder = CountingDecoder(EventFormat(), Task.BINARY, 1 << 18)
    decoded = decoder.decode(messages)
    assert decoder.n_left == 5
    assert decoded.kept.tolist() == [0, 1, 3, 5, 7, 8]
    assert [index for index, _ in decoded.rejections] == [2, 6]
    assert decoded.n_unlabelled == 1
    assert_same(decoder, messages)


def test_numbers_are_those_that_python_reads() -> None:
    """Of all sizes and lengths, as programs write them; the fast path leaves hardly any."""
    rng = random.Random(0)
    texts = [repr(rng.gauss(0.0, 1.0) * 10.0 ** rng.randint(-200, 90)) for _ in range(4000)]
    texts += [repr(rng.random()) for _ in range(4000)]
    texts += [f"{rng.uniform(-1e6, 1e6):.{rng.randint(1, 9)}f}" for _ in range(4000)]
    decoder = CountingDecoder(EventFormat(features_field=""), Task.REGRESSION, 2)
    decoded = decoder.decode([f'{{"x":{text},"label":{text}}}'.encode() for text in texts])
    assert decoder.n_left < 4
    assert decoded.labels.tolist() == [float(text) for text in texts]
    assert decoded.batch.values.tolist() == [float(text) for text in texts]


@pytest.mark.parametrize("n_names", [1, 500, 4096, 9000])
@pytest.mark.parametrize("repeated", [None, 0, 1])
def test_many_names(n_names: int, repeated: int | None) -> None:
    """Up to more than the set of names holds, and with the first or the last name again at the end."""
    names = [f"name-{number}" for number in range(n_names)]
    names += [] if repeated is None else [names[-1 if repeated else 0]]
    text = ",".join(f'"{name}":"{number}"' for number, name in enumerate(names))
    message = f'{{"features":{{{text}}},"label":1}}'.encode()
    decoder = EventDecoder(EventFormat(rules=FeatureRules(max_features=10_000)), Task.BINARY, 1 << 18)
    assert decoder.decode([message]).batch.offsets.tolist() == [0, n_names]
    assert_same(decoder, [message, PLAIN[0], message])


def test_plain_instances_are_scanned_for_a_table_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = EventDecoder(EventFormat(label_field="y"), Task.BINARY, 1 << 18)
    instances = [b'{"carrier": "UA", "y": 3, "distance": 1400.5}', b'{"label": 1, "weight": -2.5}', b'{"a": null}']

    def read(instance: bytes) -> Event:
        raise AssertionError(f"{instance!r} was left")

    monkeypatch.setattr(decoder, "decode_instance", read)
    batch = decoder.decode_instances(instances, 64).batch
    expected = hash_features([decoder.read_features(msgspec.json.decode(one)) for one in instances], 64)
    assert batch.rows.tolist() == expected.rows.tolist()
    assert batch.offsets.tolist() == expected.offsets.tolist()


def test_no_messages() -> None:
    decoder = EventDecoder(EventFormat(), Task.BINARY, 2)
    assert_same(decoder, [])
    assert decoder.decode([]).batch.offsets.tolist() == [0]

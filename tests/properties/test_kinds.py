"""Kinds of features in the compiled fast path: the same as by the long way, and hardly anything is left to that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flexihash.consumer.wire import EventFormat
from flexihash.model.features import FeatureRules
from flexihash.model.tasks import Task
from tests.properties.test_scan import CountingDecoder, assert_same, assert_same_instances
from tests.properties.times import ODD_TIMES

KINDS = ("categorical_features", "numeric_features", "time_features", "text_features", "missing_features")
NUMBERS = (
    *(
        "0",
        "-0",
        "0.0",
        "-0.0",
        "0.00",
        "7",
        "-7",
        "7.5",
        "-7.25",
        "7.50",
        "1e3",
        "1E-5",
        "0.00001",
        "0.0001",
        "0.12",
        "10.0",
    ),
    *("123456789012345", "12345678901234.5", "1234567890123.45", "123456789.0123456", "0.1234567890123456", "1e16"),
    *("1700000000", "1700000000.5", "1700000000000", "1700000000000000", "1700000000000000000", "99999999999999999999"),
    *("1e11", "1e14", "1e17", "1e20", "-62135596801", "123456789012345678", "0.1e1", "100.0", "5e-324", "1e300"),
)
TEXTS = (
    *(
        "The cat, the CAT!",
        "don't",
        "snake_case e-mail",
        "",
        "...",
        "Ä ä A\u0308 ÄRGER",
        "ΣΟΦΟΣ σοφός",
        "İstanbul Straße",
        "日本 x",
    ),
    *(
        "Привет, МИР",
        "“quoted” — 5€ …",
        "a b c d e f",
        "a a a b",
        "x²y",
        "ªbc",
        "ǅ",
        "a\u00a0b",
        "हिन्दी",
        "שלום עולם",
        "مرحبا",
    ),
)
ESCAPED = (
    *(
        r"a\nb",
        r"\"Quoted\" A\/B",
        r"caf\u00e9 caf\u00C9 \u00e9",
        r"\u2014x\u20ac",
        r"\u65e5\u672c",
        r"e\u0301",
        r"\u0130x",
    ),
    *(
        r"\u0061\u0041",
        r"\ud83e\udd81",
        r"\ud800",
        r"\udc00",
        r"\u00zz",
        r"\x41",
        r"\u12",
        "\\",
        r"a\\",
        r"\u0000a",
        r"\t",
    ),
    *(
        r"abcdefg\u00e9h",
        r"abcdef\u00e9\u00e9h",
        r"2024-01-01\u0020",
        r"\u0032024-01-01",
        r"\b\f\r",
        r"1\u0030",
        r"\u005cn",
    ),
)
VALUES = (*NUMBERS, "true", "false", "null", *(f'"{text}"' for text in (*ODD_TIMES, *TEXTS, *ESCAPED, *NUMBERS)))


def decoder_of(n_rows: int = 1 << 18, **rules: Any) -> CountingDecoder:
    return CountingDecoder(EventFormat(rules=FeatureRules(**rules)), Task.BINARY, n_rows)


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
@pytest.mark.parametrize("kind", [*KINDS, "crosses"])
def test_every_value_of_every_kind(kind: str, zone: str) -> None:
    patterns = ("k*x",) if kind == "crosses" else ("k",)
    messages = [f'{{"features":{{"a":"x","k":{value},"x":1}},"label":1}}'.encode() for value in VALUES]
    assert_same(decoder_of(time_zone=zone, **{kind: patterns}), messages)
    others = dict.fromkeys(KINDS[KINDS.index(kind) :], ("k",)) if kind in KINDS else {"time_features": ("k",)}
    assert_same(decoder_of(time_zone=zone, max_words=2, **{**others, kind: patterns}), messages)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("categorical_features", ("7", "-7.25", "0.0", "12345678901234.5", '"x"', "true", '"2024-01-01"', "null")),
        ("numeric_features", ("7", "7.5", '"19.90"', '"-3"', '"x"', '"unknown 5"', '""', '"nan"', "false", '"1e3"')),
        (
            "time_features",
            ("1700000000", "1.7e9", '"1700000000000"', '"2024-01-01"', '"x"', '"2024-01-01T10:00:00.5+05:30"'),
        ),
        (
            "text_features",
            (
                "7",
                '"The cat,\\nthe \\"CAT\\" \\u00c9!"',
                '"The cat, the CAT!"',
                '"Ärger Привет “q” — 5€"',
                '""',
                "null",
            ),
        ),
        ("missing_features", ("null", "7", '"x"')),
    ],
)
def test_kinds_are_scanned(kind: str, values: tuple[str, ...]) -> None:
    messages = [f'{{"features":{{"a":"x","k":{value},"b":2}},"label":1}}'.encode() for value in values]
    decoder = decoder_of(**{kind: ("k*",)})
    for _ in range(2):  # the name is new, and known
        decoder.decode(messages)
        assert decoder.n_left == 0
    assert_same(decoder, messages)


def test_times_are_scanned_without_a_setting() -> None:
    decoder = decoder_of()
    message = (
        b'{"features":{"at":"2024-02-29T10:00:00Z","on":"2024-02-29","x":"2024-02-30","y":"abcd-ef-gh"},"label":1}'
    )
    decoded = decoder.decode([message])
    assert decoder.n_left == 0
    assert np.diff(decoded.batch.offsets).tolist() == [4 + 2 + 1 + 1]
    assert decoded.batch.values[[0, 4]].tolist() == [1709200800.0, 1709164800.0]
    assert_same(decoder, [message])


def test_a_part_of_a_time_is_a_feature_like_others() -> None:
    """It may be crossed, left out and missing by its name; its name is new to the book once."""
    rules = {"crosses": ("at.hour*x", "*.weekday * *"), "ignored_features": ("at.hour_of_week",)}
    decoder = decoder_of(**rules, missing_features=("at.hour", "z"))
    messages = [
        b'{"features":{"at":"2024-02-29T10:00:00Z","x":"1"},"label":1}',
        b'{"features":{"at":"2024-02-29","at.hour":3},"label":1}',
        b'{"features":{"x":null,"z":null},"label":1}',
    ]
    for _ in range(2):
        batch = decoder.decode(messages).batch
        assert decoder.n_left == 0
        assert np.diff(batch.offsets).tolist() == [3 + 1 + 2, 2 + 2 + 1, 2]
        assert batch.sides[:4].tolist() == [0b1000, 0b1001, 0b1100, 0b1010]
    assert_same(decoder, messages)
    assert_same_instances(decoder, [b'{"at":"2024-02-29T10:00:00Z"}', b"{}", b'{"z":1}'])


def test_names_that_are_expected_are_missed() -> None:
    decoder = decoder_of(missing_features=("a", "user.age", "löwe", "*?"), crosses=("a*b",))
    messages = [
        b'{"features":{"b":1},"label":1}',
        b'{"features":{"x":null},"label":0}',
        b'{"features":{"a":null,"user.age":2}}',
    ]
    messages += ['{"features":{"löwe":"x","a":1.5,"user.age":null},"label":1}'.encode(), messages[1]]
    assert np.diff(decoder.decode(messages).batch.offsets).tolist() == [5, 4, 3, 4]
    assert decoder.n_left == 0
    assert_same(decoder, messages)
    assert_same(decoder, [b'{"features":{"user":{"age":1},"a":{}},"label":1}', b'{"features":{"user":[1]},"label":1}'])


def test_long_texts_and_many_words() -> None:
    decoder = decoder_of(text_features=("t",), max_words=1_000, max_features=2_000)
    texts = [" ".join(f"w{k % n}" for k in range(3 * n)) for n in (1, 10, 999, 1_000, 1_001, 1_500)]
    messages = [f'{{"features":{{"t":"{text}","n":1}},"label":1}}'.encode() for text in texts]
    assert np.diff(decoder.decode(messages).batch.offsets).tolist() == [3, 12, 1_001, 1_002, 1_002, 1_002]
    assert decoder.n_left == 0
    assert_same(decoder, messages)
    assert_same(decoder_of(text_features=("t",), max_features=100), messages)


def test_every_letter_that_is_scanned_is_what_python_says() -> None:
    decoder = decoder_of(text_features=("t",), max_features=10_000, max_words=1_000)
    letters = [chr(code) for code in (*range(0x20, 0x800), *range(0x2000, 0x2100)) if chr(code) not in '"\\']
    letters += [f"\\u{code:04x}" for code in (*range(0x800), *range(0x2000, 0x2100))]
    messages = [f'{{"features":{{"t":"Ab{letter}c {letter}"}},"label":1}}'.encode() for letter in letters]
    assert_same(decoder, messages)
    assert decoder.n_left - len(messages) < 680  # marks that join letters, and few others


@pytest.mark.parametrize("n_messages", [1, 2, 50])
def test_more_times_than_there_is_room_for_are_left(n_messages: int) -> None:
    """Four features for five bytes, and more for none where names are expected."""
    decoder = decoder_of(time_features=("*",), missing_features=tuple(f"m{k}" for k in range(40)))
    members = ",".join(f'"{chr(97 + k)}":0' for k in range(26))
    messages = [b'{"features":{%b},"label":1}' % members.encode()] * n_messages
    decoded = decoder.decode(messages)
    assert np.diff(decoded.batch.offsets).tolist() == [26 * 4 + 40] * n_messages
    assert decoder.n_left < max(n_messages, 2) // 2
    assert_same(decoder, messages)

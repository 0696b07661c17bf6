"""Texts as words, and nothing as a category."""

from __future__ import annotations

from typing import Any

import pytest

from flexihash.model.features import Feature, FeatureRules, flatten
from flexihash.model.texts import find_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat, the CAT!", ["the", "cat"]),
        ("don't 3.5 snake_case e-mail", ["don", "t", "3", "5", "snake", "case", "e", "mail"]),
        ("", []),
        (" \t\n--- …", []),
        ("ÄRGER Ärger A\u0308rger", ["ärger"]),
        ("Straße STRASSE", ["straße", "strasse"]),
        ("ΣΟΦΟΣ", ["σοφος"]),
        ("İstanbul", ["i\u0307stanbul"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("Привет, МИР", ["привет", "мир"]),
        ("東京 2024年", ["東京", "2024年"]),
        ("“quoted” — 5€", ["quoted", "5"]),
        ("a\u0301 á", ["á"]),
        ("🦁lion", ["lion"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert find_words(text, 100) == words


def test_the_first_words_count() -> None:
    assert find_words("a b a c d", 3) == ["a", "b", "c"]


def features_of(features: dict[str, Any], **rules: Any) -> list[Feature]:
    return flatten(features, FeatureRules(**rules))


def test_texts_are_sets_of_categories() -> None:
    event = {"title": "Red Car", "tags": ["Red Car", 3], "body": {"title": "red"}}
    assert features_of(event, text_features=("title", "tags*", "*.title"), max_words=2) == [
        ("title", "red"),
        ("title", "car"),
        ("tags", "red"),
        ("tags", "car"),
        ("tags.1", 3.0),
        ("tags.1", "3"),
        ("body.title", "red"),
    ]
    assert features_of({"title": None, "n": True}, text_features=("*",)) == [("n", "true")]


def test_nothing_may_mean_something() -> None:
    missing = {"missing_features": ("a*", "user.age", "x")}
    assert features_of({"a": None, "b": None, "ab": [None], "x": {}, "user": {"age": 1.5}}, **missing) == [
        ("a", "missing"),
        ("ab.0", "missing"),
        ("user.age", 1.5),
    ]
    assert features_of({}, **missing) == [("user.age", "missing"), ("x", "missing")]
    assert features_of({"user": 3.5, "x": "y"}, **missing) == [("user", 3.5), ("x", "y"), ("user.age", "missing")]
    assert features_of({"user.age": None, "x": []}, **missing) == [("user.age", "missing")]
    assert features_of({}, **missing, ignored_features=("user.*",)) == [("x", "missing")]
    assert features_of({"a": "..."}, missing_features=("a",), text_features=("a",)) == [("a", "missing")]

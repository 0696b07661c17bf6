"""Paths: what they lead to, and what is left when what they lead to is taken away."""

from __future__ import annotations

from typing import Any

import pytest

from flexihash.consumer.fields import Fields
from flexihash.consumer.paths import ABSENT, Place, parse_path, plant, prune


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("label", ("label",)),
        ("payload.after.status", ("payload", "after", "status")),
        ("/payload/after/a.b", ("payload", "after", "a.b")),
        ("/a~1b/m~0n/~01", ("a/b", "m~n", "~1")),
        ("/", ("",)),
        ("a..b", ("a", "", "b")),
    ],
)
def test_how_a_path_is_written(text: str, path: tuple[str, ...]) -> None:
    assert parse_path(text) == path


EVENT: dict[str, Any] = {
    "a": {"b": {"c": 1}, "x.y": 2, "list": [{"c": 3}], "nothing": None},
    "a.b.c": 4,
    "/a/list": 5,
    "plain": False,
}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("plain", False),
        ("a.b", {"c": 1}),
        ("a.b.c", 4),  # the name at the top comes first
        ("/a/b/c", 1),
        ("/a/x.y", 2),
        ("a.x.y", ABSENT),
        ("/a/list", 5),
        ("a.list.0.c", ABSENT),  # no path leads into an array
        ("a.nothing", None),
        ("a.nothing.more", ABSENT),
        ("plain.more", ABSENT),
        ("b", ABSENT),
    ],
)
def test_what_lies_at_a_place(text: str, found: Any) -> None:
    assert Place.of(text).find(EVENT) is found or Place.of(text).find(EVENT) == found


def test_what_a_tree_leaves() -> None:
    tree = plant([("a", "b", "c"), ("a", "b"), ("plain",), ("a", "list", "0"), ("gone", "deep"), ("a", "b", "d")])
    assert tree == {"a": {"b": None, "list": {"0": None}}, "plain": None, "gone": {"deep": None}}
    left = prune(EVENT, tree)
    assert left == {
        "a": {"x.y": 2, "list": [{"c": 3}], "nothing": None},
        "a.b.c": 4,
        "/a/list": 5,
    }
    assert list(left["a"]) == ["x.y", "list", "nothing"]  # in their order
    assert "b" in EVENT["a"]


@pytest.mark.parametrize(
    ("features", "label", "ignored", "left_out"),
    [
        ("features", "label", (), {}),
        ("", "label", (), {"label": None, "weight": None, "id": None, "timestamp": None}),
        ("", "a.y", ("/b/c", "d.e"), {"a.y": None, "a": {"y": None}, "b": {"c": None}}),
        ("features", "features.y", ("/features/x", "features.z"), {"y": None, "x": None}),
        ("p.after", "p.after.y", ("p.after.z", "/p/after/u.v"), {"y": None, "z": None, "u.v": None}),
        ("p.after", "p.y", ("after",), {}),
        ("label", "label", (), {}),
    ],
)
def test_what_is_no_feature_wherever_it_lies(
    features: str, label: str, ignored: tuple[str, ...], left_out: dict[str, Any]
) -> None:
    found = Fields([label], "weight", "id", features, ignored).left_out
    if not features:
        left_out = {"weight": None, "id": None, "timestamp": None, **left_out}
    assert found == left_out

"""Trees trained anew on all the past, as a peer; where the extra `bench` is installed."""

from __future__ import annotations

import math
import random

import msgspec
import pytest

from flexihash.model.tasks import Task

pytest.importorskip("vowpalwabbit")
pytest.importorskip("lightgbm")

from bench.peers import all_peers
from bench.peers.boosting import PEERS, boosted_predictions, columns

N_EVENTS = 2_000


def messages(n_events: int) -> list[bytes]:
    """A label by a threshold and a category; from the half on with a category that was never seen before."""
    chance = random.Random(0)
    events = []
    for number in range(n_events):
        x, color = chance.random(), chance.choice("ab") if number < n_events // 2 else chance.choice("abc")
        features = {"color": color} if number % 10 == 0 else {"x": x, "color": color}
        events.append({"features": features, "label": int((x > 0.5) == (color == "a"))})
    return [msgspec.json.encode(event) for event in events]


def test_it_is_among_the_peers() -> None:
    peers, reasons = all_peers()
    assert set(PEERS) <= set(peers)
    assert not [reason for reason in reasons if "LightGBM" in reason]


def test_each_portion_is_predicted_by_a_model_of_those_before_it() -> None:
    given = messages(N_EVENTS)
    predicted = boosted_predictions(Task.BINARY, given)
    first = N_EVENTS // 20
    assert all(map(math.isnan, predicted[:first]))
    assert all(0.0 < p < 1.0 for p in predicted[first:])
    labels = [msgspec.json.decode(message)["label"] for message in given]
    late = slice(N_EVENTS // 2 - first, N_EVENTS // 2)
    hits = [(p > 0.5) == label for p, label in zip(predicted[late], labels[late], strict=True)]
    assert sum(hits) > 0.8 * first

    changed = [*given[:-1], msgspec.json.encode({"features": {"x": 0.1, "color": "a"}, "label": 1})]
    assert boosted_predictions(Task.BINARY, changed)[first:-1] == predicted[first:-1]


def test_what_is_scored_is_what_it_predicts() -> None:
    (peer,) = PEERS
    for n_events in (578, 1_001, 1_250, N_EVENTS, 327_346):
        assert peer.scored(n_events) == slice(n_events // 20, n_events)
    assert peer.portion(N_EVENTS, N_EVENTS) == "from 5% on"


def test_an_absent_feature_is_missing_and_a_string_is_a_number_by_its_first_appearance() -> None:
    events = [{"features": {"c": "u", "x": 2}, "label": 1}, {"features": {"c": "v"}, "label": 0}]
    X, y, categories = columns(events)
    assert X[0].tolist() == [0.0, 2.0]
    assert X[1, 0] == 1.0
    assert math.isnan(X[1, 1])
    assert y.tolist() == [1.0, 0.0]
    assert categories == [0]

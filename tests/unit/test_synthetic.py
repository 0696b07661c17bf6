"""The synthetic stream is what it says: a stream whose truth is known."""

import math
from itertools import islice
from statistics import fmean, pstdev

import pytest

from flexihash.producer import SyntheticStream, synthetic
from flexihash.producer.synthetic import COLORS, NEW_USER_SHARE, NOISE_SD, SHAPES

N = 40_000


def test_the_same_seed_gives_the_same_events_and_another_seed_others() -> None:
    events = list(synthetic(200, seed=3))
    assert events == list(synthetic(200, seed=3)) == list(islice(synthetic(None, seed=3), 200))
    assert events != list(synthetic(200, seed=4))
    assert SyntheticStream(3).color_weights != SyntheticStream(4).color_weights


def test_an_event_has_its_fields() -> None:
    *_, event = synthetic(62)
    assert event["id"] == "synthetic-61"
    assert event["timestamp"] == "2024-01-01T00:01:01Z"
    assert event["label"] in (0, 1)
    features = event["features"]
    assert features["color"] in COLORS
    assert features["shape"] in SHAPES
    assert str(features["user"]).startswith("u")
    assert isinstance(features["price"], float)
    assert features["price"] > 0
    assert set(features) == {"color", "shape", "user", "price"}


def test_the_score_is_the_sum_of_the_known_weights() -> None:
    stream = SyntheticStream(seed=1, drift_at=10)
    features: dict[str, str | float] = {"color": "red", "shape": "star", "user": "u1010", "price": math.exp(3.0)}
    color, rest = stream.color_weights["red"], stream.pair_weights["red", "star"] + stream.user_weights[1] + 1.5
    assert stream.score(features, 9) == pytest.approx(color + rest)
    assert stream.score(features, 10) == pytest.approx(-color + rest)
    assert stream.probability(features, 9) == pytest.approx(1 / (1 + math.exp(-color - rest)))
    trough = features | {"price": math.exp(3.0 + math.pi / 2)}
    assert stream.score(features, 0) - stream.score(trough, 0) == pytest.approx(3.0)


def test_labels_follow_the_probabilities_before_and_after_the_drift() -> None:
    stream = SyntheticStream()
    events = list(islice(stream, N))
    probabilities = [stream.probability(event["features"], index) for index, event in enumerate(events)]
    for start, stop in ((0, stream.drift_at), (stream.drift_at, N)):
        labels = [event["label"] for event in events[start:stop]]
        loss = fmean(
            -math.log(p if label else 1.0 - p) for label, p in zip(labels, probabilities[start:stop], strict=True)
        )
        assert fmean(labels) == pytest.approx(fmean(probabilities[start:stop]), abs=0.01)
        assert loss == pytest.approx(stream.bayes_loss(start, stop), abs=0.01)


def test_who_misses_the_drift_pays_for_it() -> None:
    stream, unchanged = SyntheticStream(), SyntheticStream(drift_at=N)
    after = range(stream.drift_at, N)
    losses = []
    for index, event in zip(after, islice(stream, stream.drift_at, N), strict=True):
        p = unchanged.probability(event["features"], index)
        losses.append(-math.log(p if event["label"] else 1.0 - p))
    assert fmean(losses) > stream.bayes_loss(stream.drift_at, N) + 0.15


def test_regression_labels_are_the_score_and_noise() -> None:
    stream = SyntheticStream(task="regression")
    errors = [event["label"] - stream.score(event["features"], index) for index, event in enumerate(islice(stream, N))]
    assert fmean(errors) == pytest.approx(0.0, abs=0.02)
    assert pstdev(errors) == pytest.approx(NOISE_SD, rel=0.02)
    assert fmean(map(abs, errors)) == pytest.approx(stream.bayes_loss(0, N), rel=0.02)


def test_a_tenth_of_the_events_bring_a_new_user() -> None:
    seen: set[str | float] = set()
    n_new = 0
    for event in synthetic(N):
        n_new += event["features"]["user"] not in seen
        seen.add(event["features"]["user"])
    assert n_new / N == pytest.approx(NEW_USER_SHARE, abs=0.005)
    assert seen == {f"u{n}" for n in range(n_new)}

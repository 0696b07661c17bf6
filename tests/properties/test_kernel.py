"""The kernel against the formulas, and what must hold for every stream."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexihash.model.config import SINGLE_TASKS, ModelConfig
from flexihash.model.features import Batch, FeatureRules, flatten, hash_features
from flexihash.model.kernel import experts, rows
from flexihash.model.online import OnlineModel
from flexihash.model.reference import ReferenceModel
from flexihash.model.tables import METRICS_PREFIX, Tables
from flexihash.model.tasks import Task

RULES = FeatureRules()
TASKS = st.sampled_from(sorted(SINGLE_TASKS))
NAMES = st.sampled_from(["a", "b", "c", "price", "löwe"])
VALUES = st.one_of(
    st.sampled_from(["x", "y", "z"]),
    st.floats(-10, 10),
    st.integers(-5, 5),
    st.booleans(),
    st.none(),
)
WILD_VALUES = st.one_of(VALUES, st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([1e300, -1e300, 0.0]))
WEIGHTS = st.sampled_from([0.0, 0.5, 1.0, 1.0, 3.0])
ROWS = st.sampled_from([2, 8, 1 << 10])
CROSSES = st.sampled_from([(), ("*",), ("a*price", "b * l*")])


def label_for(task: Task, unit: float) -> float:
    """A label of the task from a number in [0, 1]."""
    if task is Task.BINARY:
        return float(unit > 0.5)
    return float(math.floor(unit * 6)) if task is Task.COUNTS else 4 * unit - 1


STREAMS = st.lists(
    st.tuples(st.dictionaries(NAMES, VALUES, max_size=5), st.floats(0, 1), WEIGHTS), min_size=1, max_size=30
)


def hash_events(events: list[dict[str, Any]], n_rows: int, crosses: tuple[str, ...] = ()) -> Batch:
    return hash_features([flatten(event, RULES) for event in events], n_rows, crosses)


def make_model(task: Task, n_rows: int, crosses: tuple[str, ...] = ()) -> OnlineModel:
    return OnlineModel(Tables.create(ModelConfig(task=task, n_rows=n_rows, quantile=0.3, crosses=crosses)))


def snapshot(model: OnlineModel) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.tables.tensors.items()}


@settings(deadline=None, max_examples=60)
@given(
    task=TASKS,
    n_rows=ROWS,
    crosses=CROSSES,
    stream=STREAMS,
    far=st.lists(st.sampled_from([1.0, 1.0, 1.0, 30.0, 1e4]), min_size=1),
)
def test_kernel_equals_the_formulas(
    task: Task,
    n_rows: int,
    crosses: tuple[str, ...],
    stream: list[tuple[dict[str, Any], float, float]],
    far: list[float],
) -> None:
    """Every step, from the state the kernel is in: all tasks, weights, numbers, and colliding rows (tables of 2).

    Some labels are out of reach, by factors `far`.
    """
    model = make_model(task, n_rows, crosses)
    batch = hash_events([features for features, _, _ in stream], n_rows, crosses)
    for event, (_, unit, weight) in enumerate(stream):
        reference = ReferenceModel(model.tables)
        label = label_for(task, unit) * (1.0 if task is Task.BINARY else far[event % len(far)])
        expected = reference.learn(batch, event, label, weight)
        one = hash_events([stream[event][0]], n_rows, crosses)
        learned = model.learn(one, np.array([label]), np.array([weight]))
        assert learned.predictions[0] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        table = model.tables.tensors["table"].double()
        close = {"rtol": 1e-4, "atol": 2e-6}
        torch.testing.assert_close(table[:, : experts.DIM], reference.embeddings.data, **close)
        torch.testing.assert_close(table[:, rows.WEIGHTS], reference.weights.data, **close)
        variances = table[:, rows.WEIGHT_VARIANCES]
        torch.testing.assert_close(variances, reference.weight_variances, **close)
        variances = table[:, rows.EMBEDDING_VARIANCES]
        torch.testing.assert_close(variances, reference.embedding_variances, **close)
        torch.testing.assert_close(table[:, rows.QUICK], reference.quick, **close)
        torch.testing.assert_close(table[:, rows.QUICK_VARIANCE], reference.quick_variances, **close)
        assert not table[:, rows.LINEAR : rows.WEIGHT_VARIANCE].any()
        torch.testing.assert_close(model.tables.tensors["state"], reference.state, **close)
        torch.testing.assert_close(model.tables.tensors["touched"], reference.touched)


@settings(deadline=None, max_examples=60)
@given(task=TASKS, n_rows=ROWS, crosses=CROSSES, stream=STREAMS, cuts=st.lists(st.integers(0, 30), max_size=5))
def test_any_cut_of_a_stream_gives_equal_bits(
    task: Task,
    n_rows: int,
    crosses: tuple[str, ...],
    stream: list[tuple[dict[str, Any], float, float]],
    cuts: list[int],
) -> None:
    labels = np.array([label_for(task, unit) for _, unit, _ in stream])
    weights = np.array([weight for _, _, weight in stream])
    whole, cut = make_model(task, n_rows, crosses), make_model(task, n_rows, crosses)
    at_once = whole.learn(hash_events([features for features, _, _ in stream], n_rows, crosses), labels, weights)
    bounds = [0, *sorted(min(c, len(stream)) for c in cuts), len(stream)]
    in_parts = [
        cut.learn(
            hash_events([f for f, _, _ in stream[begin:end]], n_rows, crosses), labels[begin:end], weights[begin:end]
        )
        for begin, end in pairwise(bounds)
    ]
    assert snapshot(whole) == snapshot(cut)
    assert at_once.predictions.tobytes() == np.concatenate([part.predictions for part in in_parts]).tobytes()


@settings(deadline=None, max_examples=60)
@given(task=TASKS, n_rows=ROWS, crosses=CROSSES, stream=STREAMS)
def test_predict_changes_nothing_and_foretells_learn(
    task: Task, n_rows: int, crosses: tuple[str, ...], stream: list[tuple[dict[str, Any], float, float]]
) -> None:
    model = make_model(task, n_rows, crosses)
    for features, unit, weight in stream:
        batch = hash_events([features], n_rows, crosses)
        before = snapshot(model)
        predicted = model.predict(batch).values
        embedding = model.embed(batch)
        assert snapshot(model) == before
        assert embedding.shape == (1, experts.DIM)
        learned = model.learn(batch, np.array([label_for(task, unit)]), np.array([weight]))
        assert learned.predictions.tobytes() == predicted.tobytes()


@settings(deadline=None, max_examples=100)
@given(
    task=TASKS,
    n_rows=ROWS,
    crosses=CROSSES,
    stream=st.lists(
        st.tuples(
            st.dictionaries(NAMES, WILD_VALUES, max_size=6),
            st.sampled_from([0.0, 1.0, 3.0, -7.5, 1e12, -1e12, 1e100, -1e100]),
            st.sampled_from([0.0, 1.0, 1e-9, 1e6]),
        ),
        min_size=1,
        max_size=60,
    ),
)
def test_nothing_is_ever_not_finite(
    task: Task, n_rows: int, crosses: tuple[str, ...], stream: list[tuple[dict[str, Any], float, float]]
) -> None:
    model = make_model(task, n_rows, crosses)
    batch = hash_events([features for features, _, _ in stream], n_rows, crosses)
    labels = np.array([abs(label) if task is Task.COUNTS else label for _, label, _ in stream])
    if task is Task.BINARY:
        labels = np.float64(labels > 0)
    learned = model.learn(batch, labels, np.array([weight for _, _, weight in stream]))
    assert np.isfinite(learned.predictions).all()
    for name, tensor in model.tables.tensors.items():
        if not name.startswith(METRICS_PREFIX):
            assert torch.isfinite(tensor.double()).all(), name
    after = model.predict(batch)
    assert np.isfinite(after.values).all()
    assert np.isfinite(after.scores).all()
    if task is Task.BINARY:
        assert ((after.values >= 0) & (after.values <= 1)).all()


@settings(deadline=None, max_examples=60)
@given(task=TASKS, crosses=CROSSES, stream=STREAMS, data=st.data())
def test_order_of_features_does_not_matter_to_the_prediction(
    task: Task, crosses: tuple[str, ...], stream: list[tuple[dict[str, Any], float, float]], data: st.DataObject
) -> None:
    model = make_model(task, 1 << 10, crosses)
    events = [features for features, _, _ in stream]
    model.learn(hash_events(events, 1 << 10, crosses), np.array([label_for(task, unit) for _, unit, _ in stream]))
    shuffled = [dict(data.draw(st.permutations(list(event.items())))) for event in events]
    one = model.predict(hash_events(events, 1 << 10, crosses))
    other = model.predict(hash_events(shuffled, 1 << 10, crosses))
    np.testing.assert_allclose(one.values, other.values, rtol=1e-5, atol=1e-5)


def test_a_step_that_would_not_stay_finite_is_not_written() -> None:
    model = make_model(Task.REGRESSION, 8)
    batch = hash_events([{"a": "x", "b": "y"}] * 3, 8)
    model.learn(batch, np.zeros(3))
    model.tables.tensors["table"][:, : experts.DIM] = 3e37  # what no stream reaches
    before = snapshot(model)
    learned = model.learn(hash_events([{"a": "x", "b": "y"}], 8), np.array([1.0]))
    assert not learned.is_learned[0]
    assert snapshot(model) == before

"""Many classes, labels and targets: the kernel against the formulas, and what must hold for every stream."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexihash.model.config import ModelConfig
from flexihash.model.kernel import experts, rows
from flexihash.model.online import OnlineModel
from flexihash.model.reference_classes import ReferenceClasses
from flexihash.model.tables import METRICS_PREFIX, Tables
from flexihash.model.tasks import Task
from tests.properties.test_kernel import NAMES, VALUES, WEIGHTS, WILD_VALUES, hash_events, snapshot

N_CLASSES = 12  # more than lie side by side
TARGETS = {"late": Task.BINARY, "delay": Task.REGRESSION, "seats": Task.COUNTS, "most": Task.QUANTILE}
TASKS = st.sampled_from([Task.MULTICLASS, Task.MULTILABEL, Task.TARGETS])
ROWS = st.sampled_from([2, 16, 1 << 12])
CROSSES = st.sampled_from([(), ("*",)])


def make_stream(values: st.SearchStrategy[Any], most: int = 25) -> Any:
    event = st.tuples(st.dictionaries(NAMES, values, max_size=5), st.integers(0, 1 << 24), WEIGHTS)
    return st.lists(event, min_size=1, max_size=most)


def make_model(task: Task, n_rows: int, crosses: tuple[str, ...] = ()) -> OnlineModel:
    targets = TARGETS if task is Task.TARGETS else {}
    config = ModelConfig(task=task, n_rows=n_rows, crosses=crosses, max_classes=N_CLASSES, targets=targets)
    return OnlineModel(Tables.create(config))


def make_labels(task: Task, drawn: list[int]) -> NDArray[np.float64]:
    """Labels from numbers below 2^24: classes in the order in which they come; some events and targets have none."""
    if task is Task.MULTICLASS:
        numbers: dict[int, int] = {}
        return np.array([numbers.setdefault(bits % N_CLASSES, len(numbers)) for bits in drawn], np.float64)
    if task is Task.MULTILABEL:
        most = np.maximum.accumulate([bits % (N_CLASSES + 1) for bits in drawn])  # labels known by then
        bits = np.array(drawn)[:, None] >> np.arange(N_CLASSES) & 1
        return np.where(np.arange(N_CLASSES) < most[:, None], bits, 0).astype(np.float64)
    columns = np.array([[bits & 1, bits % 7 - 3, bits >> 3 & 7, bits % 11] for bits in drawn], np.float64)
    columns[(np.array(drawn)[:, None] >> np.arange(8, 12) & 1) == 0] = np.nan
    return columns


@settings(deadline=None, max_examples=20)
@given(n_rows=ROWS, crosses=CROSSES, stream=make_stream(VALUES, most=12))
def test_kernel_equals_the_formulas_for_classes(n_rows: int, crosses: tuple[str, ...], stream: Any) -> None:
    model = make_model(Task.MULTICLASS, n_rows, crosses)
    labels = make_labels(Task.MULTICLASS, [bits for _, bits, _ in stream])
    for (features, _, weight), label in zip(stream, labels, strict=True):
        reference = ReferenceClasses(model.tables)
        batch = hash_events([features], n_rows, crosses)
        expected = reference.learn(batch, 0, label, weight)
        learned = model.learn(batch, np.array([label]), np.array([weight]))
        assert learned.predictions[0, 0] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        table = model.tables.tensors["table"].double()
        close = {"rtol": 1e-4, "atol": 3e-6}
        torch.testing.assert_close(table[:, : experts.DIM], reference.embeddings.data, **close)
        torch.testing.assert_close(table[:, rows.WEIGHTS], reference.weights.data, **close)
        torch.testing.assert_close(table[:, rows.WEIGHT_VARIANCES], reference.weight_variances, **close)
        torch.testing.assert_close(table[:, rows.EMBEDDING_VARIANCES], reference.embedding_variances, **close)
        torch.testing.assert_close(table[:, rows.QUICK], reference.quick, **close)
        torch.testing.assert_close(table[:, rows.QUICK_VARIANCE], reference.quick_variances, **close)
        torch.testing.assert_close(table[:, rows.LINEAR], reference.linear, **close)
        torch.testing.assert_close(table[:, rows.LINEAR + 1], reference.linear_gone, **close)
        states = model.tables.tensors["state"].view_as(reference.states)
        torch.testing.assert_close(states, reference.states, **close)
        torch.testing.assert_close(model.tables.tensors["touched"], reference.touched)


@settings(deadline=None, max_examples=20)
@given(
    task=TASKS, n_rows=ROWS, crosses=CROSSES, stream=make_stream(VALUES), cuts=st.lists(st.integers(0, 25), max_size=5)
)
def test_any_cut_of_a_stream_gives_equal_bits(
    task: Task, n_rows: int, crosses: tuple[str, ...], stream: Any, cuts: list[int]
) -> None:
    labels = make_labels(task, [bits for _, bits, _ in stream])
    weights = np.array([weight for _, _, weight in stream])
    batches = [features for features, _, _ in stream]
    whole, cut = make_model(task, n_rows, crosses), make_model(task, n_rows, crosses)
    at_once = whole.learn(hash_events(batches, n_rows, crosses), labels, weights)
    bounds = [0, *sorted(min(c, len(stream)) for c in cuts), len(stream)]
    in_parts = [
        cut.learn(hash_events(batches[begin:end], n_rows, crosses), labels[begin:end], weights[begin:end])
        for begin, end in pairwise(bounds)
    ]
    assert snapshot(whole) == snapshot(cut)
    assert at_once.predictions.tobytes() == np.concatenate([part.predictions for part in in_parts]).tobytes()


@settings(deadline=None, max_examples=20)
@given(task=TASKS, n_rows=ROWS, crosses=CROSSES, stream=make_stream(VALUES))
def test_predict_changes_nothing_and_foretells_learn(
    task: Task, n_rows: int, crosses: tuple[str, ...], stream: Any
) -> None:
    model = make_model(task, n_rows, crosses)
    labels = make_labels(task, [bits for _, bits, _ in stream])
    for (features, _, weight), label in zip(stream, labels, strict=True):
        batch = hash_events([features], n_rows, crosses)
        before = snapshot(model)
        (predicted,) = model.predict(batch).values
        assert snapshot(model) == before
        (found,) = model.learn(batch, label[None], np.array([weight])).predictions
        if task is Task.MULTICLASS:
            assert found[0] == (predicted[int(label)] if label < len(predicted) else 0.0)
            assert found[1] == (predicted.argmax() if len(predicted) else -1)
            assert not len(predicted) or predicted.sum() == pytest.approx(1.0)
        else:
            assert found[: len(predicted)].tobytes() == predicted.tobytes()
            assert np.isnan(found[len(predicted) :]).all()


@settings(deadline=None, max_examples=30)
@given(task=TASKS, n_rows=ROWS, crosses=CROSSES, stream=make_stream(WILD_VALUES, most=50))
def test_nothing_is_ever_not_finite(task: Task, n_rows: int, crosses: tuple[str, ...], stream: Any) -> None:
    model = make_model(task, n_rows, crosses)
    batch = hash_events([features for features, _, _ in stream], n_rows, crosses)
    labels = make_labels(task, [bits for _, bits, _ in stream])
    model.learn(batch, labels, np.array([weight * 1e3 for _, _, weight in stream]))
    for name, tensor in model.tables.tensors.items():
        if not name.startswith(METRICS_PREFIX):
            assert torch.isfinite(tensor.double()).all(), name
    after = model.predict(batch)
    assert np.isfinite(after.values).all()
    assert np.isfinite(after.scores).all()


@pytest.mark.parametrize("task", [Task.MULTICLASS, Task.MULTILABEL, Task.TARGETS])
def test_a_step_that_would_not_stay_finite_is_not_written(task: Task) -> None:
    model = make_model(task, 8)
    batch = hash_events([{"a": "x", "b": "y"}] * 4, 8)
    model.learn(batch, make_labels(task, [0xF03, 0xF01, 0xF02, 0xF03]))
    model.tables.tensors["table"][:, : experts.DIM] = 3e37  # what no stream reaches
    before = snapshot(model)
    learned = model.learn(hash_events([{"a": "x", "b": "y"}], 8), make_labels(task, [0xF03]))
    assert not learned.is_learned[0]
    assert snapshot(model) == before

"""Classes that arrive on the way: how soon they are known, what becomes of rare ones, and of what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flexihash.model.config import ModelConfig
from flexihash.model.features import FeatureRules, flatten, hash_features
from flexihash.model.model_errors import ConfigurationError
from flexihash.model.online import OnlineModel
from flexihash.model.outputs import admit
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task

N_ROWS = 1 << 14
RNG = np.random.default_rng(7)


def make_model(**config: Any) -> OnlineModel:
    return OnlineModel(Tables.create(ModelConfig(task=Task.MULTICLASS, n_rows=N_ROWS, **config)))


def make_events(classes: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Each class has a colour of its own nine times in ten, and a size around its number."""
    colours = np.where(RNG.random(len(classes)) < 0.9, classes, RNG.integers(5, 30, len(classes)))
    sizes = classes + RNG.normal(size=len(classes))
    return [
        {"colour": f"c{c}", "size": float(s), "day": int(d)}
        for c, s, d in zip(colours, sizes, RNG.integers(0, 7, len(classes)), strict=True)
    ]


def learn(model: OnlineModel, classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, 2): the probability that each true class was given, and the most probable class."""
    batch = hash_features([flatten(event, FeatureRules()) for event in make_events(classes)], N_ROWS)
    return model.learn(batch, classes.astype(np.float64)).predictions


def test_a_class_that_first_appears_late_is_predicted_within_twenty_of_its_events() -> None:
    old = RNG.integers(0, 5, 10_000)
    new = RNG.integers(0, 6, 400)
    model = make_model()
    learn(model, old)
    found = learn(model, new)[new == 5]
    is_right = found[:, 1] == 5
    assert found[0, 0] == 0.0
    assert is_right[5:20].mean() > 0.5, is_right
    assert is_right[20:].mean() > 0.8, is_right.mean()


def test_a_class_of_one_in_ten_thousand_does_not_vanish() -> None:
    classes = RNG.integers(0, 4, 300_000)
    rare = np.arange(5_000, 300_000, 10_000)
    classes[:4] = range(4)
    classes[rare] = 4
    found = learn(make_model(), classes)
    assert found[rare[20:], 0].mean() > 0.1, found[rare, 0]  # a thousand times its share
    others = np.delete(classes, rare)[1_000:]
    assert (np.delete(found, rare, 0)[1_000:, 1] == others).mean() > 0.94


def test_one_class_only() -> None:
    model = make_model()
    found = learn(model, np.zeros(50, np.int64))
    assert found[0].tolist() == [0.0, -1.0]
    assert (found[1:, 0] == 1.0).all()
    assert np.isfinite(model.tables.tensors["state"].numpy()).all()


def test_without_an_event_there_is_no_class() -> None:
    model = make_model()
    batch = hash_features([flatten({"colour": "c1"}, FeatureRules())], N_ROWS)
    assert model.predict(batch).values.shape == (1, 0)


def take(
    model: OnlineModel, labels: Sequence[float], classes: Sequence[str]
) -> tuple[list[float], list[tuple[int, str]]]:
    admitted = model.admit(np.array(labels, np.float64), classes)
    return admitted.labels.tolist(), [(place, reason) for place, reason, _ in admitted.refused]


def test_classes_are_numbered_as_they_come() -> None:
    model = make_model(max_classes=3)
    assert take(model, [0, 1, 0], ['"a"', '"b"']) == ([0, 1, 0], [])
    assert take(model, [0, 1], ['"b"', '"c"']) == ([1, 2], [])
    assert take(model, [1, 0], ['"d"', '"a"'])[1] == [(1, "too_many_classes")]
    again = OnlineModel(model.tables)
    assert take(again, [0, 1], ['"c"', '"a"']) == ([2, 0], [])


def test_a_class_of_another_type_is_refused() -> None:
    model = make_model()
    take(model, [0], ['"3"'])
    assert take(model, [0, 1, 2], ["3", '"x"', "true"])[1] == [(0, "bad_label"), (2, "bad_label")]


def test_what_a_model_of_many_outputs_may_be() -> None:
    for wrong in ({"max_classes": 1}, {"max_classes": 1001}, {"targets": {"a": Task.BINARY}}):
        with pytest.raises(ConfigurationError):
            make_model(**wrong)
    for targets in ({}, {"a": Task.MULTICLASS}, {str(k): Task.BINARY for k in range(17)}):
        with pytest.raises(ConfigurationError):
            ModelConfig(task=Task.TARGETS, targets=targets)


def test_events_without_labels_count_before_any_is_known() -> None:
    model = OnlineModel(Tables.create(ModelConfig(task=Task.MULTILABEL, n_rows=N_ROWS, max_classes=4)))
    batch = hash_features([flatten({"size": 1.5}, FeatureRules())] * 3, N_ROWS)
    learned = model.learn(batch, np.array([[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]], np.float64))
    assert learned.is_learned.all()
    assert model.n_events == 3
    assert model.predict(batch).values.shape == (3, 1)


def test_one_target_is_learned_as_several_are() -> None:
    model = OnlineModel(Tables.create(ModelConfig(task=Task.TARGETS, n_rows=N_ROWS, targets={"late": Task.BINARY})))
    features = {f"f{k}": 0.5 * k for k in range(16)}  # as many as are multiplied
    batch = hash_features([flatten(features, FeatureRules())] * 200, N_ROWS)
    model.learn(batch, np.ones((200, 1)))
    assert model.predict(batch).values.shape == (200, 1)
    assert model.predict(batch).values[0, 0] > 0.9


def test_labels_are_columns_of_the_model() -> None:
    config = ModelConfig(task=Task.MULTILABEL, n_rows=N_ROWS, max_classes=4)
    model = OnlineModel(Tables.create(config))
    assert model.classes is not None
    labels = np.array([[1, 0], [np.nan, np.nan], [0, 1]])
    assert admit(config, model.classes, labels, ['"x"', '"y"']).labels[0].tolist() == [1, 0, 0, 0]
    admitted = admit(config, model.classes, labels, ['"y"', '"z"'])
    assert admitted.labels[[0, 2]].tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]
    assert np.isnan(admitted.labels[1]).all()

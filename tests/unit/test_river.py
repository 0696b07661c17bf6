"""River's own checks, and River's evaluation, on our estimators."""

from __future__ import annotations

import copy
import datetime
import doctest
import itertools
import pickle
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from river import checks, datasets, evaluate, metrics, stream
from sklearn import datasets as sk_datasets

from flexihash.model import estimators, several_estimators
from flexihash.model.estimators import FlexiHashClassifier, FlexiHashRegressor
from flexihash.model.model_errors import LabelError
from flexihash.model.several_estimators import FlexiHashMultiLabelClassifier, FlexiHashMultiTargetRegressor

ESTIMATORS = [FlexiHashClassifier, FlexiHashRegressor, FlexiHashMultiLabelClassifier, FlexiHashMultiTargetRegressor]


def songs(n: int) -> Iterator[tuple[dict[str, float], dict[str, bool]]]:
    """Events of several labels, in the shape of River's Music, which River would download."""
    features, labels = sk_datasets.make_multilabel_classification(n, n_features=20, n_classes=6, random_state=0)
    for x, y in zip(features.tolist(), labels.tolist(), strict=True):
        yield (
            {f"feature {k}": value for k, value in enumerate(x)},
            {f"mood {k}": bool(is_so) for k, is_so in enumerate(y)},
        )


class Songs:
    """What River's checks take for it."""

    def take(self, n: int) -> Iterator[Any]:
        return songs(n)


datasets.Music = Songs
CASES = [
    pytest.param(estimator(**params), check, id=f"{estimator.__name__}-{check.__name__}-{index}")
    for estimator in ESTIMATORS
    for params in estimator._unit_test_params()
    for index, check in enumerate(checks.yield_checks(estimator(**params)))
]


@pytest.mark.parametrize(("estimator", "check"), CASES)
def test_passes_rivers_check(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator.clone())


def test_progressive_validation_of_the_classifier() -> None:
    scores = metrics.LogLoss() + metrics.ROCAUC()
    loss, auc = evaluate.progressive_val_score(datasets.Phishing(), FlexiHashClassifier(), scores)
    assert loss.get() == pytest.approx(0.225, abs=0.003)
    assert auc.get() > 0.95


def test_progressive_validation_of_the_regressor() -> None:
    score = evaluate.progressive_val_score(datasets.TrumpApproval(), FlexiHashRegressor(), metrics.MAE())
    assert score.get() == pytest.approx(0.2983, rel=0.01)


def test_learning_by_rows_is_learning_one_by_one() -> None:
    pairs = list(datasets.TrumpApproval().take(50))
    one, many = FlexiHashRegressor(n_rows=1 << 10), FlexiHashRegressor(n_rows=1 << 10)
    for x, y in pairs:
        one.learn_one(x, y)
    features = pd.DataFrame([x for x, _ in pairs])
    many.learn_many(features, pd.Series([y for _, y in pairs]))
    assert many.predict_many(features).tolist() == [one.predict_one(x) for x, _ in pairs]


def digits(n: int) -> list[tuple[dict[str, float], int]]:
    return list(itertools.islice(stream.iter_sklearn_dataset(sk_datasets.load_digits()), n))


def test_progressive_validation_of_many_classes() -> None:
    scores = metrics.CrossEntropy() + metrics.Accuracy()
    loss, accuracy = evaluate.progressive_val_score(datasets.ImageSegments(), FlexiHashClassifier(), scores)
    assert loss.get() < 0.3
    assert accuracy.get() > 0.90


def test_a_label_is_what_the_user_gave() -> None:
    labels = [("a", 1), "a", 2, 3.5, frozenset({1}), datetime.date(2026, 1, 1)]
    model = FlexiHashClassifier(n_rows=1 << 10)
    for _ in range(20):
        for k, label in enumerate(labels):
            model.learn_one({"x": f"value {k}"}, label)
    for k, label in enumerate(labels):
        assert model.predict_one({"x": f"value {k}"}) is label
        probabilities = model.predict_proba_one({"x": f"value {k}"})
        assert list(probabilities) == labels
        assert sum(probabilities.values()) == pytest.approx(1.0)


def test_classes_that_begin_with_0_and_1_are_classes_from_their_first_event_on() -> None:
    events = digits(60)
    assert [label for _, label in events[:4]] == [0, 1, 2, 3]
    numbers, texts = FlexiHashClassifier(n_rows=1 << 12), FlexiHashClassifier(n_rows=1 << 12)
    for x, label in events:
        numbers.learn_one(x, label)
        texts.learn_one(x, str(label))
    said = texts.predict_proba_one(events[0][0])
    assert numbers.predict_proba_one(events[0][0]) == {int(text): p for text, p in said.items()}


@pytest.mark.parametrize("rows", [1, 300])
def test_a_late_third_class_is_learned_with_the_last_1_000_events(rows: int) -> None:
    rng = np.random.default_rng(0)
    x = pd.DataFrame({"a": rng.normal(size=1500), "b": rng.choice(list("uvw"), 1500)})
    y = pd.Series(rng.random(1500) < 0.5 + 0.3 * np.sign(x["a"]))
    late, fresh = FlexiHashClassifier(n_rows=1 << 12), FlexiHashClassifier(n_rows=1 << 12)
    for begin in range(0, 1500, rows):
        late.learn_many(x[begin : begin + rows], y[begin : begin + rows])
    assert list(late.predict_proba_one({"a": 0.5})) == [False, True]
    late.learn_one({"a": 0.5, "b": "z"}, "neither")
    n_kept = 1000 if rows == 1 else 1200  # whole frames
    fresh.learn_many(x[-n_kept:], y[-n_kept:].map({False: "no", True: "yes"}))
    fresh.learn_one({"a": 0.5, "b": "z"}, "neither")
    said = fresh.predict_proba_one({"a": 0.5})
    assert late.predict_proba_one({"a": 0.5}) == {
        {"no": False, "yes": True}.get(name, name): p for name, p in said.items()
    }


@pytest.mark.parametrize("label", [None, float("nan"), ["a"]])
def test_what_is_no_label_is_refused_and_changes_nothing(label: Any) -> None:
    model = FlexiHashClassifier(n_rows=1 << 10)
    model.learn_one({"x": 1.0}, True)
    with pytest.raises(LabelError, match="is no class"):
        model.learn_one({"x": 1.0}, label)
    assert list(model.predict_proba_one({"x": 1.0})) == [False, True]


def test_no_more_classes_than_there_may_be() -> None:
    model = FlexiHashClassifier(n_rows=1 << 10, max_classes=2)
    model.learn_one({"x": 1.0}, "a")
    model.learn_one({"x": 2.0}, "b")
    with pytest.raises(LabelError, match="'c' would be one class more than the 2 of max_classes"):
        model.learn_one({"x": 3.0}, "c")
    assert list(model.predict_proba_one({"x": 1.0})) == ["a", "b"]


def test_rows_of_many_classes_are_learned_one_by_one() -> None:
    events = digits(80)
    one, many = FlexiHashClassifier(n_rows=1 << 12), FlexiHashClassifier(n_rows=1 << 12)
    for x, label in events:
        one.learn_one(x, label)
    frame = pd.DataFrame([x for x, _ in events])
    many.learn_many(frame, pd.Series([label for _, label in events]))
    probabilities = many.predict_proba_many(frame)
    assert probabilities.iloc[7].to_dict() == one.predict_proba_one(events[7][0])
    assert many.predict_many(frame).tolist() == [one.predict_one(x) for x, _ in events]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_goes_on_as_the_original(copied: Callable[[Any], Any]) -> None:
    events = digits(60)
    original = FlexiHashClassifier(n_rows=1 << 12)
    for n, (x, label) in enumerate(events):
        if n in (2, 30):  # binary still, and of many classes
            copy_of = copied(original)
        original.learn_one(x, label)
        if n >= 2:
            copy_of.learn_one(x, label)
    assert copy_of.predict_proba_one(events[0][0]) == original.predict_proba_one(events[0][0])


def test_several_labels() -> None:
    accuracy = metrics.multioutput.MicroAverage(metrics.Accuracy())
    evaluate.progressive_val_score(songs(1000), FlexiHashMultiLabelClassifier(), accuracy)
    assert accuracy.get() > 0.76  # River's chain of scaled regressions: 0.768; the more frequent answers: 0.673
    model = FlexiHashMultiLabelClassifier(n_rows=1 << 10)
    assert model.predict_one({"x": "a"}) == {}
    for _ in range(30):
        model.learn_one({"x": "a"}, {1: True, "never": False})
        model.learn_one({"x": "b"}, {2.5: True})
    assert model.predict_one({"x": "a"}) == {1: True, "never": False, 2.5: False}
    assert model.predict_one({"x": "b"}) == {1: False, "never": False, 2.5: True}
    assert model.predict_proba_one({"x": "b"})["never"][True] < 0.1


def test_several_targets() -> None:
    model = FlexiHashMultiTargetRegressor(n_rows=1 << 10)
    assert model.predict_one({"x": "a"}) == {}
    for _ in range(50):
        model.learn_one({"x": "a"}, {"cost": 10.0, "time": -3.0})
        model.learn_one({"x": "b"}, {"cost": 20.0})
    predicted = model.predict_one({"x": "a"})
    assert list(predicted) == ["cost", "time"]
    assert predicted["cost"] == pytest.approx(10.0, abs=0.5)
    assert predicted["time"] == pytest.approx(-3.0, abs=0.1)
    assert model.predict_one({"x": "b"})["cost"] == pytest.approx(20.0, abs=0.5)
    with pytest.raises(LabelError, match=r"target 'speed' is not one of those of the first event, \['cost', 'time'\]"):
        model.learn_one({"x": "a"}, {"speed": 1.0})
    with pytest.raises(LabelError, match="is not a finite number"):
        model.learn_one({"x": "a"}, {"cost": float("inf")})


@pytest.mark.parametrize("module", [estimators, several_estimators])
def test_the_examples_of_the_docstrings_run(module: ModuleType) -> None:
    failed, attempted = doctest.testmod(module)
    assert attempted >= 6
    assert failed == 0

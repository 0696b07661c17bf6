"""River's own checks, and River's evaluation, on our estimators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from river import checks, datasets, evaluate, metrics

from flexihash.model.estimators import FlexiHashClassifier, FlexiHashRegressor

ESTIMATORS = [FlexiHashClassifier, FlexiHashRegressor]
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
    import pandas as pd

    pairs = list(datasets.TrumpApproval().take(50))
    one, many = FlexiHashRegressor(n_rows=1 << 10), FlexiHashRegressor(n_rows=1 << 10)
    for x, y in pairs:
        one.learn_one(x, y)
    features = pd.DataFrame([x for x, _ in pairs])
    many.learn_many(features, pd.Series([y for _, y in pairs]))
    assert many.predict_many(features).tolist() == [one.predict_one(x) for x, _ in pairs]

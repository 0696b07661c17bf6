"""River's linear models, trees and forests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from river import compose, facto, forest, linear_model, preprocessing, tree

from bench.peers.peer import SEED, Peer, Predict, Prepare, parse
from flexihash.model.tasks import Task

N_TREES = 10  # of the forest: its default


def river_binary(model: Any, messages: Sequence[bytes]) -> list[float]:
    """Run one of River's classifiers; 0.5 where it has no opinion yet."""
    predictions = []
    for message in messages:
        event = parse(message)
        predictions.append(float(model.predict_proba_one(event["features"]).get(True, 0.5)))
        model.learn_one(event["features"], bool(event["label"]))
    return predictions


def river_regression(model: Any, messages: Sequence[bytes]) -> list[float]:
    """Run one of River's regressors."""
    predictions = []
    for message in messages:
        event = parse(message)
        predictions.append(float(model.predict_one(event["features"])))
        model.learn_one(event["features"], event["label"])
    return predictions


def river(classifier: Callable[[], Any], regressor: Callable[[], Any]) -> Prepare:
    """The classifier or the regressor, by the task."""

    def prepare(task: Task, messages: Sequence[bytes]) -> Predict:
        if task is Task.BINARY:
            return lambda: river_binary(classifier(), messages)
        return lambda: river_regression(regressor(), messages)

    return prepare


def scaled(model: Any) -> Any:
    """River's usual pipeline: numbers standardized, strings as indicators. Whatever fits a linear model needs it."""
    numbers = compose.SelectType(int, float) | preprocessing.StandardScaler()
    strings = compose.SelectType(str) | preprocessing.OneHotEncoder(drop_zeros=True)
    return (numbers + strings) | model


PEERS = (
    Peer(
        "River",
        "LR",
        river(lambda: scaled(linear_model.LogisticRegression()), lambda: scaled(linear_model.LinearRegression())),
    ),
    Peer(
        "River",
        "FM",
        river(lambda: scaled(facto.FMClassifier(seed=SEED)), lambda: scaled(facto.FMRegressor(seed=SEED))),
        n_flights=40_000,
        n_stream=5_000,
    ),
    Peer(
        "River",
        "HAT",
        river(
            lambda: tree.HoeffdingAdaptiveTreeClassifier(seed=SEED),
            lambda: scaled(tree.HoeffdingAdaptiveTreeRegressor(seed=SEED)),
        ),
        n_flights=50_000,
        n_stream=20_000,
    ),
    Peer(
        "River",
        f"ARF of {N_TREES}",
        river(
            lambda: forest.ARFClassifier(n_models=N_TREES, seed=SEED),
            lambda: scaled(forest.ARFRegressor(n_models=N_TREES, seed=SEED)),
        ),
        n_flights=10_000,
        n_stream=3_000,
    ),
)
"""Regression trees of River have linear models in their leaves: they are scaled too."""

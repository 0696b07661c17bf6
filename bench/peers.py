"""Other online learners on the same events: Vowpal Wabbit, River, scikit-learn.

A peer is a function `(task, events) -> predictions`. Each event is predicted before it is learned from, in stream
order, from the raw event, with the library's defaults: nothing is tuned, for nobody. A binary prediction is the
probability of 1.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from river import compose, forest, linear_model, preprocessing, tree
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import SGDClassifier, SGDRegressor
from vowpalwabbit import Workspace

from bench.streams import Event
from model.config import Task

Predict = Callable[[Task, Sequence[Event]], list[float]]

N_SLOW_EVENTS = 50_000  # the longest stream for a peer of 0.1 to 4 ms an event
N_SLOWEST_EVENTS = 10_000  # and for one of 4 to 10 ms
N_TREES = 10
SEED = 1
VW_ALGORITHMS = {"default": "", "--ftrl": "--ftrl", "--coin": "--coin"}
VW_SEPARATORS = str.maketrans(" :|\n", "____")  # characters that mean something in VW's text format


@dataclass(frozen=True)
class Peer:
    """A learner to compare with.

    Args:
        library: whose it is.
        name: which configuration.
        predict: runs it over a stream.
        slow: left out when only the fast peers are asked for.
        n_events_max: the longest stream it is run on; None for no limit.
    """

    library: str
    name: str
    predict: Predict
    slow: bool = False
    n_events_max: int | None = None


def vw_line(task: Task, event: Event) -> str:
    """An event in VW's text format, all its features in one namespace."""
    label = event["label"] if task is not Task.BINARY else 1 if event["label"] else -1
    return f"{label} |f " + " ".join(vw_features(event["features"]))


def vw_features(features: Mapping[str, Any]) -> Iterator[str]:
    """Strings as categories `k=v`, numbers as `k:v`."""
    for name, value in features.items():
        if isinstance(value, str):
            yield f"{name}={value}".translate(VW_SEPARATORS)
        else:
            yield f"{name.translate(VW_SEPARATORS)}:{float(value)}"


def vw(options: str) -> Predict:
    """Vowpal Wabbit with these options, through its Python API."""

    def predict(task: Task, events: Sequence[Event]) -> list[float]:
        loss = "--loss_function logistic --link logistic" if task is Task.BINARY else "--loss_function squared"
        workspace = Workspace(f"--quiet {loss} {options}")
        predictions = []
        for event in events:
            example = workspace.example(vw_line(task, event))
            predictions.append(float(workspace.predict(example)))
            workspace.learn(example)
            workspace.finish_example(example)
        workspace.finish()
        return predictions

    return predict


def river_binary(model: Any, events: Sequence[Event]) -> list[float]:
    """Run one of River's classifiers; 0.5 where it has no opinion yet."""
    predictions = []
    for event in events:
        predictions.append(float(model.predict_proba_one(event["features"]).get(True, 0.5)))
        model.learn_one(event["features"], bool(event["label"]))
    return predictions


def river_regression(model: Any, events: Sequence[Event]) -> list[float]:
    """Run one of River's regressors."""
    predictions = []
    for event in events:
        predictions.append(float(model.predict_one(event["features"])))
        model.learn_one(event["features"], event["label"])
    return predictions


def river(classifier: Callable[[], Any], regressor: Callable[[], Any]) -> Predict:
    """The classifier or the regressor, by the task."""

    def predict(task: Task, events: Sequence[Event]) -> list[float]:
        if task is Task.BINARY:
            return river_binary(classifier(), events)
        return river_regression(regressor(), events)

    return predict


def scaled(model: Any) -> Any:
    """River's usual pipeline: numbers standardized, strings as indicators. Whatever fits a linear model needs it."""
    numbers = compose.SelectType(int, float) | preprocessing.StandardScaler()
    strings = compose.SelectType(str) | preprocessing.OneHotEncoder(drop_zeros=True)
    return (numbers + strings) | model


def scikit_learn(task: Task, events: Sequence[Event]) -> list[float]:
    """FeatureHasher and SGD, one `partial_fit` an event.

    SGD raises once raw numbers have made its weights overflow: the predictions from there on are NaN.
    """
    rows = FeatureHasher(alternate_sign=False).transform(event["features"] for event in events)
    predictions = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # overflow, a little before the ValueError
        try:
            for prediction in sgd_predictions(task, rows, [event["label"] for event in events]):
                predictions.append(prediction)  # noqa: PERF402 (those made before an error are kept)
        except ValueError:
            predictions += [math.nan] * (len(events) - len(predictions))
    return predictions


def sgd_predictions(task: Task, rows: Any, labels: Sequence[float]) -> Iterator[float]:
    """One prediction a row, 0.5 or 0 before anything is learned."""
    if task is Task.BINARY:
        classifier = SGDClassifier(loss="log_loss")
        for i, label in enumerate(labels):
            yield float(classifier.predict_proba(rows[i])[0, 1]) if i else 0.5
            classifier.partial_fit(rows[i], [label], classes=[0, 1])
    else:
        regressor = SGDRegressor()
        for i, label in enumerate(labels):
            yield float(regressor.predict(rows[i])[0]) if i else 0.0
            regressor.partial_fit(rows[i], [label])


PEERS: tuple[Peer, ...] = (
    *(
        Peer("VW", f"{name}{suffix}", vw(algorithm + interactions))
        for interactions, suffix in (("", ""), (" -q ::", " -q"))
        for name, algorithm in VW_ALGORITHMS.items()
    ),
    Peer(
        "River",
        "linear",
        river(lambda: scaled(linear_model.LogisticRegression()), lambda: scaled(linear_model.LinearRegression())),
    ),
    Peer(
        "River",
        "HAT",
        river(
            lambda: tree.HoeffdingAdaptiveTreeClassifier(seed=SEED),
            lambda: scaled(tree.HoeffdingAdaptiveTreeRegressor(seed=SEED)),
        ),
        slow=True,
        n_events_max=N_SLOW_EVENTS,
    ),
    Peer(
        "River",
        "ARF",
        river(
            lambda: forest.ARFClassifier(n_models=N_TREES, seed=SEED),
            lambda: scaled(forest.ARFRegressor(n_models=N_TREES, seed=SEED)),
        ),
        slow=True,
        n_events_max=N_SLOW_EVENTS,
    ),
    Peer("scikit-learn", "SGD", scikit_learn, slow=True, n_events_max=N_SLOWEST_EVENTS),
)
"""Every peer, in the order they are run. Regression trees have linear models in their leaves: they are scaled too."""

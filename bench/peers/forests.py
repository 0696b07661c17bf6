"""CapyMOA's forests, the best on streams; they run in Java."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from shutil import which
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.peers.peer import SEED, Peer, Predict, Prepare, parse
from flexihash.model.tasks import Task

N_TREES = 100


def capymoa(classifier: str | None, regressor: str | None) -> Prepare:
    """One of its ensembles; it is told beforehand which features the events have, and which values."""

    def prepare(task: Task, messages: Sequence[bytes]) -> Predict:
        from capymoa import classifier as classifiers
        from capymoa import regressor as regressors

        is_binary = task is Task.BINARY
        name = classifier if is_binary else regressor
        assert name is not None
        schema, names, numbers = capymoa_schema(task, [parse(message) for message in messages])
        model = getattr(classifiers if is_binary else regressors, name)(
            schema=schema, ensemble_size=N_TREES, random_seed=SEED
        )
        return lambda: capymoa_predictions(task, model, schema, names, numbers, messages)

    return prepare


def capymoa_schema(
    task: Task, events: Sequence[Mapping[str, Any]]
) -> tuple[Any, list[str], dict[str, dict[str, float]]]:
    """MOA's description of a stream, its features in order, and for each with names the number of each name."""
    from capymoa.stream import Schema

    names, numbers = number_names(events)
    target = (
        {"values_for_class_label": ["0", "1"]}
        if task is Task.BINARY
        else {"target_attribute_name": "label", "target_type": "numeric"}
    )
    nominal = {name: list(known) for name, known in numbers.items()}
    feature_names = names if task is Task.BINARY else [*names, "label"]
    schema = Schema.from_custom(feature_names=feature_names, values_for_nominal_features=nominal, **target)
    return schema, names, numbers


def number_names(events: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[str, dict[str, float]]]:
    """The features of a stream, in order, and for each with names the number of each name."""
    numbers: dict[str, dict[str, float]] = {}
    names = list(dict.fromkeys(name for event in events for name in event["features"]))
    for event in events:
        for name, value in event["features"].items():
            if isinstance(value, str):
                known = numbers.setdefault(name, {})
                known.setdefault(value, float(len(known)))
    return names, numbers


def to_array(
    features: Mapping[str, Any], names: Sequence[str], numbers: Mapping[str, Mapping[str, float]]
) -> NDArray[np.float64]:
    """An event as MOA takes it; NaN where it lacks a feature. (len(names),)"""
    x = np.full(len(names), np.nan)
    for place, name in enumerate(names):
        if name in features:
            known = numbers.get(name)
            x[place] = known[features[name]] if known else features[name]
    return x


def capymoa_arrays(
    events: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> tuple[Any, list[NDArray[np.float64]]]:
    """MOA's description of a stream of many classes, and its events."""
    from capymoa.stream import Schema

    names, numbers = number_names(events)
    nominal = {name: list(known) for name, known in numbers.items()}
    schema = Schema.from_custom(
        feature_names=names, values_for_nominal_features=nominal, values_for_class_label=list(classes)
    )
    return schema, [to_array(event["features"], names, numbers) for event in events]


def capymoa_predictions(
    task: Task,
    model: Any,
    schema: Any,
    names: Sequence[str],
    numbers: Mapping[str, Mapping[str, float]],
    messages: Sequence[bytes],
) -> list[float]:
    """Each event's votes as a probability, or the prediction; 0.5 or 0 where it has no opinion yet."""
    from capymoa.instance import LabeledInstance, RegressionInstance

    predictions = []
    for message in messages:
        event = parse(message)
        x = to_array(event["features"], names, numbers)
        if task is Task.BINARY:
            instance = LabeledInstance.from_array(schema, x, int(event["label"]))
            votes = model.predict_proba(instance)
            total = 0.0 if votes is None else float(sum(votes))
            predictions.append(0.5 if not total > 0.0 else float(votes[1]) / total if len(votes) > 1 else 0.0)
        else:
            instance = RegressionInstance.from_array(schema, x, float(event["label"]))
            predicted = model.predict(instance)
            predictions.append(0.0 if predicted is None else float(predicted))
        model.train(instance)
    return predictions


def missing() -> str | None:
    """Why they can't be run here, and what to do; None where they can."""
    if which("java") is None:
        return "CapyMOA: there is no java; install one, such as openjdk-17-jre-headless"
    if find_spec("capymoa") is None:
        return "CapyMOA is not installed: pip install -c constraints.txt 'flexihash[bench]'"
    return None


PEERS = (
    Peer(
        "CapyMOA",
        f"ARF of {N_TREES}",
        capymoa("AdaptiveRandomForestClassifier", "AdaptiveRandomForestRegressor"),
        n_flights=1_500,
        n_stream=5_000,
    ),
    Peer(
        "CapyMOA",
        f"SRP of {N_TREES}",
        capymoa("StreamingRandomPatches", None),
        n_flights=1_500,
        n_stream=5_000,
        tasks=(Task.BINARY,),
    ),
)

"""The peers on many classes, and on labels: the probability that each gave to what came, before it learned from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river import forest, linear_model, multioutput, neighbors, optim
from vowpalwabbit import Workspace
from vowpalwabbit.pyvw import PredictionType

from bench.peers import forests
from bench.peers.forests import N_TREES, capymoa_arrays
from bench.peers.peer import SEED
from bench.peers.river import N_TREES as N_RIVER_TREES
from bench.peers.river import scaled
from bench.peers.vw import vw_features

Event = Mapping[str, Any]
Judge = Callable[[Sequence[Event]], NDArray[np.float64]]
"""Of events in stream order, (n, 2): the probability of the true class, and whether it was the most probable one.

For labels (n, K): the probability that each label would be as it was.
"""


@dataclass(frozen=True)
class ClassPeer:
    """A learner to compare with; it is given the first `n_events`, as many as it takes some seconds for."""

    case: str
    judge: Judge
    n_events: int | None = None


def vw_oaa(options: str) -> Judge:
    """Vowpal Wabbit, one against all; it is told beforehand how many classes there are, and numbers them itself."""

    def judge(events: Sequence[Event]) -> NDArray[np.float64]:
        numbers: dict[Any, int] = {}
        for event in events:
            numbers.setdefault(event["label"], len(numbers) + 1)
        workspace = Workspace(f"--quiet --oaa {len(numbers)} --probabilities --loss_function logistic {options}")
        found = []
        for event in events:
            true = numbers[event["label"]]
            example = workspace.example(f"{true} |f " + " ".join(vw_features(event["features"])))
            workspace.learn(example)  # leaves the prediction made before learning in the example
            probabilities = example.get_prediction(PredictionType.SCALARS)
            workspace.finish_example(example)
            found.append((probabilities[true - 1], int(np.argmax(probabilities)) == true - 1))
        workspace.finish()
        return np.array(found, np.float64)

    return judge


def river_classes(make: Callable[[], Any]) -> Judge:
    """One of River's classifiers."""

    def judge(events: Sequence[Event]) -> NDArray[np.float64]:
        model, found = make(), []
        for event in events:
            probabilities = model.predict_proba_one(event["features"])
            best = max(probabilities, key=probabilities.__getitem__) if probabilities else None
            found.append((probabilities.get(event["label"], 0.0), best == event["label"]))
            model.learn_one(event["features"], event["label"])
        return np.array(found, np.float64)

    return judge


def capymoa_forest(events: Sequence[Event]) -> NDArray[np.float64]:
    """CapyMOA's adaptive random forest; it is told beforehand which features, values and classes there are."""
    from capymoa.classifier import AdaptiveRandomForestClassifier
    from capymoa.instance import LabeledInstance

    classes = list(dict.fromkeys(str(event["label"]) for event in events))
    schema, arrays = capymoa_arrays(events, classes)
    model = AdaptiveRandomForestClassifier(schema=schema, ensemble_size=N_TREES, random_seed=SEED)
    found = []
    for event, x in zip(events, arrays, strict=True):
        true = classes.index(str(event["label"]))
        instance = LabeledInstance.from_array(schema, x, true)
        votes = np.zeros(len(classes))
        given = model.predict_proba(instance)
        if given is not None:
            votes[: len(given)] = np.nan_to_num(given)
        found.append((votes[true] / votes.sum() if votes.sum() > 0 else 0.0, votes.argmax() == true))
        model.train(instance)
    return np.array(found, np.float64)


def vw_labels(options: str) -> Judge:
    """Vowpal Wabbit: a logistic regression a label."""

    def judge(events: Sequence[Event]) -> NDArray[np.float64]:
        names = list(events[0]["label"])
        workspaces = [Workspace(f"--quiet --loss_function logistic --link logistic {options}") for _ in names]
        found = np.empty((len(events), len(names)))
        for row, event in zip(found, events, strict=True):
            features = " ".join(vw_features(event["features"]))
            for k, (name, workspace) in enumerate(zip(names, workspaces, strict=True)):
                example = workspace.example(f"{1 if event['label'][name] else -1} |f {features}")
                workspace.learn(example)
                p = example.get_simplelabel_prediction()
                workspace.finish_example(example)
                row[k] = p if event["label"][name] else 1.0 - p
        return found

    return judge


def river_labels(make: Callable[[], Any]) -> Judge:
    """One of River's ways to several labels."""

    def judge(events: Sequence[Event]) -> NDArray[np.float64]:
        model = make()
        found = np.full((len(events), len(events[0]["label"])), 0.5)
        for row, event in zip(found, events, strict=True):
            probabilities = model.predict_proba_one(event["features"])
            for k, (name, value) in enumerate(event["label"].items()):
                row[k] = probabilities.get(name, {}).get(value, 0.5)
            model.learn_one(event["features"], event["label"])
        return found

    return judge


class PerLabel:
    """A classifier of River's for each label."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._models: dict[str, Any] = {}

    def predict_proba_one(self, x: Mapping[str, Any]) -> dict[str, Any]:
        """Probabilities of True and False, by label."""
        return {name: model.predict_proba_one(x) for name, model in self._models.items()}

    def learn_one(self, x: Mapping[str, Any], y: Mapping[str, bool]) -> None:
        """All labels of one event."""
        for name, value in y.items():
            self._models.setdefault(name, self._make()).learn_one(x, value)


VW_OPTIONS = {"default": "", "--coin": "--coin", "default -q": "-q ::", "--coin -q": "--coin -q ::"}


def class_peers() -> tuple[list[ClassPeer], list[str]]:
    """Those on classes that can be run here; and what is missing."""
    peers = [ClassPeer(f"VW --oaa {name}", vw_oaa(options)) for name, options in VW_OPTIONS.items()]
    peers += [
        ClassPeer("River Softmax", river_classes(lambda: scaled(linear_model.SoftmaxRegression(optim.SGD())))),
        ClassPeer(
            f"River ARF of {N_RIVER_TREES}",
            river_classes(lambda: forest.ARFClassifier(n_models=N_RIVER_TREES, seed=SEED)),
            3_000,
        ),
        ClassPeer("River Mondrian forest", river_classes(lambda: scaled(forest.AMFClassifier(seed=SEED))), 2_000),
        ClassPeer("River kNN", river_classes(lambda: scaled(neighbors.KNNClassifier())), 2_000),
    ]
    if reason := forests.missing():
        return peers, [reason]
    return [*peers, ClassPeer(f"CapyMOA ARF of {N_TREES}", capymoa_forest, 3_000)], []


def label_peers() -> list[ClassPeer]:
    """Those on labels."""
    logistic = linear_model.LogisticRegression
    return [
        *(ClassPeer(f"VW {name}, a model a label", vw_labels(options)) for name, options in VW_OPTIONS.items()),
        ClassPeer("River LR, a model a label", river_labels(lambda: PerLabel(lambda: scaled(logistic())))),
        ClassPeer("River LR, a chain", river_labels(lambda: multioutput.ClassifierChain(scaled(logistic())))),
        ClassPeer(
            f"River ARF of {N_RIVER_TREES}, a forest a label",
            river_labels(lambda: PerLabel(lambda: forest.ARFClassifier(n_models=N_RIVER_TREES, seed=SEED))),
            500,
        ),
    ]

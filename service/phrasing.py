"""What is predicted of instances, as the task says it: a number, a class, labels, or targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from flexihash.model.config import ModelConfig
from flexihash.model.label_sums import THRESHOLD
from flexihash.model.online import Predictions
from flexihash.model.outputs import title_of
from flexihash.model.tasks import Task
from flexihash.service.messages import (
    ClassPrediction,
    LabelsPrediction,
    Prediction,
    TargetPrediction,
    TargetsPrediction,
)

KINDS: dict[Task, type[msgspec.Struct]] = {  # what a prediction is; of the other tasks a Prediction
    Task.MULTICLASS: ClassPrediction,
    Task.MULTILABEL: LabelsPrediction,
    Task.TARGETS: TargetsPrediction,
}
TOP_K = 10  # probabilities of an answer, where a request does not say how many it wants


def phrase(
    config: ModelConfig,
    names: Sequence[str],
    found: Predictions,
    n_known: NDArray[np.int64],
    n_features: NDArray[np.int64],
    top_k: int,
) -> list[Any]:
    """An answer for each of B instances, of the task's kind.

    Args:
        names: JSON texts of the classes or labels that the predictions are of.
        n_known, n_features: (B,), how many of an instance's features are known, of how many.
        top_k: how many probabilities of classes or labels each has.
    """
    counts = n_known.tolist(), n_features.tolist()
    if config.task not in KINDS:
        return list(map(Prediction, found.values.tolist(), found.scores.tolist(), *counts))
    if config.task is Task.TARGETS:
        return list(map(TargetsPrediction, _say_targets(list(config.targets), found), *counts))
    say = _say_classes if config.task is Task.MULTICLASS else _say_labels
    kind = KINDS[config.task]
    return [kind(*said, *of_instance) for *of_instance, said in zip(*counts, say(names, found, top_k), strict=True)]


def _say_targets(targets: Sequence[str], found: Predictions) -> Iterator[dict[str, TargetPrediction]]:
    for numbers in zip(found.values.tolist(), found.scores.tolist(), strict=True):
        yield dict(zip(targets, map(TargetPrediction, *numbers), strict=True))


def _say_classes(names: Sequence[str], found: Predictions, top_k: int) -> Iterator[tuple[Any, dict[str, float], Any]]:
    for row, scores, places in zip(found.values, found.scores, _rank(found), strict=True):
        best = places[:1]
        value = msgspec.json.decode(names[best[0]]) if best else None
        yield value, _name(names, row, places[:top_k]), float(scores[best[0]]) if best else None


def _say_labels(names: Sequence[str], found: Predictions, top_k: int) -> Iterator[tuple[list[Any], dict[str, float]]]:
    for row, places in zip(found.values, _rank(found), strict=True):
        said = [msgspec.json.decode(names[k]) for k in places if row[k] >= THRESHOLD]
        yield said, _name(names, row, places[:top_k])


def _rank(found: Predictions) -> list[list[int]]:
    """The numbers of classes by their probabilities, the most probable first. (B, n_known)"""
    ranked: list[list[int]] = np.argsort(-found.values, axis=1, kind="stable").tolist()
    return ranked


def _name(names: Sequence[str], probabilities: NDArray[np.float64], places: Sequence[int]) -> dict[str, float]:
    return {title_of(names[k]): float(probabilities[k]) for k in places}

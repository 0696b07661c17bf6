"""Progressive metrics: how good each prediction was, measured before the event was learned from.

Everything that is known lies in a few tensors of fixed size, so that the metrics live where the tables live
(shared memory) and travel in the same checkpoints. `model.sums` keeps them, in a compiled loop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from flexihash.model.rates import divide
from flexihash.model.sums import (
    ABSOLUTE,
    BASELINE,
    CALIBRATION_BINS,
    HITS,
    LABEL_FIELDS,
    MODEL,
    RECENT_FIELDS,
    SCORE_BINS,
    SQUARED,
    SQUARES,
    TASK_LOSS,
    W_LABEL,
    W_PREDICTION,
    W_WEIGHT,
    WEIGHT,
    WINDOW,
    Floats,
    Sums,
    sum_window,
    update,
)
from flexihash.model.tasks import find_task

Layout: TypeAlias = dict[str, tuple[tuple[int, ...], torch.dtype]]

COUNTED = ("events", "weight")  # before the metrics of any task

# Columns of the losses that a metric averages; the square root of the mean for rmse.
_COLUMNS = {
    "log_loss": TASK_LOSS,
    "poisson_deviance": TASK_LOSS,
    "pinball_loss": TASK_LOSS,
    "accuracy": HITS,
    "coverage": HITS,
    "mae": ABSOLUTE,
    "rmse": SQUARED,
}


def metric_names(task: str) -> tuple[str, ...]:
    """Keys of a report of this task, in the order to show them; ``window`` has the same ones.

    Raises:
        ConfigurationError: there is no such task.
    """
    return (*COUNTED, *find_task(task).metrics)


def open_state(layout: Layout, tensors: Mapping[str, torch.Tensor]) -> dict[str, NDArray[Any]]:
    """The arrays of the tensors that a layout names, in its order.

    Raises:
        ValueError: a tensor is not what the layout says.
    """
    for name, (shape, dtype) in layout.items():
        tensor = tensors[name]
        if tensor.shape != shape or tensor.dtype != dtype or not tensor.is_contiguous():
            raise ValueError(
                f"metrics tensor {name!r} must be contiguous {dtype} of shape {shape},"
                f" not {tensor.dtype} of shape {tuple(tensor.shape)}"
            )
    return {name: tensors[name].numpy() for name in layout}


class ProgressiveMetrics:
    """Metrics of a stream of predictions, over all events and over the last 10,000.

    Args:
        task: ``binary``, ``regression``, ``counts`` or ``quantile``.
        tensors: the state, as ``layout`` says; used in place, on the CPU. All zeros is a fresh start.
        quantile: the quantile in (0, 1) that is predicted; read by the quantile task only.

    An event's weight multiplies its share in every mean. The baseline says what the labels so far would have said:
    their mean (binary and counts: smoothed by half an event, so that the first answers are 0.5 and never 0;
    regression: 0 at first); for quantile a running estimate of the quantile (0 at first). In the window, but for
    binary, it is that of about the last 1,000 labels; one far away is cut until more like it come, as the model does.

    Predictions, labels and weights are finite, weights not negative, probabilities within [0, 1]: whoever calls has
    seen to that. An event beyond 1e75 or not finite is nevertheless only counted, like one of weight 0.

    Raises:
        ConfigurationError: there is no such task.
        ValueError: a tensor is not what ``layout`` says.

    >>> layout = ProgressiveMetrics.layout("binary")
    >>> tensors = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in layout.items()}
    >>> metrics = ProgressiveMetrics("binary", tensors)
    >>> metrics.update(np.array([0.9, 0.2, 0.6]), np.array([1.0, 0.0, 0.0]), np.ones(3))
    >>> report = metrics.report()
    >>> report["events"], report["auc"], round(report["log_loss"], 4)
    (3, 1.0, 0.4149)
    """

    @staticmethod
    def layout(task: str) -> Layout:
        """Name -> (shape, dtype) of the tensors that hold the whole state: 441 KiB for binary, 313 KiB for the others.

        Raises:
            ConfigurationError: there is no such task.
        """
        shapes = {
            "events": ((1,), torch.int64),
            "labels": ((LABEL_FIELDS,), torch.float64),
            "losses": ((2, 4), torch.float64),
            "window": ((WINDOW, 4), torch.float64),
        }
        curves = {
            "calibration": ((CALIBRATION_BINS,), torch.float64),
            "scores": ((2, SCORE_BINS), torch.float64),
        }
        recent = {"recent": ((RECENT_FIELDS,), torch.float64)}
        return shapes | (curves if find_task(task).is_binary else recent)

    def __init__(self, task: str, tensors: Mapping[str, torch.Tensor], quantile: float = 0.5) -> None:
        arrays = open_state(self.layout(task), tensors)
        self._names = metric_names(task)
        self._task = find_task(task).number
        self._quantile = float(quantile)
        self._events: NDArray[np.int64] = arrays["events"]
        self._window: Floats = arrays["window"]
        self._recent: Floats | None = arrays.get("recent")
        self._sums = Sums(arrays["labels"], arrays["losses"], arrays.get("calibration"), arrays.get("scores"))

    def update(self, predictions: Floats, labels: Floats, weights: Floats) -> None:
        """Take events in the order in which they were predicted.

        Args:
            predictions: (n,), made before the events were learned from; probabilities for binary.
            labels: (n,); 0 or 1 for binary.
            weights: (n,), not negative; an event of weight 0 is counted and nothing else.

        Raises:
            ValueError: the three differ in shape.
        """
        if not predictions.shape == labels.shape == weights.shape or predictions.ndim != 1:
            raise ValueError(
                "predictions, labels and weights must be (n,) each,"
                f" not {predictions.shape}, {labels.shape}, {weights.shape}"
            )
        sums = self._sums
        update(
            self._task,
            self._quantile,
            self._events,
            sums.labels,
            self._recent,
            sums.losses,
            self._window,
            sums.calibration,
            sums.scores,
            predictions,
            labels,
            weights,
        )

    def report(self) -> dict[str, Any]:
        """The metrics of all events, and under ``window`` those of the last 10,000, by the same names.

        Returns:
            ``metric_names(task)`` -> int or float, or None where a metric is undefined: no event with a weight, AUC
            of one class, R2 of labels that are all alike. ``window`` is exact; so is the rest but for AUC, where two
            scores less than 0.004 log-odds apart may count as a tie (a tie counts half).
        """
        n_events = int(self._events[0])
        n_window = min(n_events, WINDOW)
        report: dict[str, Any] = self._measure(n_events, self._sums)
        report["window"] = self._measure(n_window, self._summarize(self._window[:n_window]))
        return report

    def _measure(self, n_events: int, sums: Sums) -> dict[str, int | float | None]:
        return {name: n_events if name == "events" else _metric(name, sums) for name in self._names}

    def _summarize(self, window: Floats) -> Sums:
        window = window[window[:, W_WEIGHT] > 0.0]
        curves = self._sums.calibration is not None
        sums = Sums(
            labels=np.zeros(LABEL_FIELDS),
            losses=np.zeros((2, 4)),
            calibration=np.zeros(CALIBRATION_BINS) if curves else None,
            scores=_rank(window) if curves else None,
        )
        sum_window(self._task, self._quantile, window, sums.labels, sums.losses, sums.calibration)
        return sums


def _rank(window: Floats) -> Floats:
    """Weights of negatives and positives at each distinct prediction, ascending. (2, n)"""
    levels, places = np.unique(window[:, W_PREDICTION], return_inverse=True)
    positive = window[:, W_LABEL] > 0.5
    weights = window[:, W_WEIGHT]
    return np.stack([np.bincount(places, np.where(side, weights, 0.0), len(levels)) for side in (~positive, positive)])


def _metric(name: str, sums: Sums) -> float | None:
    weight = float(sums.labels[WEIGHT])
    if name == "weight":
        return weight
    if name == "auc" and sums.scores is not None:
        return _area(*sums.scores)
    if name == "calibration_error" and sums.calibration is not None:
        return divide(float(np.abs(sums.calibration).sum()), weight)
    if name == "r2":
        unexplained = divide(float(sums.losses[MODEL, SQUARED]), float(sums.labels[SQUARES]))
        return None if unexplained is None else 1.0 - unexplained
    loss = name.removeprefix("baseline_")
    predictor = MODEL if loss == name else BASELINE
    mean = divide(float(sums.losses[predictor, _COLUMNS[loss]]), weight)
    return math.sqrt(mean) if mean is not None and loss == "rmse" else mean


def _area(negatives: Floats, positives: Floats) -> float | None:
    """Area under the ROC curve: the share of (positive, negative) pairs in order, a tie counting half."""
    below = np.cumsum(negatives) - negatives / 2.0
    return divide(float(positives @ below), float(negatives.sum() * positives.sum()))

"""Progressive metrics: how good each prediction was, measured before the event was learned from.

Everything that is known lies in a few tensors of fixed size, so that the metrics live where the tables live
(shared memory) and travel in the same checkpoints. A compiled loop takes the events one by one, in order: what
it leaves does not depend on how the stream was cut into calls, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from flexihash.model.tasks import TASKS, Task, find_task

Floats: TypeAlias = NDArray[np.float64]

BINARY, REGRESSION, COUNTS, QUANTILE = (TASKS[task].number for task in Task)  # as the compiled functions know them

WINDOW = 10_000  # events in the sliding window
PROBABILITY_CLIP = 1e-3  # log loss takes probabilities from here to 1 - here, so that one event costs at most 6.9
CALIBRATION_BINS = 20  # of equal width in probability
# AUC sorts scores into bins of equal width in log-odds, 0.004 wide, between these probabilities: as fine at a
# probability of 1 in 100,000 as at one half.
SCORE_BINS = 8_192
SCORE_CLIP = 1e-7
SCORE_LIMIT = math.log((1.0 - SCORE_CLIP) / SCORE_CLIP)
RATE_FLOOR = 1e-9  # a predicted rate of 0 would make the Poisson deviance infinite
PRIOR_LABEL = 0.5  # the baseline of binary and counts starts from one imagined event of this label
MAGNITUDE_LIMIT = 1e75  # beyond it weight * error^2 could overflow, and one event would spoil every sum

# labels: running moments of the labels, and the baseline that follows them
WEIGHT, MEAN, SQUARES, NORM, QUANTILE_SO_FAR, SPREAD = range(6)
LABEL_FIELDS = 6
# losses: one row per predictor, one column per loss, each a weighted sum
MODEL, BASELINE = range(2)
ABSOLUTE, SQUARED, TASK_LOSS, HITS = range(4)
# window: one row per event
W_PREDICTION, W_LABEL, W_WEIGHT, W_BASELINE = range(4)

_compiled = njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def _has_share(prediction: float, label: float, weight: float) -> bool:
    """Whether an event has a share in the metrics. NaN fails every comparison, so it is out too."""
    return abs(prediction) < MAGNITUDE_LIMIT and abs(label) < MAGNITUDE_LIMIT and 0.0 < weight < MAGNITUDE_LIMIT


@_compiled
def _predict_baseline(task: int, labels: Floats) -> float:
    """What someone would say who knows only the labels so far."""
    if task == QUANTILE:
        return float(labels[QUANTILE_SO_FAR])
    if task == REGRESSION:
        return float(labels[MEAN])
    return float((labels[WEIGHT] * labels[MEAN] + PRIOR_LABEL) / (labels[WEIGHT] + 1.0))


@_compiled
def _add_label(task: int, quantile: float, labels: Floats, label: float, weight: float) -> None:
    """Weighted mean and squares about it (West 1979)."""
    labels[WEIGHT] += weight
    share = weight / labels[WEIGHT]
    surprise = label - labels[MEAN]
    labels[MEAN] += surprise * share
    labels[SQUARES] += weight * surprise * (label - labels[MEAN])
    if task == QUANTILE:
        _follow_quantile(quantile, labels, label, weight, share)


@_compiled
def _follow_quantile(quantile: float, labels: Floats, label: float, weight: float, share: float) -> None:
    """Stochastic descent on the pinball loss, in steps of AdaGrad times the labels' mean distance.

    Three numbers of memory; over 20,000 labels, normal or heavy-tailed, its loss is within 2% of the exact quantile's.
    """
    if labels[NORM] == 0.0:
        labels[NORM] = weight
        labels[QUANTILE_SO_FAR] = label
        return
    distance = label - labels[QUANTILE_SO_FAR]
    labels[NORM] = math.hypot(labels[NORM], weight)
    labels[SPREAD] += (abs(distance) - labels[SPREAD]) * share
    step = labels[SPREAD] * (weight / labels[NORM])
    if distance > 0.0:
        labels[QUANTILE_SO_FAR] += step * quantile
    elif distance < 0.0:
        labels[QUANTILE_SO_FAR] -= step * (1.0 - quantile)


@_compiled
def _add_loss(
    task: int, quantile: float, losses: Floats, predictor: int, prediction: float, label: float, weight: float
) -> None:
    if task == BINARY:
        likelihood = prediction if label > 0.5 else 1.0 - prediction
        likelihood = min(max(likelihood, PROBABILITY_CLIP), 1.0 - PROBABILITY_CLIP)
        losses[predictor, TASK_LOSS] -= weight * math.log(likelihood)
        losses[predictor, HITS] += weight * ((prediction >= 0.5) == (label > 0.5))
        return
    error = label - prediction
    losses[predictor, ABSOLUTE] += weight * abs(error)
    losses[predictor, SQUARED] += weight * error * error
    if task == COUNTS:
        rate = max(prediction, RATE_FLOOR)
        deviance = rate - label
        if label > 0.0:
            deviance += label * (math.log(label) - math.log(rate))  # their quotient could underflow to 0
        losses[predictor, TASK_LOSS] += 2.0 * weight * deviance
    elif task == QUANTILE:
        losses[predictor, TASK_LOSS] += weight * max(quantile * error, (quantile - 1.0) * error)
        losses[predictor, HITS] += weight * (error <= 0.0)


@_compiled
def _add_calibration(calibration: Floats, prediction: float, label: float, weight: float) -> None:
    """Each bin holds the weighted sum of prediction - label: its weight times what its mean is off by."""
    place = min(max(prediction, 0.0), 1.0) * CALIBRATION_BINS
    calibration[min(int(place), CALIBRATION_BINS - 1)] += weight * (prediction - label)


@_compiled
def _add_score(scores: Floats, prediction: float, label: float, weight: float) -> None:
    """One histogram of the log-odds per class."""
    probability = min(max(prediction, SCORE_CLIP), 1.0 - SCORE_CLIP)
    log_odds = math.log(probability / (1.0 - probability))
    place = (log_odds + SCORE_LIMIT) * (SCORE_BINS / (2.0 * SCORE_LIMIT))
    scores[1 if label > 0.5 else 0, min(max(int(place), 0), SCORE_BINS - 1)] += weight


@_compiled
def _update(
    task: int,
    quantile: float,
    events: NDArray[np.int64],
    labels: Floats,
    losses: Floats,
    window: Floats,
    calibration: Floats | None,
    scores: Floats | None,
    predictions: Floats,
    event_labels: Floats,
    weights: Floats,
) -> None:
    """Take events in order. Numba compiles a second version, without the curves, where they are None."""
    for i in range(len(predictions)):
        prediction, label, weight = predictions[i], event_labels[i], weights[i]
        slot = events[0] % WINDOW
        events[0] += 1
        if not _has_share(prediction, label, weight):
            window[slot, :] = 0.0
            continue
        baseline = _predict_baseline(task, labels)
        window[slot, W_PREDICTION] = prediction
        window[slot, W_LABEL] = label
        window[slot, W_WEIGHT] = weight
        window[slot, W_BASELINE] = baseline
        _add_loss(task, quantile, losses, MODEL, prediction, label, weight)
        _add_loss(task, quantile, losses, BASELINE, baseline, label, weight)
        if calibration is not None:
            _add_calibration(calibration, prediction, label, weight)
        if scores is not None:
            _add_score(scores, prediction, label, weight)
        _add_label(task, quantile, labels, label, weight)


@_compiled
def _sum_window(
    task: int, quantile: float, window: Floats, labels: Floats, losses: Floats, calibration: Floats | None
) -> None:
    """The same sums over the window's rows alone, with the baseline as it was when each event came."""
    for i in range(len(window)):
        prediction, label, weight = window[i, W_PREDICTION], window[i, W_LABEL], window[i, W_WEIGHT]
        _add_loss(task, quantile, losses, MODEL, prediction, label, weight)
        _add_loss(task, quantile, losses, BASELINE, window[i, W_BASELINE], label, weight)
        if calibration is not None:
            _add_calibration(calibration, prediction, label, weight)
        _add_label(task, quantile, labels, label, weight)


class _Sums(NamedTuple):
    """What every metric is made of. ``scores`` (2, n): weights of negatives and positives by ascending score."""

    labels: Floats
    losses: Floats
    calibration: Floats | None
    scores: Floats | None


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
    return ("events", "weight", *find_task(task).metrics)


class ProgressiveMetrics:
    """Metrics of a stream of predictions, over all events and over the last 10,000.

    Args:
        task: ``binary``, ``regression``, ``counts`` or ``quantile``.
        tensors: the state, as ``layout`` says; used in place, on the CPU. All zeros is a fresh start.
        quantile: the quantile in (0, 1) that is predicted; read by the quantile task only.

    An event's weight multiplies its share in every mean. The baseline says what the labels so far would have said:
    their mean (binary and counts: smoothed by half an event, so that the first answers are 0.5 and never 0;
    regression: 0 at first); for quantile a running estimate of the quantile (0 at first).

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
    def layout(task: str) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
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
        return shapes | curves if find_task(task).is_binary else shapes

    def __init__(self, task: str, tensors: Mapping[str, torch.Tensor], quantile: float = 0.5) -> None:
        arrays: dict[str, NDArray[Any]] = {}
        for name, (shape, dtype) in self.layout(task).items():
            tensor = tensors[name]
            if tensor.shape != shape or tensor.dtype != dtype or not tensor.is_contiguous():
                raise ValueError(
                    f"metrics tensor {name!r} must be contiguous {dtype} of shape {shape},"
                    f" not {tensor.dtype} of shape {tuple(tensor.shape)}"
                )
            arrays[name] = tensor.numpy()
        self._names = metric_names(task)
        self._task = find_task(task).number
        self._quantile = float(quantile)
        self._events: NDArray[np.int64] = arrays["events"]
        self._window: Floats = arrays["window"]
        self._sums = _Sums(arrays["labels"], arrays["losses"], arrays.get("calibration"), arrays.get("scores"))

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
        _update(
            self._task,
            self._quantile,
            self._events,
            sums.labels,
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

    def _measure(self, n_events: int, sums: _Sums) -> dict[str, int | float | None]:
        return {name: n_events if name == "events" else _metric(name, sums) for name in self._names}

    def _summarize(self, window: Floats) -> _Sums:
        window = window[window[:, W_WEIGHT] > 0.0]
        curves = self._sums.calibration is not None
        sums = _Sums(
            labels=np.zeros(LABEL_FIELDS),
            losses=np.zeros((2, 4)),
            calibration=np.zeros(CALIBRATION_BINS) if curves else None,
            scores=_rank(window) if curves else None,
        )
        _sum_window(self._task, self._quantile, window, sums.labels, sums.losses, sums.calibration)
        return sums


def _rank(window: Floats) -> Floats:
    """Weights of negatives and positives at each distinct prediction, ascending. (2, n)"""
    levels, places = np.unique(window[:, W_PREDICTION], return_inverse=True)
    positive = window[:, W_LABEL] > 0.5
    weights = window[:, W_WEIGHT]
    return np.stack([np.bincount(places, np.where(side, weights, 0.0), len(levels)) for side in (~positive, positive)])


def _metric(name: str, sums: _Sums) -> float | None:
    weight = float(sums.labels[WEIGHT])
    if name == "weight":
        return weight
    if name == "auc" and sums.scores is not None:
        return _area(*sums.scores)
    if name == "calibration_error" and sums.calibration is not None:
        return _divide(float(np.abs(sums.calibration).sum()), weight)
    if name == "r2":
        unexplained = _divide(float(sums.losses[MODEL, SQUARED]), float(sums.labels[SQUARES]))
        return None if unexplained is None else 1.0 - unexplained
    loss = name.removeprefix("baseline_")
    predictor = MODEL if loss == name else BASELINE
    mean = _divide(float(sums.losses[predictor, _COLUMNS[loss]]), weight)
    return math.sqrt(mean) if mean is not None and loss == "rmse" else mean


def _area(negatives: Floats, positives: Floats) -> float | None:
    """Area under the ROC curve: the share of (positive, negative) pairs in order, a tie counting half."""
    below = np.cumsum(negatives) - negatives / 2.0
    return _divide(float(positives @ below), float(negatives.sum() * positives.sum()))


def _divide(numerator: float, denominator: float) -> float | None:
    quotient = numerator / denominator if denominator > 0.0 else math.inf
    return quotient if math.isfinite(quotient) else None

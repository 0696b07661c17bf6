"""What progressive metrics are made of: sums that a compiled loop keeps, event by event.

Events are taken one by one, in order: what they leave does not depend on how the stream was cut into calls, to the bit.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flexihash.model.compiled import entry, part
from flexihash.model.kernel.losses import (
    BINARY,
    COUNTS,
    LABEL_MEMORY,
    LEAST_REACH,
    QUANTILE,
    REGRESSION,
    Loss,
    find_deviation,
    limit_surprise,
)

Floats: TypeAlias = NDArray[np.float64]

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
# recent: the same of about the last LABEL_MEMORY labels, none of them out of reach; binary ones need none
COUNT, REACH = range(LABEL_FIELDS, LABEL_FIELDS + 2)
RECENT_FIELDS = LABEL_FIELDS + 2
N_FREE_LABELS = 10.0  # until so many are known they are taken as they are
# losses: one row per predictor, one column per loss, each a weighted sum
MODEL, BASELINE = range(2)
ABSOLUTE, SQUARED, TASK_LOSS, HITS = range(4)
# window: one row per event
W_PREDICTION, W_LABEL, W_WEIGHT, W_BASELINE = range(4)

_entry = partial(entry, error_model="numpy")
_part = partial(part, error_model="numpy")


class Sums(NamedTuple):
    """What every metric is made of. ``scores`` (2, n): weights of negatives and positives by ascending score."""

    labels: Floats
    losses: Floats
    calibration: Floats | None
    scores: Floats | None


@_part
def has_share(prediction: float, label: float, weight: float) -> bool:
    """Whether an event has a share in the metrics. NaN fails every comparison, so it is out too."""
    return abs(prediction) < MAGNITUDE_LIMIT and abs(label) < MAGNITUDE_LIMIT and 0.0 < weight < MAGNITUDE_LIMIT


@_part
def _predict_baseline(task: int, labels: Floats) -> float:
    """What someone would say who knows only the labels so far."""
    if task == QUANTILE:
        return float(labels[QUANTILE_SO_FAR])
    if task == REGRESSION:
        return float(labels[MEAN])
    return float((labels[WEIGHT] * labels[MEAN] + PRIOR_LABEL) / (labels[WEIGHT] + 1.0))


@_part
def _add_label(task: int, quantile: float, labels: Floats, label: float, weight: float) -> None:
    """Weighted mean and squares about it (West 1979)."""
    labels[WEIGHT] += weight
    share = weight / labels[WEIGHT]
    surprise = label - labels[MEAN]
    labels[MEAN] += surprise * share
    labels[SQUARES] += weight * surprise * (label - labels[MEAN])
    if task == QUANTILE:
        _follow_quantile(quantile, labels, label, weight, share)


@_part
def _add_recent(task: int, quantile: float, recent: Floats, label: float, weight: float) -> None:
    """As the labels' scale is learned: one label far away is cut, and what was long ago forgotten."""
    recent[COUNT] += 1.0
    if recent[COUNT] > N_FREE_LABELS:
        deviation = find_deviation(Loss(task, quantile, False), recent[MEAN], recent[SQUARES] / recent[WEIGHT])
        reach = max(recent[REACH], LEAST_REACH)
        surprise, recent[REACH] = limit_surprise(label - recent[MEAN], deviation, reach)
        label = recent[MEAN] + surprise
    if recent[COUNT] > LABEL_MEMORY:
        kept = 1.0 - 1.0 / LABEL_MEMORY
        recent[WEIGHT] *= kept
        recent[SQUARES] *= kept
        recent[NORM] *= math.sqrt(kept)
    _add_label(task, quantile, recent, label, weight)


@_part
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


@_part
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


@_part
def _add_calibration(calibration: Floats, prediction: float, label: float, weight: float) -> None:
    """Each bin holds the weighted sum of prediction - label: its weight times what its mean is off by."""
    place = min(max(prediction, 0.0), 1.0) * CALIBRATION_BINS
    calibration[min(int(place), CALIBRATION_BINS - 1)] += weight * (prediction - label)


@_part
def _add_score(scores: Floats, prediction: float, label: float, weight: float) -> None:
    """One histogram of the log-odds per class."""
    probability = min(max(prediction, SCORE_CLIP), 1.0 - SCORE_CLIP)
    log_odds = math.log(probability / (1.0 - probability))
    place = (log_odds + SCORE_LIMIT) * (SCORE_BINS / (2.0 * SCORE_LIMIT))
    scores[1 if label > 0.5 else 0, min(max(int(place), 0), SCORE_BINS - 1)] += weight


@_entry
def update(
    task: int,
    quantile: float,
    events: NDArray[np.int64],
    labels: Floats,
    recent: Floats | None,
    losses: Floats,
    window: Floats,
    calibration: Floats | None,
    scores: Floats | None,
    predictions: Floats,
    event_labels: Floats,
    weights: Floats,
) -> None:
    """Take events in order. Numba compiles a second version, without what is None."""
    for i in range(len(predictions)):
        prediction, label, weight = predictions[i], event_labels[i], weights[i]
        slot = events[0] % WINDOW
        events[0] += 1
        if not has_share(prediction, label, weight):
            window[slot, :] = 0.0
            continue
        baseline = _predict_baseline(task, labels)
        window[slot, W_PREDICTION] = prediction
        window[slot, W_LABEL] = label
        window[slot, W_WEIGHT] = weight
        window[slot, W_BASELINE] = baseline
        if recent is not None:
            window[slot, W_BASELINE] = _predict_baseline(task, recent)
            _add_recent(task, quantile, recent, label, weight)
        _add_loss(task, quantile, losses, MODEL, prediction, label, weight)
        _add_loss(task, quantile, losses, BASELINE, baseline, label, weight)
        if calibration is not None:
            _add_calibration(calibration, prediction, label, weight)
        if scores is not None:
            _add_score(scores, prediction, label, weight)
        _add_label(task, quantile, labels, label, weight)


@_entry
def sum_window(
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

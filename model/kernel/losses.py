"""What depends on the task: its loss, what is predicted from a score, and what a label is to it.

This file alone knows which tasks there are; the others hand a `Loss` through.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from flexihash.model.compiled import inlined
from flexihash.model.kernel.calibration import calibrate, update_curve
from flexihash.model.kernel.scalars import clip, sigmoid
from flexihash.model.kernel.slots import LABEL_MEAN, LABEL_VARIANCE, LABEL_WEIGHT
from flexihash.model.tasks import TASKS, Task

BINARY, REGRESSION, COUNTS, QUANTILE = (TASKS[task].number for task in Task)

CURVATURE_FLOOR = 1e-3  # of the log loss: a sure prediction still learns
RESIDUAL_RATE, RESIDUAL_FLOOR = 0.001, 1e-4
SCORE_LIMIT = 30.0  # of logits and of log counts: exp() of it is still an ordinary number
COST_LIMIT = 7.0
COUNT_MOVE_LIMIT = 1.0  # one count moves its own log rate by at most so much: exp() curves too fast for a longer step


class Loss(NamedTuple):
    """The number of a task, and which quantile is asked for (QUANTILE only)."""

    task: int
    quantile: float


# --- from scores to a prediction ------------------------------------------------------------------------------------


@inlined
def moderate(loss, z, spread):  # type: ignore[no-untyped-def]
    """An expert's score as it is mixed: a logit is moderated by its variance first (MacKay 1992)."""
    if loss.task == BINARY:
        z /= math.sqrt(1.0 + math.pi / 8.0 * spread)
    return z


@inlined
def takes_trees(loss):  # type: ignore[no-untyped-def]
    """Whether trees take part: for the other tasks nobody has measured what they are worth."""
    return loss.task == BINARY or loss.task == REGRESSION


@inlined
def limit_score(loss, mixed):  # type: ignore[no-untyped-def]
    """The mixture's score, where exp() is taken of it kept to what that can take."""
    if loss.task == BINARY or loss.task == COUNTS:
        mixed = clip(mixed, -SCORE_LIMIT, SCORE_LIMIT)
    return mixed


@inlined
def link(loss, mixed, state):  # type: ignore[no-untyped-def]
    """(prediction, score): the score is a logit, a log rate, or the standardized label."""
    if loss.task == BINARY:
        logit, _, _ = calibrate(mixed, state)
        return sigmoid(logit), logit
    if loss.task == COUNTS:
        z = clip(mixed + log_rate(state[LABEL_MEAN], state[LABEL_WEIGHT]), -300.0, 300.0)
        return math.exp(z), z
    return state[LABEL_MEAN] + deviation(state[LABEL_VARIANCE], state[LABEL_WEIGHT]) * mixed, mixed


@inlined
def update_link(loss, mixed, prediction, y, weight, state):  # type: ignore[no-untyped-def]
    """Moves what the link learns: the calibration curve; `prediction` was made from `mixed`."""
    if loss.task == BINARY:
        g = (prediction - y) * weight
        h = max(prediction * (1.0 - prediction), CURVATURE_FLOOR) * weight
        update_curve(mixed, g, h, state)


# --- labels -----------------------------------------------------------------------------------------------------------


@inlined
def deviation(variance, weight):  # type: ignore[no-untyped-def]
    """Standard deviation of the labels; 1 until two of them are known."""
    return math.sqrt(max(variance, 1e-12)) if weight > 1.0 else 1.0


@inlined
def log_rate(mean, weight):  # type: ignore[no-untyped-def]
    """Log of the labels' mean, with one imagined count of 1: where a count's score starts from."""
    return math.log((mean * weight + 1.0) / (weight + 1.0))


@inlined
def add_label(label, weight, state):  # type: ignore[no-untyped-def]
    """(weight, mean, variance) of the labels with one more; the state stays as it is."""
    label_weight, mean, variance = state[LABEL_WEIGHT], state[LABEL_MEAN], state[LABEL_VARIANCE]
    if weight > 0.0:
        label_weight += weight
        share = weight / label_weight  # exactly 1 for the first label, so that its distance from the mean is exactly 0
        delta = label - mean
        mean += delta * share
        if share < 1.0:
            variance += (delta * (label - mean) - variance) * share
    return label_weight, mean, variance


@inlined
def standardize(loss, label, labels):  # type: ignore[no-untyped-def]
    """(the label as the task learns it, the log rate that a count's score starts from), by what `add_label` gave."""
    label_weight, mean, variance = labels
    if loss.task == COUNTS:
        return label, log_rate(mean, label_weight)
    if loss.task == BINARY:
        return label, 0.0
    return (label - mean) / deviation(variance, label_weight), 0.0


# --- from scores and a label to steps ---------------------------------------------------------------------------------


@inlined
def differentiate(loss, z, y, residual, offset):  # type: ignore[no-untyped-def]
    """Loss gradient and curvature at score `z`: (g, h).

    `y` and `offset` are what `standardize` gives; `residual` is the running squared error or pinball loss. The
    quantile's loss is the negative log likelihood of an asymmetric Laplace distribution, with its Fisher information
    for curvature.
    """
    if loss.task == BINARY:
        p = sigmoid(clip(z, -SCORE_LIMIT, SCORE_LIMIT))
        return p - y, max(p * (1.0 - p), CURVATURE_FLOOR)
    if loss.task == COUNTS:
        rate = math.exp(clip(z, -SCORE_LIMIT, SCORE_LIMIT) + offset)
        return rate - y, max(rate, CURVATURE_FLOOR)
    if loss.task == QUANTILE:
        quantile = loss.quantile
        return ((1.0 if y < z else 0.0) - quantile) / residual, quantile * (1.0 - quantile) / (residual * residual)
    return (z - y) / residual, 1.0 / residual


@inlined
def most_curvature(loss):  # type: ignore[no-untyped-def]
    """Of one event, where trees take part: that of a probability of a half, or of a squared error."""
    return 0.25 if loss.task == BINARY else 1.0


@inlined
def measure_loss(loss, z, y, residual):  # type: ignore[no-untyped-def]
    """What the score `z` costs, where trees take part; a limited cost, so that no single event decides."""
    if loss.task == BINARY:
        z = clip(z, -COST_LIMIT, COST_LIMIT)
        return math.log1p(math.exp(-z if y > 0.5 else z))
    return min((z - y) * (z - y) / (2.0 * residual), COST_LIMIT)


@inlined
def limit_gradient(loss, g, gain, s):  # type: ignore[no-untyped-def]
    """The gradient, where a step of `gain` over the variance `s` would lead a count too far made smaller."""
    if loss.task == COUNTS and abs(g) * gain * s > COUNT_MOVE_LIMIT:
        g = math.copysign(COUNT_MOVE_LIMIT / (gain * s), g)
    return g


@inlined
def move_residual(loss, residual, z, y, spread, weight):  # type: ignore[no-untyped-def]
    """The running squared error, or pinball loss, with the score `z` for the label `y`.

    `spread` is s h: the part of the squared error that is the score's own uncertainty, which is taken out.
    """
    error = y - z
    if loss.task == REGRESSION:
        size = error * error / (1.0 + spread)
    elif loss.task == QUANTILE:
        size = error * loss.quantile if error > 0.0 else error * (loss.quantile - 1.0)
    else:
        return residual
    return max(residual + min(RESIDUAL_RATE * weight, 1.0) * (size - residual), RESIDUAL_FLOOR)

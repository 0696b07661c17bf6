"""What depends on the task: its loss, what is predicted from a score, and what a label is to it.

This file alone knows which tasks there are; the others hand a `Loss` through.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from flexihash.model.compiled import inlined
from flexihash.model.kernel.calibration import calibrate, update_curve
from flexihash.model.kernel.scalars import clip, sigmoid
from flexihash.model.kernel.slots import LABEL_COUNT, LABEL_MEAN, LABEL_REACH, LABEL_VARIANCE, LABEL_WEIGHT
from flexihash.model.tasks import TASKS, Task

BINARY, REGRESSION, COUNTS, QUANTILE = (
    TASKS[task].number for task in (Task.BINARY, Task.REGRESSION, Task.COUNTS, Task.QUANTILE)
)

CURVATURE_FLOOR = 1e-3  # of the log loss: a sure prediction still learns
RESIDUAL_RATE, RESIDUAL_FLOOR = 0.001, 1e-4
SCORE_LIMIT = 30.0  # of logits and of log counts: exp() of it is still an ordinary number
COST_LIMIT = 7.0  # of a logit, and of what a score costs: no single event decides
LABEL_MEMORY = 1_000.0  # the labels' mean and deviation follow about so many of the last
LABEL_LIMIT = 30.0  # a standardized label's size
N_FREE_LABELS = 2.0  # a deviation is known from the second on: until then labels are taken as they are
WEIGHT_LIMIT = 0.1  # a label's weight in mean and deviation, to that of all before it
PRECISION = 1e-12  # deviations smaller than this, to the mean, are rounding
LEAST_REACH, MOST_REACH = 8.0, 1e9  # in deviations
REACH_MEMORY = 10_000.0  # what comes once in about so many labels, or more rarely, is never believed
COUNT_MOVE_LIMIT = 1.0  # one count moves its own log rate by at most so much: exp() curves too fast for a longer step


class Loss(NamedTuple):
    """The number of a task, which quantile is asked for (QUANTILE only), and whether trees may take part."""

    task: int
    quantile: float
    may_have_trees: bool


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
    return loss.may_have_trees and (loss.task == BINARY or loss.task == REGRESSION)


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
    return state[LABEL_MEAN] + find_deviation(loss, state[LABEL_MEAN], state[LABEL_VARIANCE]) * mixed, mixed


@inlined
def update_link(loss, mixed, prediction, y, weight, state):  # type: ignore[no-untyped-def]
    """Moves what the link learns: the calibration curve; `prediction` was made from `mixed`."""
    if loss.task == BINARY:
        g = (prediction - y) * weight
        h = max(prediction * (1.0 - prediction), CURVATURE_FLOOR) * weight
        update_curve(mixed, g, h, state)


# --- labels -----------------------------------------------------------------------------------------------------------
#
# One label, whatever it is, must not ruin what all labels before it have taught. So what is far from what is expected
# counts as no farther than a reach of some deviations. The reach doubles each time something lies beyond it, and falls
# back slowly: what comes but once is cut, what comes again and again is soon believed as it is.


@inlined
def limit_surprise(surprise, deviation, reach):  # type: ignore[no-untyped-def]
    """(the surprise within reach, the reach afterwards)."""
    limit = reach * deviation
    if abs(surprise) > limit:
        return math.copysign(limit, surprise), min(2.0 * reach, MOST_REACH)
    return surprise, max(reach - reach / REACH_MEMORY, LEAST_REACH)


@inlined
def find_deviation(loss, mean, variance):  # type: ignore[no-untyped-def]
    """Standard deviation of the labels; at least 1 for counts: a few more are no surprise."""
    if loss.task == COUNTS:
        return math.sqrt(max(variance, 1.0))
    return max(math.sqrt(variance), PRECISION * (1.0 + abs(mean)))


@inlined
def log_rate(mean, weight):  # type: ignore[no-untyped-def]
    """Log of the labels' mean, with one imagined count of 1: where a count's score starts from."""
    return math.log((mean * weight + 1.0) / (weight + 1.0))


@inlined
def add_label(loss, label, weight, state):  # type: ignore[no-untyped-def]
    """(count, weight, mean, variance, reach) of the labels with one more; the state stays as it is.

    Quantities are remembered for about `LABEL_MEMORY` labels of equal weight; a count's mean is only where its score
    starts from, and is of all.
    """
    count, total, mean = state[LABEL_COUNT], state[LABEL_WEIGHT], state[LABEL_MEAN]
    variance, reach = state[LABEL_VARIANCE], state[LABEL_REACH]
    if weight > 0.0:
        count += 1.0
        surprise = label - mean
        if count > N_FREE_LABELS:
            weight = min(weight, WEIGHT_LIMIT * total)
            surprise, reach = limit_surprise(surprise, find_deviation(loss, mean, variance), reach)
        if count > LABEL_MEMORY and loss.task != COUNTS:
            total -= total / LABEL_MEMORY
        total += weight
        share = weight / total  # exactly 1 for the first label, so that its distance from the mean is exactly 0
        mean += surprise * share
        if share < 1.0:
            variance += (surprise * surprise * (1.0 - share) - variance) * share
    return count, total, mean, variance, reach


@inlined
def standardize(loss, label, labels):  # type: ignore[no-untyped-def]
    """(the label as the task learns it, the log rate that a count's score starts from), by what `add_label` gave."""
    _, total, mean, variance, _ = labels
    if loss.task == COUNTS:
        return label, log_rate(mean, total)
    if loss.task == BINARY:
        return label, 0.0
    return clip((label - mean) / find_deviation(loss, mean, variance), -LABEL_LIMIT, LABEL_LIMIT), 0.0


@inlined
def expect(loss, z, offset):  # type: ignore[no-untyped-def]
    """What a score says of the label, as `standardize` gives that: a count's rate; of the others the score itself."""
    return math.exp(clip(z, -SCORE_LIMIT, SCORE_LIMIT) + offset) if loss.task == COUNTS else z


@inlined
def limit_label(loss, expected, y, residual, spread, labels, weight, reach):  # type: ignore[no-untyped-def]
    """(`y`, or a label nearer to what is `expected` where it is out of reach; the reach afterwards).

    How far errors reach follows from their running size `residual`, and the score's variance `spread`.
    """
    if loss.task == BINARY or weight <= 0.0 or labels[0] <= N_FREE_LABELS:
        return y, reach
    if loss.task == COUNTS:
        variance = residual * (1.0 + expected) + expected * expected * spread
    elif loss.task == QUANTILE:
        size = residual / (2.0 * loss.quantile * (1.0 - loss.quantile))
        variance = size * size + spread
    else:
        variance = residual + spread
    surprise, reach = limit_surprise(y - expected, math.sqrt(variance), reach)
    return expected + surprise, reach


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
        rate = expect(loss, z, offset)
        return (rate - y) / residual, max(rate, CURVATURE_FLOOR) / residual
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
    """What the score `z` costs, where trees take part."""
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
def doubt(loss, spread):  # type: ignore[no-untyped-def]
    """What the mixture puts down to the experts of its own error's variance, where their scores' mean one is `spread`.

    Curvature and error of a count are as large as the count. To the first ones, of which the experts know nothing yet,
    the mixing weights would else be fitted to the last digit.
    """
    return spread if loss.task == COUNTS else 0.0


@inlined
def move_residual(loss, residual, expected, y, spread, weight):  # type: ignore[no-untyped-def]
    """The running squared error, or pinball loss, with what was expected for the label `y`.

    A count's is in units of 1 + rate, as the variance of counts grows with their rate. `spread` is s h: the part of a
    squared error that is the score's own uncertainty, which is taken out.
    """
    error = y - expected
    if loss.task == REGRESSION:
        size = error * error / (1.0 + spread)
    elif loss.task == QUANTILE:
        size = error * loss.quantile if error > 0.0 else error * (loss.quantile - 1.0)
    elif loss.task == COUNTS:
        size = error * error / (1.0 + expected)
    else:
        return residual
    floor = 1.0 if loss.task == COUNTS else RESIDUAL_FLOOR
    return max(residual + min(RESIDUAL_RATE * weight, 1.0) * (size - residual), floor)

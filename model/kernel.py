"""The learner's compiled core: what a row holds, the experts, and one event's way through them.

Everything that is compiled stands in this one file, constants included: Numba's cache watches the file of a function
only, so a constant changed elsewhere would go on living in compiled code.

The model is a factorization machine (Rendle 2010) over hashed rows whose every parameter carries its variance and
learns by a diagonal extended Kalman filter, which is online natural gradient (Ollivier 2018). For a parameter t with
variance v, derivative a = dz/dt, loss gradient g and curvature h at the score z, and s = sum v a^2:

    f = 1 / (1 + h s)        t -= v a g f        v -= v^2 a^2 h f

`model.reference` is the same model in plain torch; a test holds one step of this kernel to it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Stages of an event are inlined (forceinline): Numba counts references of every array at a call, atomically.

# --- experts --------------------------------------------------------------------------------------------------------


class Expert(NamedTuple):
    """One factorization machine of the mixture.

    Args:
        prior_weight, prior_embedding: prior variance of a weight, of an embedding's element; variances start here.
        drift_weight, drift_embedding: variance gained at every touch, up to the prior.
        sees_fine: whether the fine grid of a number's curve reaches it.
        is_quick: whether the rows' quick weights, which forget, add to its score; true of exactly one.
    """

    name: str
    prior_weight: float
    prior_embedding: float
    drift_weight: float
    drift_embedding: float
    sees_fine: bool
    is_quick: bool


EXPERTS = (
    Expert("steady", 0.2, 0.2, 1e-5, 0.0, sees_fine=False, is_quick=False),  # expects little, drifts little
    Expert("bold", 0.2, 0.4, 1e-5, 1e-6, sees_fine=True, is_quick=False),  # large priors: curves, few data
    Expert("agile", 0.1, 0.03, 1e-5, 1e-5, sees_fine=True, is_quick=True),  # follows what changes
)
N_EXPERTS = len(EXPERTS)
EXPERT_DIM = 4  # elements of each expert's embedding; one number, so that the compiler unrolls the loops over it
DIM = N_EXPERTS * EXPERT_DIM  # of the embedding that is served
QUICK_EXPERT = [expert.is_quick for expert in EXPERTS].index(True)

PRIOR_WEIGHT = np.array([expert.prior_weight for expert in EXPERTS], np.float32)
PRIOR_EMBEDDING = np.array([expert.prior_embedding for expert in EXPERTS], np.float32)
DRIFT_WEIGHT = np.array([expert.drift_weight for expert in EXPERTS], np.float32)
DRIFT_EMBEDDING = np.array([expert.drift_embedding for expert in EXPERTS], np.float32)

INITIAL_DEVIATION = 0.05  # of the first embeddings' elements
PRIOR_BIAS, DRIFT_BIAS = 1.0, 1e-6
PRIOR_QUICK, QUICK_EVENTS = 0.3, 1000.0  # a quick weight forgets within about so many events (Ornstein-Uhlenbeck)
PRIOR_QUICK_BIAS, QUICK_BIAS_EVENTS = 0.1, 100.0
PRIOR_MIX, DRIFT_MIX = 0.05, 1e-6
RESIDUAL_RATE, RESIDUAL_FLOOR = 0.001, 1e-4
CURVATURE_FLOOR = 1e-3  # of the log loss: a sure prediction still learns
CURVE_LOW, CURVE_STEP, N_KNOTS = -6.0, 0.75, 17  # the calibration curve's knots, in logits
PRIOR_CURVE, DRIFT_CURVE = 0.1, 1e-6
SCORE_LIMIT = 30.0  # of logits and of log counts: exp() of it is still an ordinary number
COUNT_MOVE_LIMIT = 1.0  # one count moves its own log rate by at most so much: exp() curves too fast for a longer step
STEP_LIMIT = 1e15  # a step beyond could leave float32; such an event is rejected, nothing of it is written
LABEL_LIMIT = 1e100  # squares of labels must stay finite in float64

# --- one row of the table: a record of float32 ----------------------------------------------------------------------

EMBEDDING = 0  # DIM elements, expert by expert
WEIGHT = EMBEDDING + DIM  # one an expert
WEIGHT_VARIANCE = WEIGHT + N_EXPERTS
EMBEDDING_VARIANCE = WEIGHT_VARIANCE + N_EXPERTS  # one an expert: its embedding's elements share it
QUICK = EMBEDDING_VARIANCE + N_EXPERTS  # the quick weight
QUICK_VARIANCE = QUICK + 1
RECORD_WIDTH = 24  # the used fields and padding up to a multiple of 8 floats

# --- one row of `numbers`: float64 ----------------------------------------------------------------------------------

COUNT, MEDIAN, DEVIATION = 0, 1, 2  # deviation: mean absolute deviation from the median
N_NUMBER_FIELDS = 3
NUMBER_MEMORY = 1000.0  # a number's median and deviation follow about so many of its last values
NUMBER_LIMIT = 4.0  # asinh-scaled numbers are clipped here
GRIDS = ((1, 1.0, 1), (2, 5.0, 101))  # (kind, knots a unit, first knot's tag): the coarse and the fine grid
PLAIN, COARSE, FINE = 0, 1, 2  # kinds of activation: a category or a number's own row; a knot of either grid
MAX_PER_FEATURE = 1 + 2 * len(GRIDS)  # activations of one number
SEES = np.array([[1.0, 1.0, float(expert.sees_fine)] for expert in EXPERTS], np.float32)  # (expert, kind)

# --- the state beside the table: float64 ----------------------------------------------------------------------------

EVENTS = 0  # learned so far; the clock of the quick weights
LABEL_WEIGHT, LABEL_MEAN, LABEL_VARIANCE = 1, 2, 3
BIAS = 4
BIAS_VARIANCE = BIAS + N_EXPERTS
QUICK_BIAS = BIAS_VARIANCE + N_EXPERTS
QUICK_BIAS_VARIANCE = QUICK_BIAS + 1
RESIDUAL = (
    QUICK_BIAS_VARIANCE + 1
)  # running squared error (regression) or pinball loss (quantile) an expert, then the mixture's
MIX = RESIDUAL + N_EXPERTS + 1  # mixing weights
MIX_COVARIANCE = MIX + N_EXPERTS  # (N_EXPERTS, N_EXPERTS), row by row
CURVE = MIX_COVARIANCE + N_EXPERTS * N_EXPERTS  # the calibration curve's values at its knots
CURVE_VARIANCE = CURVE + N_KNOTS
STATE_WIDTH = CURVE_VARIANCE + N_KNOTS

BINARY, REGRESSION, COUNTS, QUANTILE = 0, 1, 2, 3  # tasks, as the kernel numbers them

FORGET_BIAS = math.exp(-1.0 / QUICK_BIAS_EVENTS)


class Scratch(NamedTuple):
    """Working memory of one event with up to A activations; nothing in it outlives the event."""

    row: NDArray[np.int64]  # (A,)
    value: NDArray[np.float32]  # (A,)
    kind: NDArray[np.int64]  # (A,)
    slope: NDArray[np.float32]  # (A, DIM): S - value * embedding, the derivative of z for each element but for `value`
    slope_square: NDArray[np.float32]  # (A, N_EXPERTS): its squared length
    quick: NDArray[np.float32]  # (A, 2): the quick weight and its variance, after forgetting
    number_row: NDArray[np.int64]  # (A,): rows of `numbers` that this event moves, and to what
    number: NDArray[np.float64]  # (A, 3)
    total: NDArray[np.float32]  # (DIM,): S, the embedding
    score: NDArray[np.float64]  # (N_EXPERTS,): z
    spread: NDArray[np.float64]  # (N_EXPERTS,): s, the variance of z
    moderated: NDArray[np.float64]  # (N_EXPERTS,): z as it is mixed
    step: NDArray[np.float64]  # (N_EXPERTS,): g f
    shrink: NDArray[np.float64]  # (N_EXPERTS,): h f
    residual: NDArray[np.float64]  # (N_EXPERTS + 1,)
    cross: NDArray[np.float64]  # (N_EXPERTS,): mixing covariance times moderated scores


def make_scratch(n_features: int) -> Scratch:
    """Working memory for events of at most `n_features` features."""
    n = max(1, n_features * MAX_PER_FEATURE)
    return Scratch(
        row=np.empty(n, np.int64),
        value=np.empty(n, np.float32),
        kind=np.empty(n, np.int64),
        slope=np.empty((n, DIM), np.float32),
        slope_square=np.empty((n, N_EXPERTS), np.float32),
        quick=np.empty((n, 2), np.float32),
        number_row=np.empty(n, np.int64),
        number=np.empty((n, N_NUMBER_FIELDS)),
        total=np.empty(DIM, np.float32),
        score=np.empty(N_EXPERTS),
        spread=np.empty(N_EXPERTS),
        moderated=np.empty(N_EXPERTS),
        step=np.empty(N_EXPERTS),
        shrink=np.empty(N_EXPERTS),
        residual=np.empty(N_EXPERTS + 1),
        cross=np.empty(N_EXPERTS),
    )


@njit(cache=True, nogil=True)
def mix_row(row, knot, n_rows):  # type: ignore[no-untyped-def]
    """The row of a number's knot: the number's own row and the knot's tag, mixed (after splitmix64's finalizer)."""
    h = np.uint64(row) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(knot) * np.uint64(0xC2B2AE3D27D4EB4F)
    h ^= h >> np.uint64(29)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(32)
    return np.int64(h & np.uint64(n_rows - 1))


@njit(cache=True, nogil=True)
def sigmoid(z):  # type: ignore[no-untyped-def]
    return 1.0 / (1.0 + math.exp(-z))


@njit(cache=True, nogil=True)
def clip(x, low, high):  # type: ignore[no-untyped-def]
    return min(max(x, low), high)


@njit(cache=True, nogil=True)
def place(x, number, moved):  # type: ignore[no-untyped-def]
    """Where `x` lies among the values seen, in [-4, 4]; `moved` becomes `number` with `x` taken into account."""
    count = number[COUNT] + 1.0
    median = number[MEDIAN]
    deviation = number[DEVIATION]
    delta = x - median
    if count == 1.0:
        median = x
    else:
        size = abs(delta)
        rate = 1.0 / min(count, NUMBER_MEMORY)
        if count <= 10.0:
            deviation += (size - deviation) / count
            median += delta / count
        else:
            deviation += (min(size, 4.0 * deviation) - deviation) * rate if deviation > 0.0 else size * rate
            median += (1.0 if delta > 0.0 else -1.0) * min(deviation * 2.0 * rate, size)
    moved[COUNT] = count
    moved[MEDIAN] = median
    moved[DEVIATION] = deviation
    t = math.asinh((x - median) / deviation) if deviation > 0.0 else 0.0
    return clip(t, -NUMBER_LIMIT, NUMBER_LIMIT)


@njit(cache=True, nogil=True, forceinline=True)
def activate(begin, end, rows, values, is_number, numbers, n_rows, scratch):  # type: ignore[no-untyped-def]
    """Turns features [begin, end) into activations; returns how many, and how many numbers they hold."""
    n = 0
    n_numbers = 0
    for j in range(begin, end):
        row = rows[j]
        scratch.row[n] = row
        scratch.kind[n] = PLAIN
        if not is_number[j]:
            scratch.value[n] = values[j]
            n += 1
            continue
        t = place(values[j], numbers[row], scratch.number[n_numbers])
        scratch.number_row[n_numbers] = row
        n_numbers += 1
        scratch.value[n] = t * 0.5
        n += 1
        for kind, per_unit, first in GRIDS:
            at = (t + NUMBER_LIMIT) * per_unit
            knot = int(at)
            share = at - knot
            scratch.row[n] = mix_row(row, first + knot, n_rows)
            scratch.value[n] = 1.0 - share
            scratch.kind[n] = kind
            n += 1
            if share > 0.0:
                scratch.row[n] = mix_row(row, first + knot + 1, n_rows)
                scratch.value[n] = share
                scratch.kind[n] = kind
                n += 1
    return n, n_numbers


@njit(cache=True, nogil=True, forceinline=True)
def score(n, table, touched, state, scratch):  # type: ignore[no-untyped-def]
    """Each expert's score and its variance, as of the event that comes next; writes to `scratch` only."""
    tick = state[EVENTS] + 1.0
    z = scratch.score
    s = scratch.spread
    total = scratch.total
    square = np.zeros(DIM, np.float32)
    for e in range(N_EXPERTS):
        z[e] = state[BIAS + e]
        s[e] = state[BIAS_VARIANCE + e] + DRIFT_BIAS
    z[QUICK_EXPERT] += state[QUICK_BIAS] * FORGET_BIAS
    s[QUICK_EXPERT] += PRIOR_QUICK_BIAS + (state[QUICK_BIAS_VARIANCE] - PRIOR_QUICK_BIAS) * FORGET_BIAS * FORGET_BIAS
    for k in range(DIM):
        total[k] = 0.0
    for j in range(n):
        record = table[scratch.row[j]]
        x = scratch.value[j]
        forget = np.float32(math.exp((touched[scratch.row[j]] - tick) / QUICK_EVENTS))
        scratch.quick[j, 0] = record[QUICK] * forget
        scratch.quick[j, 1] = PRIOR_QUICK + (record[QUICK_VARIANCE] - PRIOR_QUICK) * forget * forget
        z[QUICK_EXPERT] += scratch.quick[j, 0] * x
        s[QUICK_EXPERT] += x * x * scratch.quick[j, 1]
        for e in range(N_EXPERTS):
            xe = x * SEES[e, scratch.kind[j]]
            z[e] += record[WEIGHT + e] * xe
            for k in range(e * EXPERT_DIM, (e + 1) * EXPERT_DIM):
                part = record[k] * xe
                total[k] += part
                square[k] += part * part
    for e in range(N_EXPERTS):
        pairs = np.float32(0.0)
        for k in range(e * EXPERT_DIM, (e + 1) * EXPERT_DIM):
            pairs += total[k] * total[k] - square[k]
        z[e] += 0.5 * pairs
    for j in range(n):
        record = table[scratch.row[j]]
        x = scratch.value[j]
        for e in range(N_EXPERTS):
            xe = x * SEES[e, scratch.kind[j]]
            length = np.float32(0.0)
            for k in range(e * EXPERT_DIM, (e + 1) * EXPERT_DIM):
                slope = total[k] - record[k] * xe
                scratch.slope[j, k] = slope
                length += slope * slope
            scratch.slope_square[j, e] = length
            weight_variance = min(record[WEIGHT_VARIANCE + e] + DRIFT_WEIGHT[e], PRIOR_WEIGHT[e])
            variance = min(record[EMBEDDING_VARIANCE + e] + DRIFT_EMBEDDING[e], PRIOR_EMBEDDING[e])
            s[e] += xe * xe * (weight_variance + variance * length)


@njit(cache=True, nogil=True)
def mix(task, state, scratch):  # type: ignore[no-untyped-def]
    """The mixture's score; a binary expert's score is moderated by its variance first (MacKay 1992)."""
    mixed = 0.0
    for e in range(N_EXPERTS):
        z = scratch.score[e]
        if task == BINARY:
            z /= math.sqrt(1.0 + math.pi / 8.0 * scratch.spread[e])
        scratch.moderated[e] = z
        mixed += state[MIX + e] * z
    if task == BINARY or task == COUNTS:
        mixed = clip(mixed, -SCORE_LIMIT, SCORE_LIMIT)
    return mixed


@njit(cache=True, nogil=True)
def calibrate(mixed, state):  # type: ignore[no-untyped-def]
    """(calibrated logit, the knot below, share of the knot above): piecewise linear, and straight beyond the knots."""
    at = clip((mixed - CURVE_LOW) / CURVE_STEP, 0.0, N_KNOTS - 1.000001)
    knot = int(at)
    share = at - knot
    beyond = mixed - (CURVE_LOW + at * CURVE_STEP)
    return state[CURVE + knot] * (1.0 - share) + state[CURVE + knot + 1] * share + beyond, knot, share


@njit(cache=True, nogil=True)
def deviation(variance, weight):  # type: ignore[no-untyped-def]
    """Standard deviation of the labels; 1 until two of them are known."""
    return math.sqrt(max(variance, 1e-12)) if weight > 1.0 else 1.0


@njit(cache=True, nogil=True)
def log_rate(mean, weight):  # type: ignore[no-untyped-def]
    """Log of the labels' mean, with one imagined count of 1: where a count's score starts from."""
    return math.log((mean * weight + 1.0) / (weight + 1.0))


@njit(cache=True, nogil=True)
def link(task, mixed, state):  # type: ignore[no-untyped-def]
    """(prediction, score): the score is a logit, a log rate, or the standardized label."""
    if task == BINARY:
        logit, _, _ = calibrate(mixed, state)
        return sigmoid(logit), logit
    if task == COUNTS:
        z = clip(mixed + log_rate(state[LABEL_MEAN], state[LABEL_WEIGHT]), -300.0, 300.0)
        return math.exp(z), z
    return state[LABEL_MEAN] + deviation(state[LABEL_VARIANCE], state[LABEL_WEIGHT]) * mixed, mixed


@njit(cache=True, nogil=True)
def differentiate(task, z, y, residual, offset, quantile):  # type: ignore[no-untyped-def]
    """Loss gradient and curvature at score `z`: (g, h).

    `y` is the label as the task learns it (standardized but for binary and counts); `residual` the running squared
    error or pinball loss; `offset` the log rate that a count's score starts from. The quantile's loss is the negative
    log likelihood of an asymmetric Laplace distribution, with its Fisher information for curvature.
    """
    if task == BINARY:
        p = sigmoid(clip(z, -SCORE_LIMIT, SCORE_LIMIT))
        return p - y, max(p * (1.0 - p), CURVATURE_FLOOR)
    if task == COUNTS:
        rate = math.exp(clip(z, -SCORE_LIMIT, SCORE_LIMIT) + offset)
        return rate - y, max(rate, CURVATURE_FLOOR)
    if task == QUANTILE:
        return ((1.0 if y < z else 0.0) - quantile) / residual, quantile * (1.0 - quantile) / (residual * residual)
    return (z - y) / residual, 1.0 / residual


@njit(cache=True, nogil=True)
def pinball(error, quantile):  # type: ignore[no-untyped-def]
    """Pinball loss of `error` = label - prediction."""
    return error * quantile if error > 0.0 else error * (quantile - 1.0)


@njit(cache=True, nogil=True, forceinline=True)
def update_rows(n, table, touched, state, scratch):  # type: ignore[no-untyped-def]
    """Moves every active row by its expert's step; a row's first touch by an event also ages it to this event."""
    tick = np.int64(state[EVENTS])
    for j in range(n):
        row = scratch.row[j]
        record = table[row]
        x = scratch.value[j]
        if touched[row] != tick:
            touched[row] = tick
            record[QUICK] = scratch.quick[j, 0]
            record[QUICK_VARIANCE] = scratch.quick[j, 1]
            for e in range(N_EXPERTS):
                at = WEIGHT_VARIANCE + e
                record[at] = min(record[at] + DRIFT_WEIGHT[e], PRIOR_WEIGHT[e])
                at = EMBEDDING_VARIANCE + e
                record[at] = min(record[at] + DRIFT_EMBEDDING[e], PRIOR_EMBEDDING[e])
        for e in range(N_EXPERTS):
            xe = x * SEES[e, scratch.kind[j]]
            v = record[EMBEDDING_VARIANCE + e]
            move = np.float32(v * xe * scratch.step[e])
            for k in range(e * EXPERT_DIM, (e + 1) * EXPERT_DIM):
                record[k] -= move * scratch.slope[j, k]
            shrink = xe * xe * scratch.shrink[e]
            record[EMBEDDING_VARIANCE + e] = v - v * v * shrink * scratch.slope_square[j, e] / EXPERT_DIM
            v = record[WEIGHT_VARIANCE + e]
            record[WEIGHT + e] -= v * xe * scratch.step[e]
            record[WEIGHT_VARIANCE + e] = v - v * v * shrink
        v = record[QUICK_VARIANCE]
        record[QUICK] -= v * x * scratch.step[QUICK_EXPERT]
        record[QUICK_VARIANCE] = v - v * v * x * x * scratch.shrink[QUICK_EXPERT]


@njit(cache=True, nogil=True)
def update_state(state, scratch):  # type: ignore[no-untyped-def]
    """Moves the biases: drift, forgetting and one step."""
    for e in range(N_EXPERTS):
        v = state[BIAS_VARIANCE + e] + DRIFT_BIAS
        state[BIAS + e] -= v * scratch.step[e]
        state[BIAS_VARIANCE + e] = v - v * v * scratch.shrink[e]
        state[RESIDUAL + e] = scratch.residual[e]
    state[RESIDUAL + N_EXPERTS] = scratch.residual[N_EXPERTS]
    v = PRIOR_QUICK_BIAS + (state[QUICK_BIAS_VARIANCE] - PRIOR_QUICK_BIAS) * FORGET_BIAS * FORGET_BIAS
    state[QUICK_BIAS] = state[QUICK_BIAS] * FORGET_BIAS - v * scratch.step[QUICK_EXPERT]
    state[QUICK_BIAS_VARIANCE] = v - v * v * scratch.shrink[QUICK_EXPERT]


@njit(cache=True, nogil=True)
def update_mix(g, h, state, scratch):  # type: ignore[no-untyped-def]
    """Moves the mixing weights by a full (not diagonal) Kalman step."""
    spread = 0.0
    for e in range(N_EXPERTS):
        scratch.cross[e] = 0.0
        for k in range(N_EXPERTS):
            scratch.cross[e] += state[MIX_COVARIANCE + e * N_EXPERTS + k] * scratch.moderated[k]
        spread += scratch.moderated[e] * scratch.cross[e]
    gain = 1.0 / (1.0 + h * spread)
    for e in range(N_EXPERTS):
        state[MIX + e] -= scratch.cross[e] * g * gain
        for k in range(N_EXPERTS):
            state[MIX_COVARIANCE + e * N_EXPERTS + k] -= scratch.cross[e] * scratch.cross[k] * h * gain
        at = MIX_COVARIANCE + e * (N_EXPERTS + 1)
        if state[at] < PRIOR_MIX:  # where the experts agree nothing shrinks it: without a bound it would wind up
            state[at] += DRIFT_MIX


@njit(cache=True, nogil=True, forceinline=True)
def update_curve(mixed, y, weight, state):  # type: ignore[no-untyped-def]
    """Moves the two knots of the calibration curve that enclose the mixed score."""
    logit, knot, share = calibrate(mixed, state)
    p = sigmoid(logit)
    g = (p - y) * weight
    h = max(p * (1.0 - p), CURVATURE_FLOOR) * weight
    below = 1.0 - share
    v_below = state[CURVE_VARIANCE + knot]
    v_above = state[CURVE_VARIANCE + knot + 1]
    gain = 1.0 / (1.0 + h * (v_below * below * below + v_above * share * share))
    state[CURVE + knot] -= v_below * below * g * gain
    state[CURVE + knot + 1] -= v_above * share * g * gain
    shrunk = v_below - v_below * v_below * below * below * h * gain
    state[CURVE_VARIANCE + knot] = min(shrunk + DRIFT_CURVE, PRIOR_CURVE)
    shrunk = v_above - v_above * v_above * share * share * h * gain
    state[CURVE_VARIANCE + knot + 1] = min(shrunk + DRIFT_CURVE, PRIOR_CURVE)


@njit(cache=True, nogil=True, forceinline=True)
def learn_one(task, quantile, n, n_numbers, mixed, label, weight, table, touched, numbers, state, scratch):  # type: ignore[no-untyped-def]
    """One step after `score` and `mix`; returns False, with nothing written, where a step would not stay finite."""
    label_weight, mean, variance = state[LABEL_WEIGHT], state[LABEL_MEAN], state[LABEL_VARIANCE]
    if weight > 0.0:
        label_weight += weight
        share = weight / label_weight  # exactly 1 for the first label, so that its distance from the mean is exactly 0
        delta = label - mean
        mean += delta * share
        if share < 1.0:
            variance += (delta * (label - mean) - variance) * share
    y = label
    offset = 0.0
    if task == COUNTS:
        offset = log_rate(mean, label_weight)
    elif task != BINARY:
        y = (label - mean) / deviation(variance, label_weight)
    residual = state[RESIDUAL + N_EXPERTS]
    rate = min(RESIDUAL_RATE * weight, 1.0)
    g, h = differentiate(task, mixed, y, residual, offset, quantile)
    g *= weight
    h *= weight
    is_finite = math.isfinite(g) and math.isfinite(h) and math.isfinite(variance)
    if task == REGRESSION:
        residual = max(residual + rate * ((mixed - y) * (mixed - y) - residual), RESIDUAL_FLOOR)
    elif task == QUANTILE:
        residual = max(residual + rate * (pinball(y - mixed, quantile) - residual), RESIDUAL_FLOOR)
    scratch.residual[N_EXPERTS] = residual
    for e in range(N_EXPERTS):
        z = scratch.moderated[e]
        s = scratch.spread[e]
        residual = state[RESIDUAL + e]
        ge, he = differentiate(task, z, y, residual, offset, quantile)
        if task == REGRESSION:
            error = z - y
            residual = max(residual + rate * (error * error / (1.0 + s * he) - residual), RESIDUAL_FLOOR)
        elif task == QUANTILE:
            residual = max(residual + rate * (pinball(y - z, quantile) - residual), RESIDUAL_FLOOR)
        scratch.residual[e] = residual
        ge *= weight
        he *= weight
        gain = 1.0 / (1.0 + he * s)
        if task == COUNTS and abs(ge) * gain * s > COUNT_MOVE_LIMIT:
            ge = math.copysign(COUNT_MOVE_LIMIT / (gain * s), ge)
        scratch.step[e] = ge * gain
        scratch.shrink[e] = he * gain
        is_finite = is_finite and abs(scratch.step[e]) < STEP_LIMIT and s < STEP_LIMIT * STEP_LIMIT
        for j in range(n):
            is_finite = is_finite and scratch.slope_square[j, e] < STEP_LIMIT * STEP_LIMIT
    if not is_finite:
        return False
    for j in range(n_numbers):
        for k in range(N_NUMBER_FIELDS):
            numbers[scratch.number_row[j], k] = scratch.number[j, k]
    state[EVENTS] += 1.0
    state[LABEL_WEIGHT], state[LABEL_MEAN], state[LABEL_VARIANCE] = label_weight, mean, variance
    if task == BINARY:
        update_curve(mixed, y, weight, state)
    update_state(state, scratch)
    update_rows(n, table, touched, state, scratch)
    update_mix(g, h, state, scratch)
    return True


@njit(cache=True, nogil=True)
def learn(  # type: ignore[no-untyped-def]
    task, quantile, begin, end, rows, offsets, values, is_number, labels, weights, table, touched, numbers, state,
    scratch, predictions, is_learned,
):  # fmt: skip
    """Predicts, then learns, each of the events [begin, end) in turn.

    `predictions` gets what was predicted before learning; `is_learned` whether the step was written.
    """
    n_rows = table.shape[0]
    for b in range(begin, end):
        n, n_numbers = activate(offsets[b], offsets[b + 1], rows, values, is_number, numbers, n_rows, scratch)
        score(n, table, touched, state, scratch)
        mixed = mix(task, state, scratch)
        predictions[b], _ = link(task, mixed, state)
        is_learned[b] = learn_one(
            task, quantile, n, n_numbers, mixed, labels[b], weights[b], table, touched, numbers, state, scratch
        )


@njit(cache=True, nogil=True)
def predict(  # type: ignore[no-untyped-def]
    task, rows, offsets, values, is_number, table, touched, numbers, state, scratch, predictions, scores, embeddings
):
    """Predictions, scores and embeddings of all events, as `learn` would predict the next one; changes nothing."""
    n_rows = table.shape[0]
    for b in range(len(offsets) - 1):
        n, _ = activate(offsets[b], offsets[b + 1], rows, values, is_number, numbers, n_rows, scratch)
        score(n, table, touched, state, scratch)
        predictions[b], scores[b] = link(task, mix(task, state, scratch), state)
        for k in range(DIM):
            embeddings[b, k] = scratch.total[k]

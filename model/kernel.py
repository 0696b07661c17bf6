"""The learner's compiled core: what a row holds, the experts, and one event's way through them.

Everything that is compiled stands in this one file, constants included, but for the vectors' operations: Numba's cache
watches the file of a function only, so a constant changed elsewhere would go on living in compiled code.

The model is a factorization machine (Rendle 2010) over hashed rows whose every parameter carries its variance and
learns by a diagonal extended Kalman filter, which is online natural gradient (Ollivier 2018). For a parameter t with
variance v, derivative a = dz/dt, loss gradient g and curvature h at the score z, and s = sum v a^2:

    f = 1 / (1 + h s)        t -= v a g f        v -= v^2 a^2 h f

`model.reference` is the same model in plain torch; a test holds one step of this kernel to it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flexihash.model.tasks import TASKS, Task
from flexihash.model.vectors import (
    float32s,
    float64s,
    int64s,
    lane,
    load8,
    load16,
    shuffled,
    smaller,
    splat16,
    store,
    uint8s,
    with_lane,
)

# Stages of an event are inlined and take memory by address: Numba counts references of arrays, atomically, and passes
# vectors through memory.

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

# --- one row of the table: a record of float32, in lanes -------------------------------------------------------------
# First the 16 parameters, then the variances that they share: those of the weights lie as the weights do.

EMBEDDING = 0  # DIM elements, expert by expert
WEIGHT = EMBEDDING + DIM  # one an expert
QUICK = WEIGHT + N_EXPERTS  # the quick weight
N_PARAMETERS = QUICK + 1
WEIGHT_VARIANCE = N_PARAMETERS
QUICK_VARIANCE = WEIGHT_VARIANCE + N_EXPERTS
EMBEDDING_VARIANCE = QUICK_VARIANCE + 1  # one an expert: its embedding's elements share it
N_VARIANCES = EMBEDDING_VARIANCE + N_EXPERTS + 1 - WEIGHT_VARIANCE  # one lane is spare
RECORD_WIDTH = N_PARAMETERS + N_VARIANCES
PARAMETER_BYTES, VARIANCE_BYTES = 4 * N_PARAMETERS, 4 * N_VARIANCES
RECORD_BYTES = 4 * RECORD_WIDTH

# Of each parameter's lane: the lane of its variance, and the expert to whose score it adds.
VARIANCE_OF = [EMBEDDING_VARIANCE - WEIGHT_VARIANCE + k // EXPERT_DIM for k in range(DIM)] + list(range(N_EXPERTS + 1))
EXPERT_OF_PARAMETER = np.array([*(k // EXPERT_DIM for k in range(DIM)), *range(N_EXPERTS), QUICK_EXPERT])
EXPERT_OF_VARIANCE = np.array([*range(N_EXPERTS), QUICK_EXPERT, *range(N_EXPERTS), 0])

WEIGHTS = slice(WEIGHT, WEIGHT + N_EXPERTS)  # of a record, for everyone else
WEIGHT_VARIANCES = slice(WEIGHT_VARIANCE, WEIGHT_VARIANCE + N_EXPERTS)
EMBEDDING_VARIANCES = slice(EMBEDDING_VARIANCE, EMBEDDING_VARIANCE + N_EXPERTS)

spread_variances = shuffled(VARIANCE_OF, N_VARIANCES)
swap_neighbours = shuffled([k ^ 1 for k in range(N_PARAMETERS)], N_PARAMETERS)
swap_pairs = shuffled([k ^ 2 for k in range(N_PARAMETERS)], N_PARAMETERS)
take_embedding = shuffled([k if k < DIM else k + N_PARAMETERS for k in range(N_PARAMETERS)], N_PARAMETERS)
gather_squares = shuffled(  # weights' lanes of the first vector, the first lane of each expert of the second one
    [*range(WEIGHT, N_PARAMETERS), *(N_PARAMETERS + e * EXPERT_DIM for e in range(N_EXPERTS)), QUICK], N_PARAMETERS
)
with_quick = with_lane(QUICK)
with_quick_variance = with_lane(QUICK_VARIANCE - WEIGHT_VARIANCE)
get_quick = lane(QUICK)
get_quick_variance = lane(QUICK_VARIANCE - WEIGHT_VARIANCE)

BLOCK_BITS = 4
BLOCK_ROWS = 1 << BLOCK_BITS  # rows whose newest change is looked up at once, by whoever copies what changed

# --- one row of `numbers`: float64 ----------------------------------------------------------------------------------

COUNT, MEDIAN, DEVIATION = 0, 1, 2  # deviation: mean absolute deviation from the median
N_NUMBER_FIELDS = 3
NUMBER_BYTES = 8 * N_NUMBER_FIELDS
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
RESIDUAL = QUICK_BIAS_VARIANCE + 1  # running squared error, or pinball loss, of each expert and of the mixture
MIX = RESIDUAL + N_EXPERTS + 1  # mixing weights
MIX_COVARIANCE = MIX + N_EXPERTS  # (N_EXPERTS, N_EXPERTS), row by row
CURVE = MIX_COVARIANCE + N_EXPERTS * N_EXPERTS  # the calibration curve's values at its knots
CURVE_VARIANCE = CURVE + N_KNOTS
STATE_WIDTH = CURVE_VARIANCE + N_KNOTS

BINARY, REGRESSION, COUNTS, QUANTILE = (TASKS[task].number for task in Task)

FORGET_BIAS = math.exp(-1.0 / QUICK_BIAS_EVENTS)

# Forgetting over an age of events without an exp() for each row: exp(-age / QUICK_EVENTS) is a product of two of these.
FINE_BITS = 8
FORGET_FINE = np.exp(-np.arange(1 << FINE_BITS) / QUICK_EVENTS).astype(np.float32)
FORGET_COARSE = np.exp(-np.arange(512) * (1 << FINE_BITS) / QUICK_EVENTS).astype(np.float32)
FORGET_COARSE[FORGET_COARSE < 1e-37] = 0.0  # numbers so small are slow


# --- memory, by address -----------------------------------------------------------------------------------------------


class Memory(NamedTuple):
    """Where the memory of `model.tables` begins, and how many rows it has."""

    n_rows: int
    table: int
    touched: int
    numbers: int
    state: int
    blocks: int  # (n_rows / BLOCK_ROWS,) int64: the newest `touched` of each block of rows


class Events(NamedTuple):
    """Where the arrays of a `model.features.Batch` begin."""

    rows: int  # (nnz,) int64
    offsets: int  # (B + 1,) int64
    values: int  # (nnz,) float64
    is_number: int  # (nnz,) uint8


class Scratch(NamedTuple):
    """Where one event with up to A activations is worked on; nothing in it outlives the event."""

    row: int  # (A,) int64
    value: int  # (A,) float32
    kind: int  # (A,) int64
    forget: int  # (A,) float32: what is left of the row's quick weight
    part: int  # (A, 16) float32: parameters times value
    slope: int  # (A, 16) float32: dz/dt of each parameter t
    square: int  # (A, 8) float32: its square, as each variance sees it
    number_row: int  # (A,) int64: rows of `numbers` that this event moves, and to what
    number: int  # (A, 3) float64
    total: int  # (16,) float32: sum of the parts; the embedding S is its beginning
    pairs: int  # (16,) float32: S^2 less the parts' own squares
    spreads: int  # (16,) float32: s by parameter
    largest: int  # (16,) float32: sum of the slopes' squares
    steps: int  # (16,) float32: g f by parameter
    shrinks: int  # (8,) float32: h f by variance
    score: int  # (N_EXPERTS,) float64: z
    spread: int  # (N_EXPERTS,) float64: s, the variance of z
    moderated: int  # (N_EXPERTS,) float64: z as it is mixed
    residual: int  # (N_EXPERTS + 1,) float64
    step: int  # (N_EXPERTS,) float64: g f
    shrink: int  # (N_EXPERTS,) float64: h f
    cross: int  # (N_EXPERTS,) float64: mixing covariance times moderated scores
    sees: int  # (3, 16) float32: SEES by kind and parameter
    aging: int  # (2, 8) float32: drift and prior of each variance


def make_scratch(n_features: int) -> tuple[Scratch, list[NDArray[Any]]]:
    """Working memory for events of at most `n_features` features, and what must be kept as long as it is used."""
    n = max(1, n_features * MAX_PER_FEATURE)
    sees = SEES.T[:, EXPERT_OF_PARAMETER].copy()
    sees[:, QUICK] = 1.0
    aging = np.zeros((2, N_VARIANCES), np.float32)
    for row, weight, embedding in ((0, DRIFT_WEIGHT, DRIFT_EMBEDDING), (1, PRIOR_WEIGHT, PRIOR_EMBEDDING)):
        aging[row, :N_EXPERTS] = weight
        aging[row, EMBEDDING_VARIANCE - WEIGHT_VARIANCE :][:N_EXPERTS] = embedding
    kept = [sees, aging]

    def take(dtype: Any, *shape: int) -> int:
        kept.append(np.zeros(shape, dtype))
        return kept[-1].ctypes.data

    scratch = Scratch(
        row=take(np.int64, n),
        value=take(np.float32, n),
        kind=take(np.int64, n),
        forget=take(np.float32, n),
        part=take(np.float32, n, N_PARAMETERS),
        slope=take(np.float32, n, N_PARAMETERS),
        square=take(np.float32, n, N_VARIANCES),
        number_row=take(np.int64, n),
        number=take(np.float64, n, N_NUMBER_FIELDS),
        total=take(np.float32, N_PARAMETERS),
        pairs=take(np.float32, N_PARAMETERS),
        spreads=take(np.float32, N_PARAMETERS),
        largest=take(np.float32, N_PARAMETERS),
        steps=take(np.float32, N_PARAMETERS),
        shrinks=take(np.float32, N_VARIANCES),
        score=take(np.float64, N_EXPERTS),
        spread=take(np.float64, N_EXPERTS),
        moderated=take(np.float64, N_EXPERTS),
        residual=take(np.float64, N_EXPERTS + 1),
        step=take(np.float64, N_EXPERTS),
        shrink=take(np.float64, N_EXPERTS),
        cross=take(np.float64, N_EXPERTS),
        sees=sees.ctypes.data,
        aging=aging.ctypes.data,
    )
    return scratch, kept


@njit(cache=True, nogil=True)
def mix_row(row, knot, n_rows):  # type: ignore[no-untyped-def]
    """The row of a number's knot: the number's own row and the knot's tag, mixed (after splitmix64's finalizer)."""
    h = np.uint64(row) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(knot) * np.uint64(0xC2B2AE3D27D4EB4F)
    h ^= h >> np.uint64(29)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(32)
    return np.int64(h & np.uint64(n_rows - 1))


@njit(cache=True, nogil=True, forceinline=True)
def sigmoid(z):  # type: ignore[no-untyped-def]
    return 1.0 / (1.0 + math.exp(-z))


@njit(cache=True, nogil=True, forceinline=True)
def clip(x, low, high):  # type: ignore[no-untyped-def]
    return min(max(x, low), high)


@njit(cache=True, nogil=True, forceinline=True)
def place(x, number, moved):  # type: ignore[no-untyped-def]
    """Where `x` lies among the values seen, in [-4, 4]; `moved` becomes `number` with `x` taken into account."""
    number, moved = float64s(number), float64s(moved)
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
def activate(begin, end, events, memory, scratch):  # type: ignore[no-untyped-def]
    """Turns features [begin, end) into activations; returns how many, and how many numbers they hold."""
    rows, values, is_number = int64s(events.rows), float64s(events.values), uint8s(events.is_number)
    to_row, to_value, to_kind = int64s(scratch.row), float32s(scratch.value), int64s(scratch.kind)
    number_row = int64s(scratch.number_row)
    n = 0
    n_numbers = 0
    for j in range(begin, end):
        row = rows[j]
        to_row[n] = row
        to_kind[n] = PLAIN
        if not is_number[j]:
            to_value[n] = values[j]
            n += 1
            continue
        t = place(
            values[j],
            memory.numbers + NUMBER_BYTES * row,
            scratch.number + NUMBER_BYTES * n_numbers,
        )
        number_row[n_numbers] = row
        n_numbers += 1
        to_value[n] = t * 0.5
        n += 1
        for kind, per_unit, first in GRIDS:
            at = (t + NUMBER_LIMIT) * per_unit
            knot = int(at)
            share = at - knot
            to_row[n] = mix_row(row, first + knot, memory.n_rows)
            to_value[n] = 1.0 - share
            to_kind[n] = kind
            n += 1
            if share > 0.0:
                to_row[n] = mix_row(row, first + knot + 1, memory.n_rows)
                to_value[n] = share
                to_kind[n] = kind
                n += 1
    return n, n_numbers


@njit(cache=True, nogil=True, forceinline=True)
def age(variances, forget, aging):  # type: ignore[no-untyped-def]
    """A row's variances as its next event finds them: grown by their drift; the quick one back towards its prior."""
    grown = smaller(variances + load8(aging), load8(aging + VARIANCE_BYTES))
    prior = np.float32(PRIOR_QUICK)
    return with_quick_variance(grown, prior + (get_quick_variance(variances) - prior) * forget * forget)


@njit(cache=True, nogil=True, forceinline=True)
def get_forget(elapsed):  # type: ignore[no-untyped-def]
    """What is left of a quick weight after `elapsed` events."""
    coarse = min(elapsed >> FINE_BITS, len(FORGET_COARSE) - 1)
    return FORGET_COARSE[coarse] * FORGET_FINE[elapsed & ((1 << FINE_BITS) - 1)]


@njit(cache=True, nogil=True, forceinline=True)
def score(n, memory, scratch):  # type: ignore[no-untyped-def]
    """Each expert's score and its variance, as of the event that comes next; writes to `scratch` only."""
    touched, state = int64s(memory.touched), float64s(memory.state)
    row, value, kind, forget = (
        int64s(scratch.row), float32s(scratch.value), int64s(scratch.kind), float32s(scratch.forget)
    )  # fmt: skip
    tick = np.int64(state[EVENTS]) + 1
    total = splat16(np.float32(0.0))
    own = total
    for j in range(n):
        record = load16(memory.table + RECORD_BYTES * row[j])
        forget[j] = get_forget(tick - touched[row[j]])
        x = splat16(value[j]) * load16(scratch.sees + PARAMETER_BYTES * kind[j])
        part = with_quick(record, get_quick(record) * forget[j]) * x
        store(scratch.part + PARAMETER_BYTES * j, part)
        total = total + part
        own = own + part * part
    one = splat16(np.float32(1.0))
    share = splat16(np.float32(1.0 / EXPERT_DIM))
    spreads = splat16(np.float32(0.0))
    largest = spreads
    for j in range(n):
        variances = age(load8(memory.table + RECORD_BYTES * row[j] + PARAMETER_BYTES), forget[j], scratch.aging)
        x = splat16(value[j]) * load16(scratch.sees + PARAMETER_BYTES * kind[j])
        slope = take_embedding(total - load16(scratch.part + PARAMETER_BYTES * j), one) * x
        square = slope * slope
        spreads = spreads + spread_variances(variances, variances) * square
        largest = largest + square
        mean = square + swap_neighbours(square, square)
        mean = (mean + swap_pairs(mean, mean)) * share
        store(scratch.slope + PARAMETER_BYTES * j, slope)
        store(scratch.square + VARIANCE_BYTES * j, gather_squares(square, mean))
    store(scratch.total, total)
    store(scratch.pairs, total * total - own)
    store(scratch.spreads, spreads)
    store(scratch.largest, largest)
    sum_up(state, scratch)


@njit(cache=True, nogil=True, forceinline=True)
def sum_up(state, scratch):  # type: ignore[no-untyped-def]
    """From the lanes' sums, and the biases, to each expert's score and its variance."""
    total, pairs, spreads = float32s(scratch.total), float32s(scratch.pairs), float32s(scratch.spreads)
    z, s = float64s(scratch.score), float64s(scratch.spread)
    for e in range(N_EXPERTS):
        z[e] = state[BIAS + e] + total[WEIGHT + e]
        s[e] = state[BIAS_VARIANCE + e] + DRIFT_BIAS + spreads[WEIGHT + e]
        for k in range(e * EXPERT_DIM, (e + 1) * EXPERT_DIM):
            z[e] += 0.5 * pairs[k]
            s[e] += spreads[k]
    z[QUICK_EXPERT] += state[QUICK_BIAS] * FORGET_BIAS + total[QUICK]
    v = PRIOR_QUICK_BIAS + (state[QUICK_BIAS_VARIANCE] - PRIOR_QUICK_BIAS) * FORGET_BIAS * FORGET_BIAS
    s[QUICK_EXPERT] += v + spreads[QUICK]


@njit(cache=True, nogil=True, forceinline=True)
def mix(task, state, scratch):  # type: ignore[no-untyped-def]
    """The mixture's score; a binary expert's score is moderated by its variance first (MacKay 1992)."""
    score, spread, moderated = float64s(scratch.score), float64s(scratch.spread), float64s(scratch.moderated)
    mixed = 0.0
    for e in range(N_EXPERTS):
        z = score[e]
        if task == BINARY:
            z /= math.sqrt(1.0 + math.pi / 8.0 * spread[e])
        moderated[e] = z
        mixed += state[MIX + e] * z
    if task == BINARY or task == COUNTS:
        mixed = clip(mixed, -SCORE_LIMIT, SCORE_LIMIT)
    return mixed


@njit(cache=True, nogil=True, forceinline=True)
def calibrate(mixed, state):  # type: ignore[no-untyped-def]
    """(calibrated logit, the knot below, share of the knot above): piecewise linear, and straight beyond the knots."""
    at = clip((mixed - CURVE_LOW) / CURVE_STEP, 0.0, N_KNOTS - 1.000001)
    knot = int(at)
    share = at - knot
    beyond = mixed - (CURVE_LOW + at * CURVE_STEP)
    return state[CURVE + knot] * (1.0 - share) + state[CURVE + knot + 1] * share + beyond, knot, share


@njit(cache=True, nogil=True, forceinline=True)
def deviation(variance, weight):  # type: ignore[no-untyped-def]
    """Standard deviation of the labels; 1 until two of them are known."""
    return math.sqrt(max(variance, 1e-12)) if weight > 1.0 else 1.0


@njit(cache=True, nogil=True, forceinline=True)
def log_rate(mean, weight):  # type: ignore[no-untyped-def]
    """Log of the labels' mean, with one imagined count of 1: where a count's score starts from."""
    return math.log((mean * weight + 1.0) / (weight + 1.0))


@njit(cache=True, nogil=True, forceinline=True)
def link(task, mixed, state):  # type: ignore[no-untyped-def]
    """(prediction, score): the score is a logit, a log rate, or the standardized label."""
    if task == BINARY:
        logit, _, _ = calibrate(mixed, state)
        return sigmoid(logit), logit
    if task == COUNTS:
        z = clip(mixed + log_rate(state[LABEL_MEAN], state[LABEL_WEIGHT]), -300.0, 300.0)
        return math.exp(z), z
    return state[LABEL_MEAN] + deviation(state[LABEL_VARIANCE], state[LABEL_WEIGHT]) * mixed, mixed


@njit(cache=True, nogil=True, forceinline=True)
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


@njit(cache=True, nogil=True, forceinline=True)
def pinball(error, quantile):  # type: ignore[no-untyped-def]
    """Pinball loss of `error` = label - prediction."""
    return error * quantile if error > 0.0 else error * (quantile - 1.0)


@njit(cache=True, nogil=True, forceinline=True)
def update_rows(n, memory, scratch):  # type: ignore[no-untyped-def]
    """Moves every active row by its expert's step; a row's first touch by an event also ages it to this event."""
    touched, row, forget = int64s(memory.touched), int64s(scratch.row), float32s(scratch.forget)
    blocks = int64s(memory.blocks)
    step, shrink = float64s(scratch.step), float64s(scratch.shrink)
    steps, shrinks = float32s(scratch.steps), float32s(scratch.shrinks)
    for k in range(N_PARAMETERS):
        steps[k] = step[EXPERT_OF_PARAMETER[k]]
    for k in range(N_VARIANCES):
        shrinks[k] = shrink[EXPERT_OF_VARIANCE[k]]
    tick = np.int64(float64s(memory.state)[EVENTS])
    for j in range(n):
        record = memory.table + RECORD_BYTES * row[j]
        parameters = load16(record)
        variances = load8(record + PARAMETER_BYTES)
        if touched[row[j]] != tick:
            touched[row[j]] = tick
            blocks[row[j] >> BLOCK_BITS] = tick
            parameters = with_quick(parameters, get_quick(parameters) * forget[j])
            variances = age(variances, forget[j], scratch.aging)
        slope = load16(scratch.slope + PARAMETER_BYTES * j)
        square = load8(scratch.square + VARIANCE_BYTES * j)
        move = spread_variances(variances, variances) * slope * load16(scratch.steps)
        store(record, parameters - move)
        store(record + PARAMETER_BYTES, variances - variances * variances * square * load8(scratch.shrinks))


@njit(cache=True, nogil=True, forceinline=True)
def update_state(state, scratch):  # type: ignore[no-untyped-def]
    """Moves the biases: drift, forgetting and one step."""
    step, shrink, residual = float64s(scratch.step), float64s(scratch.shrink), float64s(scratch.residual)
    for e in range(N_EXPERTS):
        v = state[BIAS_VARIANCE + e] + DRIFT_BIAS
        state[BIAS + e] -= v * step[e]
        state[BIAS_VARIANCE + e] = v - v * v * shrink[e]
        state[RESIDUAL + e] = residual[e]
    state[RESIDUAL + N_EXPERTS] = residual[N_EXPERTS]
    v = PRIOR_QUICK_BIAS + (state[QUICK_BIAS_VARIANCE] - PRIOR_QUICK_BIAS) * FORGET_BIAS * FORGET_BIAS
    state[QUICK_BIAS] = state[QUICK_BIAS] * FORGET_BIAS - v * step[QUICK_EXPERT]
    state[QUICK_BIAS_VARIANCE] = v - v * v * shrink[QUICK_EXPERT]


@njit(cache=True, nogil=True, forceinline=True)
def update_mix(g, h, state, scratch):  # type: ignore[no-untyped-def]
    """Moves the mixing weights by a full (not diagonal) Kalman step."""
    moderated, cross = float64s(scratch.moderated), float64s(scratch.cross)
    spread = 0.0
    for e in range(N_EXPERTS):
        cross[e] = 0.0
        for k in range(N_EXPERTS):
            cross[e] += state[MIX_COVARIANCE + e * N_EXPERTS + k] * moderated[k]
        spread += moderated[e] * cross[e]
    gain = 1.0 / (1.0 + h * spread)
    for e in range(N_EXPERTS):
        state[MIX + e] -= cross[e] * g * gain
        for k in range(N_EXPERTS):
            state[MIX_COVARIANCE + e * N_EXPERTS + k] -= cross[e] * cross[k] * h * gain
        at = MIX_COVARIANCE + e * (N_EXPERTS + 1)
        if state[at] < PRIOR_MIX:  # where the experts agree nothing shrinks it: without a bound it would wind up
            state[at] += DRIFT_MIX


@njit(cache=True, nogil=True, forceinline=True)
def update_curve(mixed, p, y, weight, state):  # type: ignore[no-untyped-def]
    """Moves the two knots of the calibration curve that enclose the mixed score; `p` was predicted."""
    _, knot, share = calibrate(mixed, state)
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
def learn_one(task, quantile, n, n_numbers, mixed, prediction, label, weight, memory, scratch):  # type: ignore[no-untyped-def]
    """One step after `score` and `mix`; returns False, with nothing written, where a step would not stay finite."""
    state, numbers = float64s(memory.state), float64s(memory.numbers)
    moderated, spread = float64s(scratch.moderated), float64s(scratch.spread)
    step, shrink, residuals = float64s(scratch.step), float64s(scratch.shrink), float64s(scratch.residual)
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
    residuals[N_EXPERTS] = residual
    for e in range(N_EXPERTS):
        z = moderated[e]
        s = spread[e]
        residual = state[RESIDUAL + e]
        ge, he = differentiate(task, z, y, residual, offset, quantile)
        if task == REGRESSION:
            error = z - y
            residual = max(residual + rate * (error * error / (1.0 + s * he) - residual), RESIDUAL_FLOOR)
        elif task == QUANTILE:
            residual = max(residual + rate * (pinball(y - z, quantile) - residual), RESIDUAL_FLOOR)
        residuals[e] = residual
        ge *= weight
        he *= weight
        gain = 1.0 / (1.0 + he * s)
        if task == COUNTS and abs(ge) * gain * s > COUNT_MOVE_LIMIT:
            ge = math.copysign(COUNT_MOVE_LIMIT / (gain * s), ge)
        step[e] = ge * gain
        shrink[e] = he * gain
        is_finite = is_finite and abs(step[e]) < STEP_LIMIT and s < STEP_LIMIT * STEP_LIMIT
    largest = float32s(scratch.largest)
    for k in range(N_PARAMETERS):
        is_finite = is_finite and largest[k] < STEP_LIMIT * STEP_LIMIT
    if not is_finite:
        return False
    number_row, number = int64s(scratch.number_row), float64s(scratch.number)
    for j in range(n_numbers):
        for k in range(N_NUMBER_FIELDS):
            numbers[N_NUMBER_FIELDS * number_row[j] + k] = number[N_NUMBER_FIELDS * j + k]
    state[EVENTS] += 1.0
    state[LABEL_WEIGHT], state[LABEL_MEAN], state[LABEL_VARIANCE] = label_weight, mean, variance
    if task == BINARY:
        update_curve(mixed, prediction, y, weight, state)
    update_state(state, scratch)
    update_rows(n, memory, scratch)
    update_mix(g, h, state, scratch)
    return True


@njit(cache=True, nogil=True)
def learn(task, quantile, begin, end, events, labels, weights, memory, scratch, predictions, is_learned):  # type: ignore[no-untyped-def]
    """Predicts, then learns, each of the events [begin, end) in turn. All but the first four are addresses.

    Args:
        labels, weights: (B,) float64.
        predictions: (B,) float64, gets what was predicted before learning.
        is_learned: (B,) uint8, gets whether the step was written.
    """
    offsets, state = int64s(events.offsets), float64s(memory.state)
    for b in range(begin, end):
        n, n_numbers = activate(offsets[b], offsets[b + 1], events, memory, scratch)
        score(n, memory, scratch)
        mixed = mix(task, state, scratch)
        prediction, _ = link(task, mixed, state)
        float64s(predictions)[b] = prediction
        label, weight = float64s(labels)[b], float64s(weights)[b]
        uint8s(is_learned)[b] = learn_one(
            task, quantile, n, n_numbers, mixed, prediction, label, weight, memory, scratch
        )


@njit(cache=True, nogil=True)
def predict(task, n_events, events, memory, scratch, predictions, scores, embeddings):  # type: ignore[no-untyped-def]
    """Predictions, scores and embeddings of all events, as `learn` would predict the next one; changes nothing.

    Args:
        predictions, scores: addresses of (B,) float64.
        embeddings: address of (B, DIM) float32.
    """
    offsets, state, total = int64s(events.offsets), float64s(memory.state), float32s(scratch.total)
    for b in range(n_events):
        n, _ = activate(offsets[b], offsets[b + 1], events, memory, scratch)
        score(n, memory, scratch)
        prediction, z = link(task, mix(task, state, scratch), state)
        float64s(predictions)[b] = prediction
        float64s(scores)[b] = z
        for k in range(DIM):
            float32s(embeddings)[b * DIM + k] = total[k]

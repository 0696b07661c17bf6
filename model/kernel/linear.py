"""The fifth member of the classes' mixture: weights of plain activations alone, without products.

Where much that an event says is of no account, as in a stream of irrelevant features, what factors make of pairs of it
is noise in the other experts' scores. A weight, and how much of its variance is gone, lie in a record's spare lanes.
"""

from __future__ import annotations

import numpy as np

from flexihash.model.compiled import inlined
from flexihash.model.kernel.aging import DRIFT_BIAS, PRIOR_BIAS
from flexihash.model.kernel.experts import N_EXPERTS, PLAIN
from flexihash.model.kernel.rows import LINEAR_AT, LINEAR_GONE_AT, RECORD_BYTES
from flexihash.model.kernel.slots import LINEAR_BIAS, LINEAR_BIAS_GONE
from flexihash.model.kernel.vectors import float32s, float64s, int64s, load_float, store

PRIOR_LINEAR, DRIFT_LINEAR = np.float32(0.2), np.float32(1e-5)  # a weight's variance, and what it gains at every touch


@inlined
def grow(gone):  # type: ignore[no-untyped-def]
    """A weight's variance as its next event finds it."""
    return min(PRIOR_LINEAR - gone + DRIFT_LINEAR, PRIOR_LINEAR)


@inlined
def score_linear(n, memory, scratch):  # type: ignore[no-untyped-def]
    """The member's score and its variance, behind those of the experts."""
    row, value, kind = int64s(scratch.row), float32s(scratch.value), int64s(scratch.kind)
    state = float64s(memory.state)
    z = state[LINEAR_BIAS]
    s = PRIOR_BIAS - state[LINEAR_BIAS_GONE] + DRIFT_BIAS
    for j in range(n):
        if kind[j] == PLAIN:
            record = memory.table + RECORD_BYTES * row[j]
            z += load_float(record + LINEAR_AT) * value[j]
            s += grow(load_float(record + LINEAR_GONE_AT)) * (value[j] * value[j])
    float64s(scratch.score)[N_EXPERTS], float64s(scratch.spread)[N_EXPERTS] = z, s


@inlined
def update_linear(n, memory, scratch):  # type: ignore[no-untyped-def]
    """Moves its bias, and its weight in each of `n` rows."""
    row, value, kind = int64s(scratch.row), float32s(scratch.value), int64s(scratch.kind)
    state, step, shrink = float64s(memory.state), float64s(scratch.step)[N_EXPERTS], float64s(scratch.shrink)[N_EXPERTS]
    v = PRIOR_BIAS - state[LINEAR_BIAS_GONE] + DRIFT_BIAS
    state[LINEAR_BIAS] -= v * step
    state[LINEAR_BIAS_GONE] = PRIOR_BIAS - (v - v * v * shrink)
    step, shrink = np.float32(step), np.float32(shrink)
    for j in range(n):
        if kind[j] == PLAIN:
            record = memory.table + RECORD_BYTES * row[j]
            x, v = value[j], grow(load_float(record + LINEAR_GONE_AT))
            store(record + LINEAR_AT, load_float(record + LINEAR_AT) - v * x * step)
            store(record + LINEAR_GONE_AT, PRIOR_LINEAR - (v - v * v * x * x * shrink))

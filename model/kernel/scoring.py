"""From an event's activations to each expert's score, and how sure it is of it."""

from __future__ import annotations

import numpy as np

from flexihash.model.compiled import inlined
from flexihash.model.kernel.aging import DRIFT_BIAS, FORGET_BIAS, age, age_quick_bias, get_forget
from flexihash.model.kernel.experts import EXPERT_DIM, N_EXPERTS, QUICK_EXPERT
from flexihash.model.kernel.rows import (
    PARAMETER_BYTES,
    QUICK,
    RECORD_BYTES,
    VARIANCE_BYTES,
    WEIGHT,
    gather_squares,
    get_quick,
    spread_variances,
    swap_neighbours,
    swap_pairs,
    take_embedding,
    with_quick,
)
from flexihash.model.kernel.slots import BIAS, BIAS_VARIANCE, EVENTS, QUICK_BIAS, QUICK_BIAS_VARIANCE
from flexihash.model.kernel.vectors import float32s, float64s, int64s, load8, load16, splat16, store


@inlined
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


@inlined
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
    s[QUICK_EXPERT] += age_quick_bias(state[QUICK_BIAS_VARIANCE]) + spreads[QUICK]

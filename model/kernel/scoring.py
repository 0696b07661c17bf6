"""From an event's activations to each expert's score, and how sure it is of it."""

from __future__ import annotations

import numpy as np

from flexihash.model.compiled import inlined
from flexihash.model.kernel.aging import DRIFT_BIAS, FORGET_BIAS, age, age_quick, age_quick_bias, get_forget
from flexihash.model.kernel.experts import EXPERT_DIM, N_EXPERTS, QUICK_EXPERT
from flexihash.model.kernel.rows import (
    EMBEDDING_BYTES,
    QUICK_AT,
    QUICK_VARIANCE_AT,
    RECORD_BYTES,
    VARIANCE_BYTES,
    VARIANCES_AT,
    WEIGHT_BYTES,
    WEIGHTS_AT,
    first_of_experts,
    join_halves,
    spread_to_elements,
    swap_neighbours,
    swap_pairs,
)
from flexihash.model.kernel.slots import BIAS, BIAS_VARIANCE, EVENTS, QUICK_BIAS, QUICK_BIAS_VARIANCE
from flexihash.model.kernel.vectors import float32s, float64s, int64s, load8, load16, load_float, splat8, splat16, store


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
    weighted = splat8(np.float32(0.0))
    quick = np.float32(0.0)
    for j in range(n):
        record = memory.table + RECORD_BYTES * row[j]
        forget[j] = get_forget(tick - touched[row[j]])
        part = load16(record) * (splat16(value[j]) * load16(scratch.sees + EMBEDDING_BYTES * kind[j]))
        store(scratch.part + EMBEDDING_BYTES * j, part)
        total = total + part
        own = own + part * part
        x = splat8(value[j]) * load8(scratch.weight_sees + WEIGHT_BYTES * kind[j])
        weighted = weighted + load8(record + WEIGHTS_AT) * x
        quick += load_float(record + QUICK_AT) * forget[j] * value[j]
    share = splat16(np.float32(1.0 / EXPERT_DIM))
    spreads = splat16(np.float32(0.0))
    largest = spreads
    weight_spreads = splat8(np.float32(0.0))
    quick_spread = np.float32(0.0)
    for j in range(n):
        record = memory.table + RECORD_BYTES * row[j]
        variances = age(load8(record + VARIANCES_AT), scratch.aging)
        x = splat16(value[j]) * load16(scratch.sees + EMBEDDING_BYTES * kind[j])
        slope = (total - load16(scratch.part + EMBEDDING_BYTES * j)) * x
        square = slope * slope
        spreads = spreads + spread_to_elements(variances, variances) * square
        largest = largest + square
        mean = square + swap_neighbours(square, square)
        mean = (mean + swap_pairs(mean, mean)) * share
        weight_x = splat8(value[j]) * load8(scratch.weight_sees + WEIGHT_BYTES * kind[j])
        weight_square = weight_x * weight_x
        weight_spreads = weight_spreads + variances * weight_square
        quick_spread += age_quick(load_float(record + QUICK_VARIANCE_AT), forget[j]) * (value[j] * value[j])
        store(scratch.slope + EMBEDDING_BYTES * j, slope)
        store(scratch.square + VARIANCE_BYTES * j, join_halves(weight_square, first_of_experts(mean, mean)))
    store(scratch.total, total)
    store(scratch.pairs, total * total - own)
    store(scratch.spreads, spreads)
    store(scratch.largest, largest)
    store(scratch.weighted, weighted)
    store(scratch.weight_spreads, weight_spreads)
    sum_up(quick, quick_spread, state, scratch)


@inlined
def sum_up(quick, quick_spread, state, scratch):  # type: ignore[no-untyped-def]
    """From the lanes' sums, and the biases, to each expert's score and its variance."""
    pairs, spreads = float32s(scratch.pairs), float32s(scratch.spreads)
    weighted, weight_spreads = float32s(scratch.weighted), float32s(scratch.weight_spreads)
    z, s = float64s(scratch.score), float64s(scratch.spread)
    for e in range(N_EXPERTS):
        z[e] = state[BIAS + e] + weighted[e]
        s[e] = state[BIAS_VARIANCE + e] + DRIFT_BIAS + weight_spreads[e]
        for k in range(e * EXPERT_DIM, (e + 1) * EXPERT_DIM):
            z[e] += 0.5 * pairs[k]
            s[e] += spreads[k]
    z[QUICK_EXPERT] += state[QUICK_BIAS] * FORGET_BIAS + quick
    s[QUICK_EXPERT] += age_quick_bias(state[QUICK_BIAS_VARIANCE]) + quick_spread

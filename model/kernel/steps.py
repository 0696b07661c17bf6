"""What one event teaches: a Kalman step for every parameter that took part, or none at all."""

from __future__ import annotations

import numpy as np

from flexihash.model.compiled import inlined
from flexihash.model.kernel.activation import N_NUMBER_FIELDS
from flexihash.model.kernel.aging import DRIFT_BIAS, FORGET_BIAS, age, age_quick, age_quick_bias
from flexihash.model.kernel.experts import DIM, N_EXPERTS, QUICK_EXPERT
from flexihash.model.kernel.growth import teach_trees
from flexihash.model.kernel.losses import (
    add_label,
    differentiate,
    expect,
    limit_gradient,
    limit_label,
    move_residual,
    standardize,
    takes_trees,
    update_link,
)
from flexihash.model.kernel.mixture import find_pulls, update_mixtures
from flexihash.model.kernel.rows import (
    BLOCK_BITS,
    EMBEDDING_BYTES,
    EXPERT_OF_ELEMENT,
    EXPERT_OF_VARIANCE,
    N_VARIANCES,
    QUICK_AT,
    QUICK_VARIANCE_AT,
    RECORD_BYTES,
    VARIANCE_BYTES,
    VARIANCES_AT,
    WEIGHT_BYTES,
    WEIGHTS_AT,
    spread_to_elements,
)
from flexihash.model.kernel.slots import (
    BIAS,
    BIAS_VARIANCE,
    EVENTS,
    LABEL_COUNT,
    LABEL_MEAN,
    LABEL_REACH,
    LABEL_VARIANCE,
    LABEL_WEIGHT,
    QUICK_BIAS,
    QUICK_BIAS_VARIANCE,
    REACH,
    RESIDUAL,
)
from flexihash.model.kernel.vectors import float32s, float64s, int64s, load8, load16, load_float, splat8, store

ROOMY = 16  # in a table of more than so many rows an activation, hardly two of an event share a row
STEP_LIMIT = 1e15  # a step beyond could leave float32; such an event is rejected, nothing of it is written


@inlined
def learn_one(loss, n, n_numbers, mixed, prediction, label, weight, memory, scratch):  # type: ignore[no-untyped-def]
    """One step after `score` and `mix`; returns False, with nothing written, where a step would not stay finite."""
    if not find_steps(loss, mixed, label, weight, crowding(n, memory.n_rows), memory, scratch):
        return False
    update_numbers(n_numbers, memory, scratch)
    take_steps(loss, n, mixed, prediction, label, weight, memory, scratch)
    if takes_trees(loss):
        teach_trees(loss, n_numbers, weight, memory, scratch)
    return True


@inlined
def take_steps(loss, n, mixed, prediction, label, weight, memory, scratch):  # type: ignore[no-untyped-def]
    """Writes what `find_steps` found, for `n` activations."""
    state = float64s(memory.state)
    labels = add_label(loss, label, weight, state)
    y, _ = standardize(loss, label, labels)
    state[EVENTS] += 1.0
    state[LABEL_COUNT], state[LABEL_WEIGHT], state[LABEL_MEAN], state[LABEL_VARIANCE], state[LABEL_REACH] = labels
    update_link(loss, mixed, prediction, y, weight, state)
    update_biases(state, scratch)
    update_residuals(state, scratch)
    update_rows(n, memory, scratch)
    update_mixtures(loss, memory, scratch)


@inlined
def crowding(n, n_rows):  # type: ignore[no-untyped-def]
    """By how much a score moves farther than its variance says where `n` activations fall on so few rows.

    A row that is active m times in an event moves m times, and each move moves the score m times.
    """
    return 1.0 + n / n_rows if n * ROOMY > n_rows else 1.0


@inlined
def find_steps(loss, mixed, label, weight, crowd, memory, scratch):  # type: ignore[no-untyped-def]
    """Each expert's step and shrinking, g f and h f, what residuals and reaches become; writes to `scratch` only.

    Returns:
        Whether no step is too long or not finite.
    """
    state = float64s(memory.state)
    labels = add_label(loss, label, weight, state)
    y, offset = standardize(loss, label, labels)
    moderated, spread, largest = float64s(scratch.moderated), float64s(scratch.spread), float32s(scratch.largest)
    step, shrink = float64s(scratch.step), float64s(scratch.shrink)
    residuals, reaches = float64s(scratch.residual), float64s(scratch.reach)
    residual = state[RESIDUAL + N_EXPERTS]
    expected, reach = expect(loss, mixed, offset), state[REACH + N_EXPERTS]
    near, reaches[N_EXPERTS] = limit_label(loss, expected, y, residual, 0.0, labels, weight, reach)
    residuals[N_EXPERTS] = move_residual(loss, residual, expected, near, 0.0, weight)
    is_short = find_pulls(loss, near, residual, offset, weight, memory, scratch)
    for e in range(N_EXPERTS):
        z = moderated[e]
        s = spread[e]
        residual = state[RESIDUAL + e]
        expected = expect(loss, z, offset)
        near, reaches[e] = limit_label(loss, expected, y, residual, s, labels, weight, state[REACH + e])
        ge, he = differentiate(loss, z, near, residual, offset)
        residuals[e] = move_residual(loss, residual, expected, near, s * he, weight)
        ge *= weight
        he *= weight
        gain = 1.0 / (1.0 + he * s * crowd)
        step[e] = limit_gradient(loss, ge, gain, s * crowd) * gain
        shrink[e] = he * gain
        is_short = is_short and abs(step[e]) < STEP_LIMIT and s < STEP_LIMIT * STEP_LIMIT
    for k in range(DIM):
        is_short = is_short and largest[k] < STEP_LIMIT * STEP_LIMIT
    return is_short


@inlined
def update_numbers(n_numbers, memory, scratch):  # type: ignore[no-untyped-def]
    """Writes what `activate` found the statistics of the event's numbers to become."""
    numbers, row, moved = float64s(memory.numbers), int64s(scratch.number_row), float64s(scratch.number)
    for j in range(n_numbers):
        for k in range(N_NUMBER_FIELDS):
            numbers[N_NUMBER_FIELDS * row[j] + k] = moved[N_NUMBER_FIELDS * j + k]


@inlined
def update_biases(state, scratch):  # type: ignore[no-untyped-def]
    """Moves the biases: drift, forgetting and one step."""
    step, shrink = float64s(scratch.step), float64s(scratch.shrink)
    for e in range(N_EXPERTS):
        v = state[BIAS_VARIANCE + e] + DRIFT_BIAS
        state[BIAS + e] -= v * step[e]
        state[BIAS_VARIANCE + e] = v - v * v * shrink[e]
    v = age_quick_bias(state[QUICK_BIAS_VARIANCE])
    state[QUICK_BIAS] = state[QUICK_BIAS] * FORGET_BIAS - v * step[QUICK_EXPERT]
    state[QUICK_BIAS_VARIANCE] = v - v * v * shrink[QUICK_EXPERT]


@inlined
def update_residuals(state, scratch):  # type: ignore[no-untyped-def]
    """Writes what residuals and reaches become."""
    residual, reach = float64s(scratch.residual), float64s(scratch.reach)
    for e in range(N_EXPERTS + 1):
        state[RESIDUAL + e] = residual[e]
        state[REACH + e] = reach[e]


@inlined
def update_rows(n, memory, scratch):  # type: ignore[no-untyped-def]
    """Moves every active row by its expert's step; a row's first touch by an event also ages it to this event."""
    touched, row, forget = int64s(memory.touched), int64s(scratch.row), float32s(scratch.forget)
    value, kind = float32s(scratch.value), int64s(scratch.kind)
    blocks = int64s(memory.blocks)
    spread_out(scratch)
    quick_step = np.float32(float64s(scratch.step)[QUICK_EXPERT])
    quick_shrink = np.float32(float64s(scratch.shrink)[QUICK_EXPERT])
    tick = np.int64(float64s(memory.state)[EVENTS])
    for j in range(n):
        record = memory.table + RECORD_BYTES * row[j]
        variances = load8(record + VARIANCES_AT)
        quick = load_float(record + QUICK_AT)
        quick_variance = load_float(record + QUICK_VARIANCE_AT)
        if touched[row[j]] != tick:
            touched[row[j]] = tick
            blocks[row[j] >> BLOCK_BITS] = tick
            variances = age(variances, scratch.aging)
            quick *= forget[j]
            quick_variance = age_quick(quick_variance, forget[j])
        slope = load16(scratch.slope + EMBEDDING_BYTES * j)
        square = load8(scratch.square + VARIANCE_BYTES * j)
        x = splat8(value[j]) * load8(scratch.weight_sees + WEIGHT_BYTES * kind[j])
        store(record, load16(record) - spread_to_elements(variances, variances) * slope * load16(scratch.steps))
        store(record + WEIGHTS_AT, load8(record + WEIGHTS_AT) - variances * x * load8(scratch.weight_steps))
        store(record + QUICK_AT, quick - quick_variance * value[j] * quick_step)
        square_x = value[j] * value[j]
        store(record + QUICK_VARIANCE_AT, quick_variance - quick_variance * quick_variance * square_x * quick_shrink)
        store(record + VARIANCES_AT, variances - variances * variances * square * load8(scratch.shrinks))


@inlined
def spread_out(scratch):  # type: ignore[no-untyped-def]
    """Each expert's step and shrinking, to the lanes that they move."""
    step, shrink = float64s(scratch.step), float64s(scratch.shrink)
    steps, weight_steps, shrinks = (
        float32s(scratch.steps), float32s(scratch.weight_steps), float32s(scratch.shrinks)
    )  # fmt: skip
    for k in range(DIM):
        steps[k] = step[EXPERT_OF_ELEMENT[k]]
    for e in range(N_EXPERTS):
        weight_steps[e] = step[e]
    for k in range(N_VARIANCES):
        shrinks[k] = shrink[EXPERT_OF_VARIANCE[k]]

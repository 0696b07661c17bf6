"""From an event's features to its activations: rows of the table, and by how much each takes part."""

from __future__ import annotations

import math

import numpy as np

from flexihash.model.compiled import inlined, part
from flexihash.model.kernel.experts import COARSE, FINE, PLAIN
from flexihash.model.kernel.scalars import clip
from flexihash.model.kernel.vectors import float32s, float64s, int64s, uint8s

# --- one row of `numbers`: float64 ----------------------------------------------------------------------------------

COUNT, MEDIAN, DEVIATION = 0, 1, 2  # deviation: mean absolute deviation from the median
N_NUMBER_FIELDS = 3
NUMBER_BYTES = 8 * N_NUMBER_FIELDS
NUMBER_MEMORY = 1000.0  # a number's median and deviation follow about so many of its last values
NUMBER_LIMIT = 4.0  # asinh-scaled numbers are clipped here

# --- what a number activates, beside its own row ----------------------------------------------------------------------

GRIDS = ((COARSE, 1.0, 1), (FINE, 5.0, 101))  # (kind, knots a unit, first knot's tag)
MAX_PER_FEATURE = 1 + 2 * len(GRIDS)  # activations of one number


@part
def mix_row(row, knot, n_rows):  # type: ignore[no-untyped-def]
    """The row of a number's knot: the number's own row and the knot's tag, mixed (after splitmix64's finalizer)."""
    h = np.uint64(row) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(knot) * np.uint64(0xC2B2AE3D27D4EB4F)
    h ^= h >> np.uint64(29)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(32)
    return np.int64(h & np.uint64(n_rows - 1))


@inlined
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


@inlined
def activate(begin, end, events, memory, scratch):  # type: ignore[no-untyped-def]
    """Turns features [begin, end) into activations; returns how many, and how many numbers they hold."""
    rows, values, is_number = int64s(events.rows), float64s(events.values), uint8s(events.is_number)
    to_row, to_value, to_kind = int64s(scratch.row), float32s(scratch.value), int64s(scratch.kind)
    number_row, number_value = int64s(scratch.number_row), float32s(scratch.number_value)
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
        number_value[n_numbers] = values[j]
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

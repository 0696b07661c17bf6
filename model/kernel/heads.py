"""Several scores of one event: each has a head, which is rows of its own in the same table, and a state of its own.

A head's rows follow from the event's: nothing grows when a head comes into use, and the first head's rows are the
event's themselves. Eight heads lie side by side.
"""

from __future__ import annotations

import math

import numpy as np

from flexihash.model.compiled import inlined
from flexihash.model.kernel.activation import activate, mix_row
from flexihash.model.kernel.addresses import Memory
from flexihash.model.kernel.crossing import cross, multiply
from flexihash.model.kernel.experts import N_EXPERTS
from flexihash.model.kernel.rows import LINE_BYTES, RECORD_BYTES
from flexihash.model.kernel.slots import BIAS, EVENTS, STATE_WIDTH
from flexihash.model.kernel.vectors import float64s, int64s, prefetch

SIDE_BITS = 3
FIRST_TAG = 1 << 40  # of a row's next eight heads; those of pairs are smaller


@inlined
def head_row(row, head, n_rows):  # type: ignore[no-untyped-def]
    """The row of a head."""
    if head >> SIDE_BITS:
        row = mix_row(row, FIRST_TAG + (head >> SIDE_BITS), n_rows)
    return (row ^ (head & ((1 << SIDE_BITS) - 1))) & (n_rows - 1)


@inlined
def find_state(head, memory):  # type: ignore[no-untyped-def]
    """Where a head's own state lies."""
    return memory.state + 8 * STATE_WIDTH * head


@inlined
def head_memory(head, memory):  # type: ignore[no-untyped-def]
    """The memory with a head's own state."""
    return Memory(
        memory.n_rows, memory.table, memory.touched, memory.numbers, find_state(head, memory), memory.blocks,
        memory.trees, memory.has_crosses, memory.n_heads, memory.known, memory.tasks,
    )  # fmt: skip


@inlined
def find_activations(begin, end, events, memory, scratch):  # type: ignore[no-untyped-def]
    """What features [begin, end) activate, pairs with them; returns how many, and how many numbers they hold."""
    n, n_numbers = activate(begin, end, events, memory, scratch)
    if memory.has_crosses:
        return cross(begin, end, n, events, memory, scratch), n_numbers
    return multiply(n, memory, scratch), n_numbers


@inlined
def derive_rows(head, n, memory, first, scratch):  # type: ignore[no-untyped-def]
    """Writes a head's rows, from those of the first one, and has them fetched."""
    rows, own = int64s(first.row), int64s(scratch.row)
    for j in range(n):
        own[j] = head_row(rows[j], head, memory.n_rows)
        prefetch(memory.table + RECORD_BYTES * own[j])
        prefetch(memory.table + RECORD_BYTES * own[j] + LINE_BYTES)


@inlined
def begin_heads(first, end, n_events, memory):  # type: ignore[no-untyped-def]
    """Has the heads [first, end) expect what was seen once in so many events."""
    for head in range(first, end):
        state = float64s(find_state(head, memory))
        state[EVENTS] = n_events
        for e in range(N_EXPERTS):
            state[BIAS + e] = expect_rarely(n_events)


@inlined
def expect_rarely(n_events):  # type: ignore[no-untyped-def]
    """The logit of what was seen once in so many events."""
    return -math.log(n_events + 1.0)


@inlined
def set_clocks(n_heads, n_events, memory):  # type: ignore[no-untyped-def]
    """Has all heads know how many events there were."""
    for head in range(n_heads):
        float64s(find_state(head, memory))[EVENTS] = np.float64(n_events)

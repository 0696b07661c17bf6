"""The last events, as trees are grown on them: their numbers, in bins too, their labels, and the trees' scores."""

from __future__ import annotations

import numpy as np

from flexihash.model.compiled import inlined, part
from flexihash.model.kernel.trees import (
    BEYOND,
    LABEL,
    LABEL_WEIGHT,
    MISSING,
    N_BINS,
    N_EDGED,
    N_SLOTS,
    N_TREES,
    NEXT_EDGES,
    SCORE,
    SEEN,
    TAKEN,
    WINDOW,
    find_slot,
)
from flexihash.model.kernel.vectors import float32s, float64s, int64s, uint8s

FIRST_EVENTS = 32  # are there when bins are found first; then at twice as many, and so on until the window is full
EDGES_WINDOWS = 4  # windows from then on: what is sorted again costs time
N_SORTED = 1024  # values that edges are found from
MOST_WEIGHT = 1e6  # sums of squares stay within float32
FEW_EVENTS = 512  # whose bins are all found at once; of more, a number an event, so that no event takes long


@part
def take_slots(n_numbers, memory, scratch):  # type: ignore[no-untyped-def]
    """Gives the event's new numbers the slots that are left."""
    row, trees = int64s(scratch.number_row), memory.trees
    slots, counters, edges = int64s(trees.slots), int64s(trees.counters), float32s(trees.edges)
    for j in range(n_numbers):
        taken = counters[TAKEN]
        if taken < N_SLOTS and find_slot(row[j], j, trees) < 0:
            slots[taken] = row[j]
            for b in range(N_BINS):
                edges[N_BINS * taken + b] = BEYOND
            for at in range(WINDOW):
                float32s(trees.values)[N_SLOTS * at + taken] = MISSING
            counters[TAKEN] = taken + 1


@inlined
def find_bin(x, edges):  # type: ignore[no-untyped-def]
    """How many of the edges at an address are below `x`; without a branch, which would be foretold half of the time."""
    edges = float32s(edges)
    below, step = 0, N_BINS // 2
    while step > 0:
        below += step * (x > edges[below + step - 1])
        step >>= 1
    return below


@inlined
def remember(weight, memory, scratch):  # type: ignore[no-untyped-def]
    """Puts the event in the place of the oldest; returns how many events there are."""
    trees = memory.trees
    counters, x, leaf = int64s(trees.counters), float32s(scratch.slot_value), uint8s(scratch.leaf)
    values, bins = float32s(trees.values), uint8s(trees.bins)
    places, known = uint8s(trees.places), float32s(trees.known)
    at = counters[SEEN] % WINDOW
    for slot in range(counters[TAKEN]):
        values[N_SLOTS * at + slot] = x[slot]
        bins[N_SLOTS * at + slot] = find_bin(x[slot], trees.edges + 4 * N_BINS * slot)
    for k in range(N_TREES):
        places[k * WINDOW + at] = leaf[k]
    known[LABEL * WINDOW + at] = float64s(scratch.near)[0]
    known[LABEL_WEIGHT * WINDOW + at] = min(weight, MOST_WEIGHT)
    known[SCORE * WINDOW + at] = float32s(scratch.tree_score)[0]
    counters[SEEN] += 1
    return min(counters[SEEN], WINDOW)


@part
def renew_edges(n_events, trees, scratch):  # type: ignore[no-untyped-def]
    """Finds the bins anew when it is time; the nodes keep the values that they split at."""
    counters = int64s(trees.counters)
    if counters[SEEN] < FIRST_EVENTS:
        return
    if counters[SEEN] >= counters[NEXT_EDGES]:
        counters[NEXT_EDGES] = counters[SEEN] + (n_events if n_events < WINDOW else EDGES_WINDOWS * WINDOW)
        counters[N_EDGED] = 0
    while counters[N_EDGED] < counters[TAKEN]:
        slot = counters[N_EDGED]
        counters[N_EDGED] += 1
        find_edges(n_events, slot, trees, scratch)
        if n_events > FEW_EVENTS:
            break


@inlined
def sort(some, n):  # type: ignore[no-untyped-def]
    """Sorts the first `n` in place (Shell 1959): few lines, which compile in no time, unlike NumPy's."""
    gap = n // 2
    while gap > 0:
        for i in range(gap, n):
            x, j = some[i], i
            while j >= gap and some[j - gap] > x:
                some[j] = some[j - gap]
                j -= gap
            some[j] = x
        gap = 1 if gap == 2 else int(gap / 2.2)
    # The last round, of gap 1, leaves it sorted whatever the rounds before did.


@part
def find_edges(n_events, slot, trees, scratch):  # type: ignore[no-untyped-def]
    """The quantiles of a number, half way between values that differ; then everybody's bin."""
    values, bins, edges = float32s(trees.values), uint8s(trees.bins), float32s(trees.edges)
    first = N_BINS * slot
    some = float32s(scratch.pull)
    stride = max(1, n_events // N_SORTED)
    n_some = (n_events + stride - 1) // stride
    for i in range(n_some):
        some[i] = values[N_SLOTS * stride * i + slot]
    sort(some, n_some)
    n = 0
    for quantile in range(1, N_BINS):
        i = quantile * n_some // N_BINS
        while 0 < i < n_some and some[i] == some[i - 1]:
            i += 1
        if 0 < i < n_some:
            low, high = some[i - 1], some[i]
            edge = low + (high - low) * np.float32(0.5) if low > MISSING else low
            if not low <= edge < high:  # both are so large, or so near, that there is nothing between
                edge = low
            if n == 0 or edge > edges[first + n - 1]:
                edges[first + n] = edge
                n += 1
    for i in range(n, N_BINS):
        edges[first + i] = BEYOND
    for at in range(n_events):
        bins[N_SLOTS * at + slot] = find_bin(values[N_SLOTS * at + slot], trees.edges + 4 * first)

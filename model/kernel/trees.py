"""Trees over an event's numbers: sharp thresholds in several numbers at once, which products of curves learn slowly.

Each has all nodes down to DEPTH; one that splits nothing sends everybody to the left. Their score is the sum of the
leaves' values. `window` holds the events that they are grown on, `growth` grows them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flexihash.model.compiled import inlined
from flexihash.model.kernel.scalars import clip
from flexihash.model.kernel.vectors import float32s, int64s, uint8s

N_SLOTS = 16  # numbers that trees see: the first to come
LEAST_SLOTS = 2  # one number alone has its curve
N_TREES, DEPTH = 16, 5
N_LEAVES = 1 << DEPTH
N_NODES = N_LEAVES - 1
WINDOW = 4096  # events that are remembered
N_BINS = 128  # of a number's values
# All that is remembered is finite: a number that an event lacks lies below all others, the edge behind the last above.
LARGEST, MISSING, BEYOND = np.float32(1e38), np.float32(-3e38), np.float32(3e38)

TAKEN, SEEN, NEXT_GROWTH, NEXT_EDGES, N_GROWN, N_EDGED = range(6)  # counters
N_COUNTERS = 6
LABEL, LABEL_WEIGHT, SCORE = range(3)  # what is known of an event in the window
N_KNOWN = 3


class Trees(NamedTuple):
    """Where the trees, and the events that they are grown on, lie. All zeros are trees that have seen nothing."""

    slots: int  # (N_SLOTS,) int64: the row of the number that each has
    counters: int  # (N_COUNTERS,) int64
    features: int  # (N_TREES, N_NODES) uint8: a node's slot
    cuts: int  # (N_TREES, N_NODES) float32: values above go to the right
    leaves: int  # (N_TREES, N_LEAVES) float32
    edges: int  # (N_SLOTS, N_BINS) float32: between the bins, rising; BEYOND behind the last
    values: int  # (WINDOW, N_SLOTS) float32: MISSING where an event lacks the number
    bins: int  # (WINDOW, N_SLOTS) uint8
    places: int  # (N_TREES, WINDOW) uint8: the leaf that an event is in
    known: int  # (N_KNOWN, WINDOW) float32


@inlined
def find_slot(row, guess, trees):  # type: ignore[no-untyped-def]
    """The slot of the number of a row, -1 if it has none; events mostly have their numbers in one order."""
    slots, taken = int64s(trees.slots), int64s(trees.counters)[TAKEN]
    slot = guess if guess < taken else 0
    for _ in range(taken):
        if slots[slot] == row:
            return slot
        slot += 1
        if slot == taken:
            slot = 0
    return -1


@inlined
def read_numbers(n_numbers, memory, scratch):  # type: ignore[no-untyped-def]
    """Puts the event's numbers into their slots, where there are trees to ask."""
    if int64s(memory.trees.counters)[TAKEN] < LEAST_SLOTS:
        return
    x, row, value = float32s(scratch.slot_value), int64s(scratch.number_row), float32s(scratch.number_value)
    for slot in range(N_SLOTS):
        x[slot] = MISSING
    for j in range(n_numbers):
        slot = find_slot(row[j], j, memory.trees)
        if slot >= 0:
            x[slot] = clip(value[j], -LARGEST, LARGEST)


@inlined
def ask_trees(memory, scratch):  # type: ignore[no-untyped-def]
    """The score of all trees for the numbers read; it and each tree's leaf stay in `scratch`."""
    x, found = float32s(scratch.slot_value), uint8s(scratch.leaf)
    features, cuts, leaves = (
        uint8s(memory.trees.features), float32s(memory.trees.cuts), float32s(memory.trees.leaves)
    )  # fmt: skip
    total = np.float32(0.0)
    for k in range(N_TREES):
        node = 0
        for _ in range(DEPTH):
            at = k * N_NODES + node
            node = 2 * node + 1 + (x[np.int64(features[at])] > cuts[at])
        found[k] = node - N_NODES
        total += leaves[k * N_LEAVES + node - N_NODES]
    float32s(scratch.tree_score)[0] = total
    return total

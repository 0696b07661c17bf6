"""Growing trees: gradient boosting on the window, where each tree in turn is grown anew on what the others leave.

A leaf's value is a Newton step, shrunk; a split is where the steps of both sides win most, as in XGBoost (Chen and
Guestrin 2016). Histograms are made of the smaller child; the larger one's is what is left of their parent's.
"""

from __future__ import annotations

import numpy as np

from flexihash.model.compiled import inlined, part
from flexihash.model.kernel.losses import differentiate, most_curvature
from flexihash.model.kernel.mixture import widen
from flexihash.model.kernel.trees import (
    BEYOND,
    DEPTH,
    LABEL,
    LABEL_WEIGHT,
    LEAST_SLOTS,
    N_BINS,
    N_GROWN,
    N_LEAVES,
    N_NODES,
    N_SLOTS,
    N_TREES,
    NEXT_GROWTH,
    SCORE,
    SEEN,
    TAKEN,
    WINDOW,
    ask_trees,
    read_numbers,
)
from flexihash.model.kernel.vectors import float32s, float64s, int64s, uint8s
from flexihash.model.kernel.window import FIRST_EVENTS, remember, renew_edges, take_slots

SHRINKAGE = np.float32(0.3)
PENALTY = np.float32(1.0)  # added to the curvature
LEAST_GAIN = np.float32(1.0)
LEAST_EVENTS = 4.0  # on either side of a split, as far as their label is uncertain
PACE = 4  # trees grown while the window is replaced once
HISTOGRAM = 2 * N_SLOTS * N_BINS  # float32: gradient and curvature in every bin of every slot


@part
def teach_trees(loss, n_numbers, weight, memory, scratch):  # type: ignore[no-untyped-def]
    """Remembers an event that was learned; and finds new bins and grows a tree, when it is time."""
    trees = memory.trees
    counters = int64s(trees.counters)
    before = counters[TAKEN]
    if n_numbers > 0 and before < N_SLOTS:
        take_slots(n_numbers, memory, scratch)
    if counters[TAKEN] < LEAST_SLOTS:
        return
    if before < counters[TAKEN]:
        read_numbers(n_numbers, memory, scratch)
    if before < LEAST_SLOTS:
        widen(float64s(memory.state))
        ask_trees(memory, scratch)
    n_events = remember(weight, memory, scratch)
    seen = counters[SEEN]
    renew_edges(n_events, trees, scratch)
    if seen >= max(counters[NEXT_GROWTH], FIRST_EVENTS):
        grow(loss, counters[N_GROWN] % N_TREES, n_events, trees, scratch)
        counters[N_GROWN] += 1
        counters[NEXT_GROWTH] = seen + max(1, n_events // PACE)


@part
def grow(loss, k, n_events, trees, scratch):  # type: ignore[no-untyped-def]
    """Grows tree `k` anew."""
    known, places, leaves = float32s(trees.known), uint8s(trees.places), float32s(trees.leaves)
    order, begins, sums = int64s(scratch.order), int64s(scratch.begins), float32s(scratch.sums)
    pulls, bends = float32s(scratch.pull), float32s(scratch.bend)
    for at in range(n_events):
        known[SCORE * WINDOW + at] -= leaves[k * N_LEAVES + np.int64(places[k * WINDOW + at])]
        g, h = differentiate(loss, known[SCORE * WINDOW + at], known[LABEL * WINDOW + at], 1.0, 0.0)
        pulls[at] = g * known[LABEL_WEIGHT * WINDOW + at]
        bends[at] = h * known[LABEL_WEIGHT * WINDOW + at]
        order[at] = at
    # A level's events lie node by node: those of node i are order[begins[i]:begins[i + 1]].
    begins[0], begins[1] = 0, n_events
    n_slots = int64s(trees.counters)[TAKEN]
    add_up(0, n_events, n_slots, scratch.histograms, trees, scratch)
    sums[0], sums[1] = total(scratch.histograms)
    for depth in range(DEPTH):
        grow_level(loss, k, depth, n_slots, trees, scratch)
    for i in range(N_LEAVES):
        value = -SHRINKAGE * sums[2 * i] / (sums[2 * i + 1] + PENALTY)
        leaves[k * N_LEAVES + i] = value
        for j in range(begins[i], begins[i + 1]):
            known[SCORE * WINDOW + order[j]] += value
            places[k * WINDOW + order[j]] = i


@part
def grow_level(loss, k, depth, n_slots, trees, scratch):  # type: ignore[no-untyped-def]
    """Splits the nodes of one level, the last first: the children's entries overwrite none that is still needed."""
    features, cuts, edges = uint8s(trees.features), float32s(trees.cuts), float32s(trees.edges)
    begins, sums = int64s(scratch.begins), float32s(scratch.sums)
    n_nodes = 1 << depth
    level = 4 * HISTOGRAM * (N_LEAVES // 2)
    of_nodes = scratch.histograms + level * (depth % 2)
    of_children = scratch.histograms + level * ((depth + 1) % 2)
    least = np.float32(LEAST_EVENTS * most_curvature(loss))
    for i in range(n_nodes - 1, -1, -1):
        begin, end, g, h = begins[i], begins[i + 1], sums[2 * i], sums[2 * i + 1]
        histogram = of_nodes + 4 * HISTOGRAM * i
        slot, last, left_g, left_h = 0, -1, g, h
        if begin < end:
            slot, last, left_g, left_h = find_split(g, h, least, n_slots, histogram, trees)
        middle = end if last < 0 else divide(begin, end, slot, last, trees, scratch)
        at = k * N_NODES + n_nodes - 1 + i
        features[at] = slot
        cuts[at] = BEYOND if last < 0 else edges[N_BINS * slot + last]
        begins[2 * i], begins[2 * i + 1], begins[2 * i + 2] = begin, middle, end
        sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3] = left_g, left_h, g - left_g, h - left_h
        if depth + 1 < DEPTH and begin < end:
            left = of_children + 4 * HISTOGRAM * 2 * i
            right = left + 4 * HISTOGRAM
            if end - middle <= middle - begin:
                add_up(middle, end, n_slots, right, trees, scratch)
                subtract(histogram, right, left, n_slots)
            else:
                add_up(begin, middle, n_slots, left, trees, scratch)
                subtract(histogram, left, right, n_slots)


@part
def add_up(begin, end, n_slots, histogram, trees, scratch):  # type: ignore[no-untyped-def]
    """The histogram of the events order[begin:end]."""
    to, bins, order = float32s(histogram), uint8s(trees.bins), int64s(scratch.order)
    pulls, bends = float32s(scratch.pull), float32s(scratch.bend)
    for i in range(2 * N_BINS * n_slots):
        to[i] = np.float32(0.0)
    for j in range(begin, end):
        event = order[j]
        g, h = pulls[event], bends[event]
        for slot in range(n_slots):
            at = 2 * (N_BINS * slot + np.int64(bins[N_SLOTS * event + slot]))
            to[at] += g
            to[at + 1] += h


@inlined
def subtract(histogram, one, other, n_slots):  # type: ignore[no-untyped-def]
    """One child's histogram, from its parent's and the other child's."""
    parent, child, to = float32s(histogram), float32s(one), float32s(other)
    for i in range(2 * N_BINS * n_slots):
        to[i] = parent[i] - child[i]


@inlined
def total(histogram):  # type: ignore[no-untyped-def]
    """Gradient and curvature of all events of a histogram."""
    bins = float32s(histogram)
    g, h = np.float32(0.0), np.float32(0.0)
    for b in range(N_BINS):
        g += bins[2 * b]
        h += bins[2 * b + 1]
    return g, h


@part
def find_split(g, h, least, n_slots, histogram, trees):  # type: ignore[no-untyped-def]
    """(slot, last bin on the left, gradient and curvature of the left); bin -1 and all of it where none is worth it."""
    bins, edges = float32s(histogram), float32s(trees.edges)
    best = g * g / (h + PENALTY) + LEAST_GAIN
    best_slot, best_last, best_g, best_h = 0, -1, g, h
    for slot in range(n_slots):
        left_g, left_h = np.float32(0.0), np.float32(0.0)
        for b in range(N_BINS):
            if edges[N_BINS * slot + b] == BEYOND:
                break
            left_g += bins[2 * (N_BINS * slot + b)]
            left_h += bins[2 * (N_BINS * slot + b) + 1]
            right_g, right_h = g - left_g, h - left_h
            if left_h < least:
                continue
            if right_h < least:
                break
            gain = left_g * left_g / (left_h + PENALTY) + right_g * right_g / (right_h + PENALTY)
            if gain > best:
                best, best_slot, best_last, best_g, best_h = gain, slot, b, left_g, left_h
    return best_slot, best_last, best_g, best_h


@part
def divide(begin, end, slot, last, trees, scratch):  # type: ignore[no-untyped-def]
    """Puts those of order[begin:end] with bins up to `last` first, in order; returns where the others begin."""
    order, spare, bins = int64s(scratch.order), int64s(scratch.spare), uint8s(trees.bins)
    n_left = begin
    n_right = 0
    for j in range(begin, end):
        event = order[j]
        if np.int64(bins[N_SLOTS * event + slot]) > last:
            spare[n_right] = event
            n_right += 1
        else:
            order[n_left] = event
            n_left += 1
    for j in range(n_right):
        order[n_left + j] = spare[j]
    return n_left

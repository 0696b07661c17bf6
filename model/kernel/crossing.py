"""Pairs of an event's features: as categories of their own where `model.crosses` names them; and products."""

from __future__ import annotations

import numpy as np

from flexihash.model.compiled import inlined
from flexihash.model.crosses import LEFT_SIDES
from flexihash.model.kernel.activation import mix_row
from flexihash.model.kernel.company import find_members, is_twin
from flexihash.model.kernel.experts import CROSSED, PLAIN
from flexihash.model.kernel.vectors import float32s, int64s, uint8s

MOST_PAIRS = 2048  # of one event, the first ones: 64 features have fewer, and each takes some 30 ns
MOST_FACTORS = 16  # an event with more categories and numbers is learned without their products
MOST_PRODUCTS = MOST_FACTORS * (MOST_FACTORS - 1) // 2
FIRST_TAG = 100_000  # of a pair's second row; those of knots are smaller


@inlined
def cross(begin, end, n, events, memory, scratch):  # type: ignore[no-untyped-def]
    """Adds what is crossed of features [begin, end) to their `n` activations; returns how many there are then.

    A feature takes part by its row, a number by its cell, the nearest knot of its coarse grid. The smaller row comes
    first, so that the order of features doesn't matter. An integer's number and its category are no pair.
    """
    sides, fields, is_number = int64s(events.sides), int64s(events.fields), uint8s(events.is_number)
    row, value, kind, member = (
        int64s(scratch.row), float32s(scratch.value), int64s(scratch.kind), int64s(scratch.member)
    )  # fmt: skip
    find_members(begin, end, n, events, scratch)
    most = n + MOST_PAIRS
    seen = np.int64(0)
    for j in range(begin, end):
        left, right = sides[j] & LEFT_SIDES, (sides[j] >> 1) & LEFT_SIDES
        if left & (seen >> 1) | right & seen:
            for other in range(begin, j):
                is_pair = (left & (sides[other] >> 1) | right & sides[other]) != 0
                if is_pair and not is_twin(j, other, fields, is_number):
                    if n == most:
                        return n
                    one, two = member[other - begin], member[j - begin]
                    row[n] = mix_row(min(one, two), FIRST_TAG + max(one, two), memory.n_rows)
                    value[n] = 1.0
                    kind[n] = CROSSED
                    n += 1
        seen |= sides[j]
    return n


@inlined
def multiply(n, memory, scratch):  # type: ignore[no-untyped-def]
    """Adds the products of all pairs of plain activations to the first `n`; returns how many there are then.

    Unlike `cross` it takes a number by where it lies among the others, not by its cell.
    """
    row, value, kind = int64s(scratch.row), float32s(scratch.value), int64s(scratch.kind)
    n_factors = 0
    for j in range(n):
        n_factors += kind[j] == PLAIN
    if n_factors > MOST_FACTORS:
        return n
    end = n
    for j in range(n):
        if kind[j] == PLAIN:
            for other in range(j + 1, n):
                if kind[other] == PLAIN:
                    one, two = min(row[j], row[other]), max(row[j], row[other])
                    row[end] = mix_row(one, FIRST_TAG + two, memory.n_rows)
                    value[end] = value[j] * value[other]
                    kind[end] = CROSSED
                    end += 1
    return end

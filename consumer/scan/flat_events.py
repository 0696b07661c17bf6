"""One event: a plain flat object, from its first byte to its hashed rows, its label and its weight."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flexihash.consumer.scan.book import SIDES_SHIFT, UNDECIDED, find_in_book
from flexihash.consumer.scan.names import FEATURES, IGNORED, LABEL, ONCE, WEIGHT, find_role, is_new_name
from flexihash.consumer.scan.text import QUOTE, end_of_string, skip_space
from flexihash.consumer.scan.values import BOOLEAN, FRACTION, INTEGER, NULL, OTHER, STRING, read_value
from flexihash.model.compiled import inlined, part
from flexihash.model.kernel.vectors import store
from flexihash.model.murmur import N_FIELDS, hash_name, row_of_category, row_of_number

LEFT, LEARN, UNLABELLED = 0, 1, 2  # what becomes of a message

COMMA, COLON, OPEN, CLOSE = 0x2C, 0x3A, 0x7B, 0x7D


class Limits(NamedTuple):
    """What the loop must know of the wire format and the task, beside the names.

    Args:
        is_whole: the features are the whole event, not an object in it.
        has_patterns: the book says which features are left out, or crossed.
        has_crosses: some are crossed.
        needs_label: an event without a label is UNLABELLED, and its features are not kept; else its label is NaN.
        is_binary: labels are 0 or 1; else from `lowest` to `highest`.
        max_weight, max_features, max_name_bytes, max_event_bytes: an event beyond is left.
        n_rows: a power of two.
    """

    is_whole: bool
    has_patterns: bool
    has_crosses: bool
    needs_label: bool
    is_binary: bool
    lowest: float
    highest: float
    max_weight: float
    max_features: int
    max_name_bytes: int
    max_event_bytes: int
    n_rows: int


@part
def is_label(x, limits):  # type: ignore[no-untyped-def]
    return (x == 0.0 or x == 1.0) if limits.is_binary else limits.lowest <= x <= limits.highest


@part
def add_feature(found, n, row, value, is_number, field):  # type: ignore[no-untyped-def]
    """Writes feature `n`; returns the next one's number."""
    store(found.fields + 8 * n, field)
    store(found.rows + 8 * n, row)
    store(found.values + 8 * n, value)
    store(found.is_number + n, np.uint8(is_number))
    return n + 1


@part
def add_features(found, n, name_hash, n_name, value, n_rows):  # type: ignore[no-untyped-def]
    """Writes what a name and its value give, from feature `n` on; returns the next one's number."""
    h, tail = name_hash
    kind, x, begin, end, _ = value
    field = row_of_number(h, tail, n_name, N_FIELDS)
    if kind == INTEGER or kind == FRACTION:
        n = add_feature(found, n, field & (n_rows - 1), x + 0.0, True, field)  # -0.0 becomes 0.0
    if kind != FRACTION and kind != NULL:
        n = add_feature(found, n, row_of_category(h, tail, n_name, begin, end, n_rows), 1.0, False, field)
    return n


@inlined
def scan_event(event, end, names, book, limits, slots, found, first):  # type: ignore[no-untyped-def]
    """Scans the message from `event` to `end`; its features go to `first` and after.

    Returns:
        The outcome, where the next event's features go, the label and the weight.
    """
    left = LEFT, first, 0.0, 1.0
    n = first
    label, weight = np.nan, 1.0
    has_label = False
    met = 0  # roles
    is_inside = False  # the object that holds the features
    c, i = skip_space(event)
    if c != OPEN or end - event > limits.max_event_bytes:
        return left
    c, i = skip_space(i + 1)
    while True:  # a name and its value a turn
        if c != QUOTE:
            return left
        name = i + 1
        i = end_of_string(name)
        n_name = i - name
        if i < 0:
            return left
        c, i = skip_space(i + 1)
        if c != COLON:
            return left
        c, i = skip_space(i + 1)
        role = 0 if is_inside else find_role(name, n_name, names)
        if not is_inside:
            if role & met & ONCE:
                return left
            met |= role
            if role & FEATURES:
                if c != OPEN or role & (LABEL | WEIGHT):
                    return left
                is_inside = True
                c, i = skip_space(i + 1)
                continue
        value = read_value(i)
        kind, x, i = value[0], value[1], value[4]
        if kind == OTHER:
            return left
        if (is_inside or limits.is_whole) and not role & IGNORED:
            h, tail = hash_name(name, name + n_name)
            if n_name > limits.max_name_bytes:
                return left
            if limits.has_patterns:
                role |= find_in_book(name, n_name, h, tail, book)
                met |= role & UNDECIDED
            if not role & IGNORED:
                if not is_new_name(event, name, n_name, h, tail, slots):
                    return left
                n_before = n
                n = add_features(found, n, (h, tail), n_name, value, limits.n_rows)
                if limits.has_crosses:
                    for k in range(n_before, n):
                        store(found.sides + 8 * k, role >> SIDES_SHIFT)
        if role & LABEL and not is_inside and kind != NULL:
            if kind == STRING or not is_label(x, limits):
                return left
            has_label = True
            label = x
        if role & WEIGHT and not is_inside and kind != NULL:
            if kind == STRING or kind == BOOLEAN or not 0.0 <= x <= limits.max_weight:
                return left
            weight = x
        c, i = skip_space(i)
        if c == CLOSE and is_inside:
            is_inside = False
            c, i = skip_space(i + 1)
        if c == CLOSE:
            break
        if c != COMMA:
            return left
        c, i = skip_space(i + 1)
    c, i = skip_space(i + 1)
    if i != end or n - first > limits.max_features or not (limits.is_whole or met & FEATURES):
        return left
    if met & UNDECIDED:
        return left
    if limits.needs_label and not has_label:
        return UNLABELLED, first, label, weight
    return LEARN, n, label, weight

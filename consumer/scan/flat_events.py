"""One event: a plain flat object, from its first byte to its hashed rows, its label and its weight."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flexihash.consumer.scan.book import UNDECIDED, follow_book, role_in_book
from flexihash.consumer.scan.flat_features import LEAVE, add_absent, add_features
from flexihash.consumer.scan.names import FEATURES, IGNORED, LABEL, ONCE, WEIGHT, find_role, is_new_name
from flexihash.consumer.scan.text import QUOTE, end_of_string, skip_space
from flexihash.consumer.scan.values import BOOLEAN, NULL, OTHER, STRING, read_value
from flexihash.model.compiled import inlined, part
from flexihash.model.murmur import hash_name

LEFT, LEARN, UNLABELLED = 0, 1, 2  # what becomes of a message

COMMA, COLON, OPEN, CLOSE = 0x2C, 0x3A, 0x7B, 0x7D


class Limits(NamedTuple):
    """What the loop must know of the wire format and the task, beside the names.

    Args:
        is_whole: the features are the whole event, not an object in it.
        has_patterns: the book says which features are left out, crossed, or of a kind.
        has_crosses: some are crossed.
        needs_label: an event without a label is UNLABELLED, and its features are not kept; else its label is NaN.
        is_binary: labels are 0 or 1; else from `lowest` to `highest`.
        max_weight, max_features, max_name_bytes, max_event_bytes: an event beyond is left.
        n_rows: a power of two.
        zone: the address of the zone of times; see `model.times`.
        max_words: of a text.
        expected, n_expected: names that mean something where an event lacks them: the address of what `pack_names`
            gives, and how many.
        has_texts: some strings are texts.
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
    zone: int
    max_words: int
    expected: int
    n_expected: int
    has_texts: bool


@part
def is_label(x, limits):  # type: ignore[no-untyped-def]
    return (x == 0.0 or x == 1.0) if limits.is_binary else limits.lowest <= x <= limits.highest


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
    last = book.entries  # the entry of the last name
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
            of_book = 0
            if limits.has_patterns:
                last = follow_book(last, name, n_name, h, tail, book)
                of_book = role_in_book(last)
                met |= of_book & UNDECIDED
                role |= of_book
            if not role & IGNORED:
                if not is_new_name(event, name, n_name, h, tail, slots):
                    return left
                n = add_features(found, n, (h, tail), n_name, value, of_book, last, limits)
                if n == LEAVE:
                    return left
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
    if limits.n_expected:
        n = add_absent(found, n, event, slots, limits)
    if i != end or n - first > limits.max_features or not (limits.is_whole or met & FEATURES):
        return left
    if met & UNDECIDED or n == LEAVE:
        return left
    if limits.needs_label and not has_label:
        return UNLABELLED, first, label, weight
    return LEARN, n, label, weight

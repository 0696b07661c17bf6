"""One event: an object with flat features, from its first byte to its hashed rows, its label and its weight."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types

from flexihash.consumer.envelopes import HEADER_BYTES
from flexihash.consumer.scan.book import SIDES_SHIFT, UNDECIDED, find_in_book, follow_book, role_in_book
from flexihash.consumer.scan.flat_features import LEAVE, add_absent, add_features
from flexihash.consumer.scan.layout import (
    AMONG_FEATURES,
    FEATURES,
    IGNORED,
    LABEL,
    NEEDED,
    NESTED,
    SKIPPED,
    TEXT,
    WEIGHT,
    find_entry,
    mark_name,
)
from flexihash.consumer.scan.names import is_new_name
from flexihash.consumer.scan.runs import RUN_NUMBERS, pass_run, remember_run
from flexihash.consumer.scan.skipping import CLOSE, COLON, COMMA, OPEN, read_escaped, skip_value
from flexihash.consumer.scan.text import QUOTE, end_of_string, skip_space
from flexihash.consumer.scan.values import BOOLEAN, FRACTION, INTEGER, NULL, NULL_WORD, OTHER, STRING, read_value
from flexihash.model.compiled import inlined, part
from flexihash.model.kernel.vectors import loader, store
from flexihash.model.murmur import hash_name
from flexihash.model.words import byte, signed64, word32, word64

LEFT, LEARN, UNLABELLED = 0, 1, 2  # what becomes of a message

NO_RULE, IS_ABOVE, IS_AT_LEAST, IS_BELOW, IS_AT_MOST, IS_EQUAL, IS_OTHER = range(7)
COMPARISONS = {">": IS_ABOVE, ">=": IS_AT_LEAST, "<": IS_BELOW, "<=": IS_AT_MOST, "==": IS_EQUAL, "!=": IS_OTHER}
"""How a label's rule compares, by how it is written."""

LABEL_LIMITS_BYTES = 24
MOST_TEXT_BYTES = 256  # of a label's JSON; a longer one is not in the book
load_double = loader(types.float64)


class Limits(NamedTuple):
    """What the loop must know of the wire format and the task, beside the layout.

    Args:
        has_runs: what means nothing is remembered from one message to the next; see `consumer.scan.runs`.
        has_header: messages may begin with Confluent's header.
        has_patterns: the book says which features are left out, crossed, or of a kind.
        has_crosses: some are crossed.
        needs_label: an event without a label is UNLABELLED, and its features are not kept; else its label is NaN.
        n_labels: of an event, a number for each target.
        label_limits: address of three float64 for each: whether it is 0 or 1; if not, from what to what it is.
        comparison, compared: the rule that makes a label of a number; NO_RULE where the label is the number.
        max_weight, max_features, max_name_bytes, max_event_bytes: an event beyond is left.
        n_rows: a power of two.
        zone: the address of the zone of times; see `model.times`.
        max_words: of a text.
        expected, n_expected: names that mean something where an event lacks them: the address of what `pack_names`
            gives, and how many.
        has_texts: some strings are texts.
    """

    has_runs: bool
    has_header: bool
    has_patterns: bool
    has_crosses: bool
    needs_label: bool
    n_labels: int
    label_limits: int
    comparison: int
    compared: float
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
def compare(x, comparison, compared):  # type: ignore[no-untyped-def]
    if comparison == IS_ABOVE:
        return x > compared
    if comparison == IS_AT_LEAST:
        return x >= compared
    if comparison == IS_BELOW:
        return x < compared
    if comparison == IS_AT_MOST:
        return x <= compared
    return (x == compared) == (comparison == IS_EQUAL)


@part
def read_label(kind, x, target, limits):  # type: ignore[no-untyped-def]
    """The label that a value gives; NaN where it is left."""
    if limits.comparison != NO_RULE:
        is_number = kind == INTEGER or kind == FRACTION
        return np.float64(compare(x, limits.comparison, limits.compared)) if is_number else np.nan
    if kind == STRING:
        return np.nan
    allowed = limits.label_limits + LABEL_LIMITS_BYTES * target
    if load_double(allowed) != 0.0:
        return x if x == 0.0 or x == 1.0 else np.nan
    return x if load_double(allowed + 8) <= x <= load_double(allowed + 16) else np.nan


@part
def find_text(begin, end, book, labels, found, message):  # type: ignore[no-untyped-def]
    """Stores the label whose JSON lies from `begin` to `end`, or where that is, if the book doesn't know it."""
    code = np.int64(UNDECIDED)
    if end - begin <= MOST_TEXT_BYTES:
        h, tail = hash_name(begin, end)
        code = role_in_book(find_in_book(begin, end - begin, h, tail, book))
    if code & UNDECIDED:
        store(found.spans + 16 * message, begin - found.buffer)
        store(found.spans + 16 * message + 8, end - found.buffer)
    else:
        store(labels, np.float64(code >> SIDES_SHIFT))


@inlined
def scan_event(event, end, layout, books, limits, slots, found, message, first):  # type: ignore[no-untyped-def]
    """Scans the message from `event` to `end`; its features go to `first` and after, its labels to its place.

    Returns:
        The outcome, where the next event's features go, and the weight.
    """
    left = LEFT, first, 1.0
    n = first
    weight = 1.0
    labels = found.labels + 8 * limits.n_labels * message
    for target in range(limits.n_labels):
        store(labels + 8 * target, np.nan)
    has_label = False
    is_undecided = False
    met = np.int64(0)  # bits of names
    inside = layout  # the object that is scanned
    last = layout  # the entry of its last name that means something, or itself
    known = books[0].entries  # the entry in the book of the last feature
    run = np.int64(0)  # where names begin that mean nothing
    others, marks = signed64(inside + 8), word64(inside + 24)
    has_features = others == AMONG_FEATURES
    if end - event > limits.max_event_bytes:
        return left
    begin = event
    if limits.has_header and byte(event) == 0 and end - event > HEADER_BYTES:
        begin += HEADER_BYTES
    c, i = skip_space(begin)
    if c != OPEN:
        return left
    c, i = skip_space(i + 1)
    while True:  # a name and its value a turn, or a run
        passed = np.int64(0)
        if others == SKIPPED and limits.has_runs and run == 0:
            passed = pass_run(i, end, found.runs + RUN_NUMBERS * (last - layout))
            if passed != 0:
                i = passed
                c = byte(i)
        if passed == 0 or c == QUOTE:
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
            entry = np.int64(0)
            if (marks >> np.uint64(mark_name(n_name, byte(name)))) & np.uint64(1):
                entry = find_entry(name, n_name, inside)
            role = np.int64(0)
            if entry == 0:
                if run == 0 and others == SKIPPED:
                    run = name - 1
            else:
                if run != 0:
                    remember_run(run, name - 1, found.runs + RUN_NUMBERS * (last - layout))
                    run = np.int64(0)
                last = entry
                role = signed64(entry + 8)
                bits = signed64(entry + 16)
                if bits & met or (role & NEEDED and c != OPEN):
                    return left
                met |= bits
                deeper = signed64(entry + 24)
                if deeper != 0 and c == OPEN:
                    if role & (LABEL | TEXT | WEIGHT):
                        return left
                    has_features |= role & FEATURES != 0
                    inside = layout + deeper
                    last = inside
                    others, marks = signed64(inside + 8), word64(inside + 24)
                    c, i = skip_space(i + 1)
                    continue
            begin = i
            is_feature = others != SKIPPED and not role & IGNORED
            if is_feature or role & (LABEL | WEIGHT):
                value = read_value(i)
                if limits.has_texts and value[0] == OTHER and not role & (LABEL | WEIGHT):
                    value = read_escaped(i, value)
                kind, x, i = value[0], value[1], value[4]
                if kind == OTHER or (is_feature and others == NESTED):
                    return left
                if is_feature:
                    h, tail = hash_name(name, name + n_name)
                    if n_name > limits.max_name_bytes:
                        return left
                    of_book = np.int64(0)
                    if limits.has_patterns:
                        known = follow_book(known, name, n_name, h, tail, books[0])
                        of_book = role_in_book(known)
                        is_undecided |= of_book & UNDECIDED != 0
                    if not of_book & IGNORED:
                        if not is_new_name(event, name, n_name, h, tail, slots):
                            return left
                        n = add_features(found, n, (h, tail), n_name, value, of_book, known, limits)
                        if n == LEAVE:
                            return left
                if role & LABEL and kind != NULL:
                    target = signed64(entry + 32)
                    label = read_label(kind, x, target, limits)
                    if np.isnan(label):
                        return left
                    has_label = True
                    store(labels + 8 * target, label)
                if role & WEIGHT and kind != NULL:
                    if kind == STRING or kind == BOOLEAN or not 0.0 <= x <= limits.max_weight:
                        return left
                    weight = x
            else:
                i = skip_value(i)
                if i < 0:
                    return left
            if role & TEXT:
                if role & WEIGHT:
                    return left
                if word32(begin) != np.uint64(NULL_WORD):
                    has_label = True
                    find_text(begin, i, books[1], labels, found, message)
        c, i = skip_space(i)
        while c == CLOSE and inside != layout:
            if run != 0:
                remember_run(run, i, found.runs + RUN_NUMBERS * (last - layout))
                run = np.int64(0)
            last = layout + signed64(inside + 16)
            inside = layout + signed64(inside)
            others, marks = signed64(inside + 8), word64(inside + 24)
            c, i = skip_space(i + 1)
        if c == CLOSE:
            break
        if c != COMMA:
            return left
        c, i = skip_space(i + 1)
    if run != 0:
        remember_run(run, i, found.runs + RUN_NUMBERS * (last - layout))
    c, i = skip_space(i + 1)
    if limits.n_expected:
        n = add_absent(found, n, event, slots, limits)
    if i != end or n - first > limits.max_features or not has_features or is_undecided or n == LEAVE:
        return left
    if limits.needs_label and not has_label:
        return UNLABELLED, first, weight
    return LEARN, n, weight

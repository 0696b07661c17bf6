"""What a name and its value give: hashed features, by the kind of the name."""

from __future__ import annotations

import numpy as np

from flexihash.consumer.scan.book import KIND_SHIFT, KINDS, MISSING, SIDES_SHIFT, UNDECIDED, find_in_book
from flexihash.consumer.scan.layout import IGNORED
from flexihash.consumer.scan.names import KNOWN, NEW, UNSURE, find_slot
from flexihash.consumer.scan.text import QUOTE, SPACE
from flexihash.consumer.scan.values import (
    FRACTION,
    INTEGER,
    MINUS,
    NULL,
    OTHER,
    PLUS,
    POINT,
    STRING,
    is_digit,
    is_shortest,
    read_number,
)
from flexihash.model import features
from flexihash.model.compiled import part
from flexihash.model.kernel.vectors import store
from flexihash.model.kinds import AS_IT_IS, CATEGORY, NUMBER, TEXT, TIME
from flexihash.model.murmur import N_FIELDS, hash_name, row_of_category, row_of_number
from flexihash.model.texts import LEFT as ODD_LETTER
from flexihash.model.texts import LOWERED, N_LETTERS
from flexihash.model.times import DATE, LABELS, NO_TIME, PARTS, WEEKDAY, find_label, read_epoch, read_time
from flexihash.model.words import byte, signed64, word64

LEAVE = -1  # instead of the next feature's number: the long way has to see this
ROOM = 48  # bytes that may come behind a name to make another one and its value of it
MISSING_WORD = np.uint64(int.from_bytes(features.MISSING.encode(), "little"))
N_MISSING = len(features.MISSING)


def _pack(texts: tuple[str, ...]) -> list[tuple[int, int, int]]:
    """Of texts of up to 16 bytes: both halves and the length."""
    padded = [text.encode().ljust(16, b"\0") for text in texts]
    halves = [[int.from_bytes(one[begin : begin + 8], "little") for begin in (0, 8)] for one in padded]
    return [(first, second, len(text)) for (first, second), text in zip(halves, texts, strict=True)]


PART_NAMES = np.array(_pack(tuple(f".{part}" for part in PARTS)), np.uint64)
PART_VALUES = np.array(_pack(LABELS), np.uint64)


@part
def add_feature(found, n, row, value, is_number, field):  # type: ignore[no-untyped-def]
    """Writes feature `n`; returns the next one's number."""
    store(found.fields + 8 * n, field)
    store(found.rows + 8 * n, row)
    store(found.values + 8 * n, value)
    store(found.is_number + n, np.uint8(is_number))
    return n + 1


@part
def set_sides(found, first, n, role, limits):  # type: ignore[no-untyped-def]
    """Writes where the features from `first` up to `n` stand in crosses."""
    if limits.has_crosses:
        for k in range(first, n):
            store(found.sides + 8 * k, role >> SIDES_SHIFT)
    return n


@part
def add_plain(found, n, name_hash, n_name, value, limits):  # type: ignore[no-untyped-def]
    """What a value gives whose name says nothing; returns the next feature's number."""
    h, tail = name_hash
    kind, x, begin, end, _ = value
    field = row_of_number(h, tail, n_name, N_FIELDS)
    if kind == INTEGER or kind == FRACTION:
        n = add_feature(found, n, field & (limits.n_rows - 1), x + 0.0, True, field)  # -0.0 becomes 0.0
    if kind != FRACTION and kind != NULL:
        n = add_feature(found, n, row_of_category(h, tail, n_name, begin, end, limits.n_rows), 1.0, False, field)
    return n


@part
def may_be_time(value):  # type: ignore[no-untyped-def]
    kind, begin, end = value[0], value[2], value[3]
    return kind == STRING and end - begin >= 10 and byte(begin + 4) == MINUS and byte(begin + 7) == MINUS


@part
def add_features(found, n, name, n_name, name_hash, value, role, limits, book):  # type: ignore[no-untyped-def]
    """Writes what a name and its value give, from feature `n` on.

    Returns:
        The next feature's number, or LEAVE; and UNDECIDED where a name is new to the book, else 0.
    """
    first = n
    if role & KINDS or may_be_time(value):
        return add_by_kind(found, n, name, n_name, name_hash, value, role, limits, book)
    return set_sides(found, first, add_plain(found, n, name_hash, n_name, value, limits), role, limits), 0


@part
def add_by_kind(found, n, name, n_name, name_hash, value, role, limits, book):  # type: ignore[no-untyped-def]
    """As `add_features`, where the name has a kind, a null may mean something, or the value may be a time."""
    first = n
    what, x, begin, end, _ = value
    kind = (role >> KIND_SHIFT) & 7
    is_text = what == STRING
    if what == NULL:
        return add_missing(found, n, name_hash, n_name, role, limits), 0
    if is_text and kind == TEXT:
        n = add_words(found, n, name_hash, n_name, begin, end, limits)
        if n == first:
            return add_missing(found, n, name_hash, n_name, role, limits), 0
        return set_sides(found, first, n, role, limits), 0
    if is_text and (kind == AS_IT_IS or kind == TIME):
        time = read_time(begin, end, limits.zone)
        if time[0] != NO_TIME:
            return add_time(found, n, name, n_name, name_hash, time, role, limits, book)
    if is_text and (kind == NUMBER or kind == TIME):
        what, x = read_text_number(begin, end)
    if what == OTHER or (what == FRACTION and kind == CATEGORY and not is_shortest(begin, end, x)):
        return LEAVE, 0
    is_number = what == INTEGER or what == FRACTION
    if is_number and kind == TIME:
        time = read_epoch(x, limits.zone)
        if time[0] != NO_TIME:
            return add_time(found, n, name, n_name, name_hash, time, role, limits, book)
        if is_text:
            is_number, what = False, STRING
    h, tail = name_hash
    field = row_of_number(h, tail, n_name, N_FIELDS)
    if is_number and kind != CATEGORY:
        n = add_feature(found, n, field & (limits.n_rows - 1), x + 0.0, True, field)
    if kind == CATEGORY or not is_number or (what == INTEGER and kind != NUMBER):
        n = add_feature(found, n, row_of_category(h, tail, n_name, begin, end, limits.n_rows), 1.0, False, field)
    return set_sides(found, first, n, role, limits), 0


@part
def read_text_number(begin, end):  # type: ignore[no-untyped-def]
    """What a text is as a number: INTEGER or FRACTION with its value, STRING: none, OTHER: Python has to say."""
    c = byte(begin)
    if is_digit(c) or c == MINUS:
        what, x, stop = read_number(begin)
        return (what if stop == end else OTHER), x
    if c == SPACE or c == PLUS or c == POINT or c >= 0x80:
        return OTHER, 0.0
    return STRING, 0.0  # letters spell no number that is finite


@part
def add_missing(found, n, name_hash, n_name, role, limits):  # type: ignore[no-untyped-def]
    """What nothing gives."""
    if not role & MISSING:
        return n
    h, tail = name_hash
    store(limits.spare, MISSING_WORD)
    row = row_of_category(h, tail, n_name, limits.spare, limits.spare + N_MISSING, limits.n_rows)
    added = add_feature(found, n, row, 1.0, False, row_of_number(h, tail, n_name, N_FIELDS))
    return set_sides(found, n, added, role, limits)


@part
def add_absent(found, n, event, slots, limits):  # type: ignore[no-untyped-def]
    """What names give that the event should have and has not; the next feature's number, or LEAVE."""
    names = limits.expected
    while True:
        n_name = signed64(names)
        if n_name < 0:
            return n
        name = names + 16
        h, tail = hash_name(name, name + n_name)
        _, is_known = find_slot(event, name, n_name, h, tail, slots)
        if is_known == UNSURE:
            return LEAVE
        if is_known == NEW:
            n = add_missing(found, n, (h, tail), n_name, signed64(names + 8), limits)
        names = name + n_name + 8


@part
def add_time(found, n, name, n_name, name_hash, time, role, limits, book):  # type: ignore[no-untyped-def]
    """A time's seconds, and what the clock on the wall shows, as features with names of their own."""
    h, tail = name_hash
    form, seconds, wall_s = time
    field = row_of_number(h, tail, n_name, N_FIELDS)
    added = add_feature(found, n, field & (limits.n_rows - 1), seconds + 0.0, True, field)
    n = set_sides(found, n, added, role, limits)
    met = 0
    for which in range(len(PARTS)):
        if form != DATE or which == WEEKDAY:
            n, role = add_part(found, n, name, n_name, which, wall_s, limits, book)
            met |= role & UNDECIDED
    return n, met


@part
def add_part(found, n, name, n_name, which, wall_s, limits, book):  # type: ignore[no-untyped-def]
    """A part of a time, ``name.hour=17``; returns the next feature's number and the role of ``name.hour``."""
    for k in range(0, n_name, 8):
        store(limits.spare + k, word64(name + k))
    end = limits.spare + n_name
    n_part = n_name + put(end, PART_NAMES, which)
    h, tail = hash_name(limits.spare, limits.spare + n_part)
    role = np.int64(0)
    if limits.has_patterns:
        role = find_in_book(limits.spare, n_part, h, tail, book)
        if role & IGNORED:
            return n, role
    begin = limits.spare + n_part
    end = begin + put(begin, PART_VALUES, find_label(which, wall_s))
    row = row_of_category(h, tail, n_part, begin, end, limits.n_rows)
    added = add_feature(found, n, row, 1.0, False, row_of_number(h, tail, n_part, N_FIELDS))
    return set_sides(found, n, added, role, limits), role


@part
def put(place, texts, which):  # type: ignore[no-untyped-def]
    """Writes one of the texts that `_pack` made; returns how long it is."""
    store(place, texts[which, 0])
    store(place + 8, texts[which, 1])
    return np.int64(texts[which, 2])


@part
def read_letter(i):  # type: ignore[no-untyped-def]
    """What the character at `i` becomes in a word, as LOWERED has it, and its size in bytes."""
    c = byte(i)
    if c < 0x80:
        return LOWERED[np.uint64(c)], 1
    if c < 0xE0:
        return LOWERED[np.uint64((c & 0x1F) << 6 | byte(i + 1) & 0x3F)], 2
    second = byte(i + 1)
    if c == 0xE2 and second < 0x84:  # from U+2000 up to U+20FF
        return LOWERED[np.uint64(N_LETTERS + ((second & 0x03) << 6 | byte(i + 2) & 0x3F))], 3
    return np.uint16(ODD_LETTER), 4


@part
def add_words(found, n, name_hash, n_name, begin, end, limits):  # type: ignore[no-untyped-def]
    """The words of a text, each once; the next feature's number, or LEAVE.

    They are written in lower case, each with a quote behind it, to where the text would lie in a copy of all messages.
    """
    h, tail = name_hash
    field = row_of_number(h, tail, n_name, N_FIELDS)
    most = n + limits.max_words
    i = word = begin
    while n < most:
        lowered, size = read_letter(i)  # at the end that is the quote, which parts words
        if lowered == ODD_LETTER:
            return LEAVE
        if lowered != 0:
            if size == 1:
                store(i + found.words, np.uint8(lowered))
            else:
                store(i + found.words, np.uint16(lowered))
        elif i > word:
            at = word + found.words
            n_word = i - word
            store(at + n_word, np.uint8(QUOTE))
            word_h, word_tail = hash_name(at, at + n_word)
            place, is_known = find_slot(begin + found.words, at, n_word, word_h, word_tail, found.word_slots)
            if is_known == UNSURE:
                return LEAVE
            if is_known != KNOWN:
                store(place, at)
                row = row_of_category(h, tail, n_name, at, at + n_word, limits.n_rows)
                n = add_feature(found, n, row, 1.0, False, field)
        if lowered == 0:
            word = i + size
            if i >= end:
                break
        i += size
    return n

"""What a name and its value give: hashed features, by the kind of the name."""

from __future__ import annotations

import numpy as np

from flexihash.consumer.scan.book import KIND_SHIFT, KINDS, MISSING, SIDES_SHIFT, UNDECIDED, role_of_part
from flexihash.consumer.scan.layout import IGNORED
from flexihash.consumer.scan.names import NEW, UNSURE, find_slot
from flexihash.consumer.scan.skipping import LOWER_U, hex_digit
from flexihash.consumer.scan.text import BACKSLASH, QUOTE, SPACE
from flexihash.consumer.scan.values import (
    ESCAPED,
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
from flexihash.model.murmur import (
    N_FIELDS,
    append_text,
    end_hash,
    hash_name,
    pack_text,
    row_of_category,
    row_of_number,
)
from flexihash.model.texts import LEFT as ODD_LETTER
from flexihash.model.texts import LOWERED, N_LETTERS, N_PUNCTUATION, PUNCTUATION
from flexihash.model.times import DATE, LABELS, NO_TIME, PARTS, SHORTEST, WEEKDAY, find_label, read_epoch, read_time
from flexihash.model.words import byte, signed64

LEAVE = -1  # instead of the next feature's number: the long way has to see this

# What comes behind a name.
MISSING_VALUE = np.array(pack_text(f"={features.MISSING}"), np.uint64)
PART_NAMES = np.array([pack_text(f".{name}") for name in PARTS], np.uint64)
PART_VALUES = np.array([pack_text(f"={label}") for label in LABELS], np.uint64)


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
    return kind == STRING and end - begin >= SHORTEST and byte(begin + 4) == MINUS and byte(begin + 7) == MINUS


@part
def add_features(found, n, name_hash, n_name, value, role, entry, limits):  # type: ignore[no-untyped-def]
    """Writes what a name and its value give, from feature `n` on; returns the next one's number, or LEAVE.

    `role` and `entry` are those in the book; without patterns 0 and any.
    """
    if role & KINDS or value[0] == ESCAPED or may_be_time(value):
        return add_by_kind(found, n, name_hash, n_name, value, role, entry, limits)
    return set_sides(found, n, add_plain(found, n, name_hash, n_name, value, limits), role, limits)


@part
def add_by_kind(found, n, name_hash, n_name, value, role, entry, limits):  # type: ignore[no-untyped-def]
    """As `add_features`, where the name has a kind, or the value is null, has escapes, or may be a time."""
    first = n
    what, x, begin, end, _ = value
    kind = (role >> KIND_SHIFT) & 7
    is_text = what == STRING or what == ESCAPED
    if what == NULL:
        return add_missing(found, n, name_hash, n_name, role, limits)
    if what == ESCAPED and kind != TEXT:
        return n if role & UNDECIDED else LEAVE  # an undecided one may be a text, and its event is scanned again
    if is_text and kind == TEXT:
        n = add_words(found, n, name_hash, n_name, begin, end, limits)
        if n == first:
            return add_missing(found, n, name_hash, n_name, role, limits)
        return set_sides(found, first, n, role, limits)
    if is_text and (kind == AS_IT_IS or kind == TIME):
        time = read_time(begin, end, limits.zone)
        if time[0] != NO_TIME:
            return add_time(found, n, name_hash, n_name, time, role, entry, limits)
    if is_text and (kind == NUMBER or kind == TIME):
        what, x = read_text_number(begin, end)
    if what == OTHER or (what == FRACTION and kind == CATEGORY and not is_shortest(begin, end, x)):
        return LEAVE
    is_number = what == INTEGER or what == FRACTION
    if is_number and kind == TIME:
        time = read_epoch(x, limits.zone)
        if time[0] != NO_TIME:
            return add_time(found, n, name_hash, n_name, time, role, entry, limits)
        if is_text:
            is_number, what = False, STRING
    h, tail = name_hash
    field = row_of_number(h, tail, n_name, N_FIELDS)
    if is_number and kind != CATEGORY:
        n = add_feature(found, n, field & (limits.n_rows - 1), x + 0.0, True, field)
    if kind == CATEGORY or not is_number or (what == INTEGER and kind != NUMBER):
        n = add_feature(found, n, row_of_category(h, tail, n_name, begin, end, limits.n_rows), 1.0, False, field)
    return set_sides(found, first, n, role, limits)


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
    field = row_of_number(h, tail, n_name, N_FIELDS)
    added = add_appended(found, n, h, tail, n_name, MISSING_VALUE, field, limits)
    return set_sides(found, n, added, role, limits)


@part
def add_appended(found, n, h, tail, n_bytes, text, field, limits):  # type: ignore[no-untyped-def]
    """The category that a hash underway over `n_bytes` bytes becomes with a text behind; the next feature's number."""
    h, tail, n_tail = append_text(h, tail, n_bytes & 3, text)
    row = end_hash(h, tail, n_tail, n_bytes + np.int64(text[2]), limits.n_rows)
    return add_feature(found, n, row, 1.0, False, field)


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
def add_time(found, n, name_hash, n_name, time, role, entry, limits):  # type: ignore[no-untyped-def]
    """A time's seconds, and what the clock on the wall shows, ``name.hour=17``, as features with names of their own."""
    h, tail = name_hash
    form, seconds, wall_s = time
    field = row_of_number(h, tail, n_name, N_FIELDS)
    added = add_feature(found, n, field & (limits.n_rows - 1), seconds + 0.0, True, field)
    n = set_sides(found, n, added, role, limits)
    for which in range(len(PARTS)):
        role = role_of_part(entry, which) if limits.has_patterns else 0
        if (form == DATE and which != WEEKDAY) or role & IGNORED:
            continue
        part_h, part_tail, n_tail = append_text(h, tail, n_name & 3, PART_NAMES[which])
        n_part = n_name + np.int64(PART_NAMES[which, 2])
        field = end_hash(part_h, part_tail, n_tail, n_part, N_FIELDS)
        value = PART_VALUES[find_label(which, wall_s)]
        added = add_appended(found, n, part_h, part_tail, n_part, value, field, limits)
        n = set_sides(found, n, added, role, limits)
    return n


@part
def lower(code):  # type: ignore[no-untyped-def]
    """What a character becomes in a word, as LOWERED has it."""
    if code < N_LETTERS:
        return LOWERED[np.uint64(code)]
    if PUNCTUATION <= code < PUNCTUATION + N_PUNCTUATION:
        return LOWERED[np.uint64(N_LETTERS + code - PUNCTUATION)]
    return np.uint16(ODD_LETTER)


@part
def read_letter(i):  # type: ignore[no-untyped-def]
    """What the character at `i` becomes in a word, and how many bytes it takes in the message."""
    c = byte(i)
    if c == BACKSLASH:
        if byte(i + 1) != LOWER_U:
            return np.uint16(0), 2
        code = 0
        for k in range(2, 6):
            code = 16 * code + hex_digit(byte(i + k))
        return lower(code), 6
    if c < 0x80:
        return LOWERED[np.uint64(c)], 1
    if c < 0xE0:
        return LOWERED[np.uint64((c & 0x1F) << 6 | byte(i + 1) & 0x3F)], 2
    if c < 0xF0:
        return lower((c & 0x0F) << 12 | (byte(i + 1) & 0x3F) << 6 | byte(i + 2) & 0x3F), 3
    return np.uint16(ODD_LETTER), 4


@part
def add_words(found, n, name_hash, n_name, begin, end, limits):  # type: ignore[no-untyped-def]
    """The words of a text, each once; the next feature's number, or LEAVE.

    They are written in lower case, each with a quote behind it, to where the text would lie in a copy of all messages:
    eight bytes at once, or they could not be read again at once.
    """
    h, tail = name_hash
    field = row_of_number(h, tail, n_name, N_FIELDS)
    most = n + limits.max_words
    i, at, n_word = begin, begin + found.words, 0
    packed = np.uint64(0)  # what of the word is not written yet
    while n < most and i <= end:
        letter, size = read_letter(i)  # at the end that is the quote, which parts words
        if letter == ODD_LETTER:
            return LEAVE
        i += size
        if letter != 0:
            packed |= np.uint64(letter) << np.uint64(8 * (n_word & 7))
            n_letter = 1 if letter < 0x100 else 2
            n_word += n_letter
            if n_word & 7 < n_letter:
                store(at + (n_word & ~7) - 8, packed)
                packed = np.uint64(letter) >> np.uint64(8 * (n_letter - (n_word & 7)))
            continue
        if n_word > 0:
            store(at + (n_word & ~7), packed | np.uint64(QUOTE) << np.uint64(8 * (n_word & 7)))
            hashed = row_of_category(h, tail, n_name, at, at + n_word, N_FIELDS)
            first = begin + found.words
            place, is_known = find_slot(first, at, n_word, np.uint32(hashed), np.uint64(0), found.word_slots)
            if is_known == UNSURE:
                return LEAVE
            if is_known == NEW:
                store(place, at)
                n = add_feature(found, n, hashed & (limits.n_rows - 1), 1.0, False, field)
        at, n_word, packed = i + found.words, 0, np.uint64(0)
    return n

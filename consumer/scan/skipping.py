"""Values that nobody reads: skipped, and found valid or left."""

from __future__ import annotations

import numpy as np

from flexihash.consumer.scan.text import BACKSLASH, QUOTE, first_special, skip_character, skip_space
from flexihash.consumer.scan.values import ESCAPED, OTHER, is_digit, read_value
from flexihash.model.compiled import part
from flexihash.model.words import byte, word64

COMMA, COLON, OPEN, CLOSE, OPEN_LIST, CLOSE_LIST = 0x2C, 0x3A, 0x7B, 0x7D, 0x5B, 0x5D
LOWER_U, LOWER_A, LETTER_F, SURROGATES = 0x75, 0x61, 0x66, 0xD8
DEEPEST = 60  # what is nested deeper is left
ESCAPES = frozenset(b'"\\/bfnrt')
IS_ESCAPE = np.array([c in ESCAPES for c in range(256)])


@part
def hex_digit(c):  # type: ignore[no-untyped-def]
    """What a hexadecimal digit is worth; -1: it is none."""
    if is_digit(c):
        return c - 0x30
    c |= 0x20
    return c - LOWER_A + 10 if LOWER_A <= c <= LETTER_F else -1


@part
def skip_escape(i):  # type: ignore[no-untyped-def]
    """Behind the escape whose backslash is at `i`; -1 where it is left, as those of surrogates are."""
    c = byte(i + 1)
    if c != LOWER_U:
        return i + 2 if IS_ESCAPE[np.uint64(c)] else -1
    for k in range(2, 6):
        if hex_digit(byte(i + k)) < 0:
            return -1
    first = 16 * hex_digit(byte(i + 2)) + hex_digit(byte(i + 3))
    return -1 if SURROGATES <= first < SURROGATES + 8 else i + 6


@part
def skip_string(i):  # type: ignore[no-untyped-def]
    """Behind the string whose text begins at `i`; -1 where it is left."""
    while True:
        n = first_special(word64(i))
        i += n
        if n == 8:
            continue
        c = byte(i)
        if c == QUOTE:
            return i + 1
        if c == BACKSLASH:
            i = skip_escape(i)
        elif c >= 0x80:
            i = skip_character(i)
        else:
            return -1
        if i < 0:
            return -1


@part
def read_escaped(i, value):  # type: ignore[no-untyped-def]
    """As `read_value`, which said `value`, but that a string with escapes is ESCAPED."""
    end = skip_string(i + 1) if byte(i) == QUOTE else -1
    return (ESCAPED, 0.0, i + 1, end - 1, end) if end >= 0 else value


@part
def skip_name(i):  # type: ignore[no-untyped-def]
    """Where the value begins whose name begins at `i`; -1 where that is left."""
    if byte(i) != QUOTE:
        return -1
    i = skip_string(i + 1)
    if i < 0:
        return -1
    c, i = skip_space(i)
    if c != COLON:
        return -1
    c, i = skip_space(i + 1)
    return i


@part
def skip_scalar(i):  # type: ignore[no-untyped-def]
    """Behind the value at `i`; -1 where it is left, or is an object or an array."""
    if byte(i) == QUOTE:
        return skip_string(i + 1)
    value = read_value(i)
    return -1 if value[0] == OTHER else value[4]


@part
def skip_value(i):  # type: ignore[no-untyped-def]
    """Behind the value at `i`, whatever it is; -1 where it is left."""
    kinds = np.uint64(1)  # of what is open, the innermost last: a bit each, 1 for an object; before them a 1
    while True:  # a value a turn
        c = byte(i)
        if c == OPEN or c == OPEN_LIST:
            if kinds >> np.uint64(DEEPEST):
                return -1
            kinds = kinds << np.uint64(1) | np.uint64(c == OPEN)
            end = c + (CLOSE - OPEN)
            c, i = skip_space(i + 1)
            if c != end:
                if end == CLOSE:
                    i = skip_name(i)
                    if i < 0:
                        return -1
                continue
            kinds >>= np.uint64(1)
            i += 1
        else:
            i = skip_scalar(i)
            if i < 0:
                return -1
        while True:  # what ends here
            if kinds == np.uint64(1):
                return i
            c, i = skip_space(i)
            is_object = kinds & np.uint64(1) == np.uint64(1)
            if c == COMMA:
                c, i = skip_space(i + 1)
                if is_object:
                    i = skip_name(i)
                    if i < 0:
                        return -1
                break
            if c != (CLOSE if is_object else CLOSE_LIST):
                return -1
            kinds >>= np.uint64(1)
            i += 1

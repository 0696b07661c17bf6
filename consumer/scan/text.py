"""White space and strings."""

from __future__ import annotations

import numpy as np

from flexihash.model.compiled import part
from flexihash.model.words import byte, word64

QUOTE, BACKSLASH = 0x22, 0x5C
SPACE, TAB, LINE_FEED, RETURN = 0x20, 0x09, 0x0A, 0x0D


@part
def skip_space(i):  # type: ignore[no-untyped-def]
    """The first byte from `i` on that is not white space, and where it is."""
    c = byte(i)
    while c <= SPACE and (c == SPACE or c == LINE_FEED or c == RETURN or c == TAB):
        i += 1
        c = byte(i)
    return c, i


@part
def first_special(word):  # type: ignore[no-untyped-def]
    """Which of eight bytes is the first that is a quote, a backslash, a control character or not ASCII; 8: none.

    ``x - 1 & ~x`` has the high bit of the first zero byte of x, and may have it in bytes after that one.
    """
    ones = np.uint64(0x0101010101010101)
    quote = word ^ (ones * np.uint64(QUOTE))
    slash = word ^ (ones * np.uint64(BACKSLASH))
    hits = ((quote - ones) & ~quote) | ((slash - ones) & ~slash) | ((word - ones * np.uint64(SPACE)) & ~word) | word
    hits &= ones << np.uint64(7)
    if hits == np.uint64(0):
        return 8
    lowest = (hits & (~hits + np.uint64(1))) >> np.uint64(7)  # 1 << 8 * answer
    return np.int64((lowest * np.uint64(0x0001020304050607)) >> np.uint64(56))


@part
def skip_character(i):  # type: ignore[no-untyped-def]
    """Behind the non-ASCII character at `i`; -1 where it is not UTF-8 (RFC 3629: shortest form, no surrogates)."""
    c = byte(i)
    if 0xC2 <= c <= 0xDF:
        n = 2
    elif 0xE0 <= c <= 0xEF:
        n = 3
    elif 0xF0 <= c <= 0xF4:
        n = 4
    else:
        return -1
    low, high = second_byte(c)
    if not low <= byte(i + 1) <= high:
        return -1
    for k in range(2, n):
        if not 0x80 <= byte(i + k) <= 0xBF:
            return -1
    return i + n


@part
def second_byte(first):  # type: ignore[no-untyped-def]
    """From what to what a character's second byte may be."""
    low, high = 0x80, 0xBF
    if first == 0xE0:
        low = 0xA0
    elif first == 0xED:
        high = 0x9F
    elif first == 0xF0:
        low = 0x90
    elif first == 0xF4:
        high = 0x8F
    return low, high


@part
def end_of_string(i):  # type: ignore[no-untyped-def]
    """The quote that ends the string whose text begins at `i`; -1 where the string is left."""
    while True:
        n = first_special(word64(i))
        i += n
        if n == 8:
            continue
        c = byte(i)
        if c == QUOTE:
            return i
        if c < 0x80:
            return -1
        i = skip_character(i)
        if i < 0:
            return -1

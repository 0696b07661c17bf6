"""A name's value: a number, a string, a word, or something that is left."""

from __future__ import annotations

import numpy as np

from flexihash.consumer.scan.decimals import scale
from flexihash.consumer.scan.text import QUOTE, end_of_string
from flexihash.model.compiled import part
from flexihash.model.words import byte, word32

# Kinds of value; OTHER is an object, an array, or left for another reason. A string with escapes is ESCAPED where texts
# are read, else OTHER.
NULL, BOOLEAN, INTEGER, FRACTION, STRING, OTHER, ESCAPED = 0, 1, 2, 3, 4, 5, 6

PLUS, MINUS, POINT, DIGIT_0, DIGIT_9, LOWER_E, LOWER_F = 0x2B, 0x2D, 0x2E, 0x30, 0x39, 0x65, 0x66
LOWER = 0x20  # this bit makes a letter lower case
NULL_WORD, TRUE_WORD, ALSE_WORD = (int.from_bytes(word, "little") for word in (b"null", b"true", b"alse"))

MAX_DIGITS = 19  # of a number: so many fit in 64 bits
MAX_PLAIN = 16  # characters of a fraction without an exponent: fifteen digits and the point
MIN_PLAIN = 1e-4  # smaller ones Python writes with an exponent


@part
def is_digit(c):  # type: ignore[no-untyped-def]
    return DIGIT_0 <= c <= DIGIT_9


@part
def read_digits(i, mantissa):  # type: ignore[no-untyped-def]
    """Appends the digits from `i` on to `mantissa`; returns where they end, too."""
    while is_digit(byte(i)):
        mantissa = mantissa * np.uint64(10) + np.uint64(byte(i) - DIGIT_0)
        i += 1
    return mantissa, i


@part
def read_number(i):  # type: ignore[no-untyped-def]
    """The number at `i`: its kind (OTHER: left), what it is, and where it ends."""
    is_negative = byte(i) == MINUS
    begin = i + is_negative
    mantissa, i = read_digits(begin, np.uint64(0))
    n_digits = i - begin
    if n_digits == 0 or (n_digits > 1 and byte(begin) == DIGIT_0):
        return OTHER, 0.0, i
    kind = INTEGER
    exponent = np.int64(0)
    if byte(i) == POINT:
        kind = FRACTION
        begin = i + 1
        first = begin  # digit that counts
        while mantissa == np.uint64(0) and byte(first) == DIGIT_0:
            first += 1
        mantissa, i = read_digits(first, mantissa)
        if i == begin:
            return OTHER, 0.0, i
        exponent = begin - i
        n_digits += i - first
    if byte(i) | LOWER == LOWER_E:
        kind = FRACTION
        sign = byte(i + 1)
        begin = i + 1 + (sign == MINUS or sign == PLUS)
        digits, i = read_digits(begin, np.uint64(0))
        if i == begin or i - begin > 4:
            return OTHER, 0.0, i
        power = np.int64(digits)
        exponent += -power if sign == MINUS else power
    if n_digits > MAX_DIGITS:
        return OTHER, 0.0, i
    if kind == INTEGER and is_negative and mantissa == np.uint64(0):  # -0, whose category is "0"
        return OTHER, 0.0, i
    x = scale(mantissa, exponent)
    if x < 0.0:
        return OTHER, 0.0, i
    return kind, -x if is_negative else x, i


@part
def is_shortest(begin, end, x):  # type: ignore[no-untyped-def]
    """Whether a fraction is written as Python writes it; False where that is not plain.

    Fifteen digits are told apart by any float64, so no shorter text is the same number.
    """
    if end - begin > MAX_PLAIN or (x != 0.0 and abs(x) < MIN_PLAIN):
        return False
    for i in range(begin, end):
        if byte(i) | LOWER == LOWER_E:
            return False
    return byte(end - 1) != DIGIT_0 or byte(end - 2) == POINT


@part
def read_value(i):  # type: ignore[no-untyped-def]
    """The value at `i`: its kind, what it is as a number, where its text begins and ends, and where to go on."""
    c = byte(i)
    if c == QUOTE:
        end = end_of_string(i + 1)
        return STRING if end >= 0 else OTHER, 0.0, i + 1, end, end + 1
    if is_digit(c) or c == MINUS:
        kind, x, end = read_number(i)
        return kind, x, i, end, end
    word = word32(i)
    if word == np.uint64(NULL_WORD):
        return NULL, 0.0, i, i + 4, i + 4
    if word == np.uint64(TRUE_WORD):
        return BOOLEAN, 1.0, i, i + 4, i + 4
    if c == LOWER_F and word32(i + 1) == np.uint64(ALSE_WORD):
        return BOOLEAN, 0.0, i, i + 5, i + 5
    return OTHER, 0.0, i, i, i

"""Runs: names and values that nobody reads, one behind the other, up to a name that means something or to an end.

In a topic a run is mostly the one of the message before, but for some digits: a schema, where a change comes from, an
id. So each is remembered by what it follows, and where it comes again it is passed by comparing eight bytes at a time.
It is valid, since the first one was found so: of one length, with other digits where digits were, and none of these is

- a 0 behind what is no digit, where a number might begin with it;
- in an exponent, which might leave the range, nor in a ``\\u``, which might be half a pair: such runs are not
  remembered;
- in a name that means something: runs are passed only where no such name has a digit.
"""

from __future__ import annotations

import numpy as np

from flexihash.consumer.scan.text import BACKSLASH
from flexihash.consumer.scan.values import LOWER, LOWER_E, MINUS, PLUS, is_digit
from flexihash.model.compiled import part
from flexihash.model.kernel.vectors import store
from flexihash.model.words import byte, low_bytes, signed64, word64

RUN_NUMBERS = 3  # of each run: where it lies, its bytes with the one behind it, and how often in a row it was another
MOST_MISSED = 16  # in a row; then it is not remembered any more
BLOCK_BYTES = 32
LOWER_U = 0x75
HIGH_BITS, LOW_BITS, DIGITS, TO_HIGH = (np.uint64(c * 0x0101010101010101) for c in (0x80, 0x7F, 0x30, 0x76))


@part
def mark_others(word):  # type: ignore[no-untyped-def]
    """The high bit of each of eight bytes that is no digit."""
    from_zero = word ^ DIGITS
    return (((from_zero & LOW_BITS) + TO_HIGH) | from_zero) & HIGH_BITS


@part
def mark_set(word):  # type: ignore[no-untyped-def]
    """The high bit of each of eight bytes that is not 0."""
    return (((word & LOW_BITS) + LOW_BITS) | word) & HIGH_BITS


@part
def is_same_but_for_digits(one, other, before):  # type: ignore[no-untyped-def]
    """Whether eight bytes differ by digits alone, in a way that keeps them valid; `before` the others is this byte."""
    differ = mark_set(one ^ other)
    if differ & (mark_others(one) | mark_others(other)):
        return False
    zeros = differ & ~mark_set(other ^ DIGITS)
    if zeros == np.uint64(0):
        return True
    behind = (mark_others(other) << np.uint64(8)) | np.uint64(0 if is_digit(before) else 0x80)
    return zeros & behind == np.uint64(0)


@part
def is_same_block(one, other):  # type: ignore[no-untyped-def]
    """Whether 32 bytes at two addresses are equal."""
    difference = word64(one) ^ word64(other)
    for k in range(8, BLOCK_BYTES, 8):
        difference |= word64(one + k) ^ word64(other + k)
    return difference == np.uint64(0)


@part
def pass_run(i, end, run):  # type: ignore[no-untyped-def]
    """Behind the run at `i`, if it is the one that is remembered at `run`; 0: it is not."""
    begin, n = signed64(run), signed64(run + 8)
    if n == 0 or n > end - i:
        return 0
    k = 0
    while k < n:
        while n - k >= BLOCK_BYTES and is_same_block(begin + k, i + k):
            k += BLOCK_BYTES
        stop = min(n, k + BLOCK_BYTES)
        while k < stop:
            one, other = word64(begin + k), word64(i + k)
            if n - k < 8:
                one, other = low_bytes(one, n - k), low_bytes(other, n - k)
            if one != other and not is_same_but_for_digits(one, other, byte(i + k - 1)):
                return 0
            k += 8
    store(run + 16, np.int64(0))
    return i + n - 1


@part
def is_plain(begin, end):  # type: ignore[no-untyped-def]
    """Whether nothing looks like an exponent or a ``\\u``."""
    for i in range(begin, end):
        c = byte(i)
        if c == BACKSLASH and byte(i + 1) == LOWER_U:
            return False
        if c | LOWER == LOWER_E and is_digit(byte(i - 1)):
            c = byte(i + 1)
            if is_digit(c) or c == PLUS or c == MINUS:
                return False
    return True


@part
def remember_run(begin, end, run):  # type: ignore[no-untyped-def]
    """Remembers a run, and the byte at `end` behind it."""
    n_missed = signed64(run + 16)
    if n_missed < MOST_MISSED:
        store(run, begin)
        store(run + 8, end + 1 - begin if is_plain(begin, end) else np.int64(0))
        store(run + 16, n_missed + 1)

"""Memory, by address: bytes, and words of up to eight of them."""

from __future__ import annotations

import numpy as np
from numba import types

from flexihash.model.compiled import part
from flexihash.model.kernel.vectors import loader

PADDING = bytes(8)  # memory is read in words, up to seven bytes beyond what is looked at

byte = loader(types.uint8, types.int64)
word32 = loader(types.uint32, types.uint64)
word64 = loader(types.uint64)
signed64 = loader(types.int64)


@part
def low_bytes(word, n):  # type: ignore[no-untyped-def]
    """The first `n` (0 to 7) bytes of a word."""
    return word & ((np.uint64(1) << np.uint64(8 * n)) - np.uint64(1))


@part
def is_same(one, other, n):  # type: ignore[no-untyped-def]
    """Whether `n` bytes at two addresses are equal."""
    while n >= 8:
        if word64(one) != word64(other):
            return False
        one += 8
        other += 8
        n -= 8
    return low_bytes(word64(one) ^ word64(other), n) == np.uint64(0)

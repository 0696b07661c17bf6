"""The row of a feature: MurmurHash3 (32 bits, seed 0) of `name` or `name=value`, as FeatureHasher has it.

A hash underway is `h`, over the blocks of four bytes so far, and `tail`, the up to seven bytes behind them.
"""

from __future__ import annotations

import numpy as np

from flexihash.consumer.scan.words import low_bytes, word32
from flexihash.model.compiled import part
from flexihash.model.features import N_FIELDS

EQUALS = 0x3D


@part
def rotate(x, n):  # type: ignore[no-untyped-def]
    return np.uint32(x << np.uint32(n)) | np.uint32(x >> np.uint32(32 - n))


@part
def spread(block):  # type: ignore[no-untyped-def]
    return np.uint32(rotate(np.uint32(np.uint32(block) * np.uint32(0xCC9E2D51)), 15) * np.uint32(0x1B873593))


@part
def mix_block(h, block):  # type: ignore[no-untyped-def]
    return np.uint32(rotate(h ^ spread(block), 13) * np.uint32(5) + np.uint32(0xE6546B64))


@part
def hash_name(begin, end):  # type: ignore[no-untyped-def]
    """`h` and `tail` (0 to 3 bytes) of a name."""
    h = np.uint32(0)
    while end - begin >= 4:
        h = mix_block(h, word32(begin))
        begin += 4
    return h, low_bytes(word32(begin), end - begin)


@part
def end_hash(h, tail, n_tail, n_bytes, n):  # type: ignore[no-untyped-def]
    """abs(hash) mod n, a power of two, of `n_bytes` bytes of which `n_tail` are in `tail`."""
    if n_tail >= 4:
        h = mix_block(h, tail)
        tail >>= np.uint64(32)
    h ^= spread(tail) ^ np.uint32(n_bytes)
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    h ^= h >> np.uint32(16)
    return abs(np.int64(np.int32(h))) & (n - 1)


@part
def hash_field(h, tail, n_name):  # type: ignore[no-untyped-def]
    return end_hash(h, tail, n_name & 3, n_name, N_FIELDS)


@part
def row_of_number(field, n_rows):  # type: ignore[no-untyped-def]
    return field & (n_rows - 1)


@part
def row_of_category(h, tail, n_name, begin, end, n_rows):  # type: ignore[no-untyped-def]
    """The row of a name and the value from `begin` to `end`."""
    n_tail = n_name & 3
    n_bytes = n_name + 1 + end - begin
    tail |= np.uint64(EQUALS) << np.uint64(8 * n_tail)
    n_tail += 1
    while end - begin >= 4:
        tail |= word32(begin) << np.uint64(8 * n_tail)
        h = mix_block(h, tail)
        tail >>= np.uint64(32)
        begin += 4
    tail |= low_bytes(word32(begin), end - begin) << np.uint64(8 * n_tail)
    return end_hash(h, tail, n_tail + end - begin, n_bytes, n_rows)

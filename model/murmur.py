"""The row of a feature: MurmurHash3 (32 bits, seed 0) of `name` or `name=value`, as FeatureHasher has it.

A hash underway is `h`, over the blocks of four bytes so far, and `tail`, the up to seven bytes behind them.
"""

from __future__ import annotations

import numpy as np

from flexihash.model.compiled import entry, part
from flexihash.model.kernel.vectors import store
from flexihash.model.words import low_bytes, signed64, word32

EQUALS = 0x3D
N_FIELDS = 1 << 31  # of features: the hash of a name, as large as it can be


def pack_text(text: str) -> tuple[int, int, int]:
    """A text of up to 16 bytes as the numbers that `append_text` takes: both halves, and how many bytes it has."""
    padded = text.encode().ljust(16, b"\0")
    return int.from_bytes(padded[:8], "little"), int.from_bytes(padded[8:], "little"), len(text.encode())


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
def append_text(h, tail, n_tail, text):  # type: ignore[no-untyped-def]
    """`h`, `tail` and the size of the tail, 0 to 3 bytes, with a text behind that `pack_text` made."""
    n_bytes = np.int64(text[2])
    for k in range(0, n_bytes, 4):
        n = min(n_bytes - k, 4)
        block = (text[np.uint64(k >> 3)] >> np.uint64(8 * (k & 4))) & np.uint64(0xFFFFFFFF)
        tail |= block << np.uint64(8 * n_tail)
        n_tail += n
        if n_tail >= 4:
            h = mix_block(h, tail)
            tail >>= np.uint64(32)
            n_tail -= 4
    return h, tail, n_tail


@part
def end_hash(h, tail, n_tail, n_bytes, n_rows):  # type: ignore[no-untyped-def]
    """The row, abs(hash) mod n_rows, of `n_bytes` bytes of which `n_tail` are in `tail`."""
    if n_tail >= 4:
        h = mix_block(h, tail)
        tail >>= np.uint64(32)
    h ^= spread(tail) ^ np.uint32(n_bytes)
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    h ^= h >> np.uint32(16)
    return abs(np.int64(np.int32(h))) & (n_rows - 1)


@part
def row_of_number(h, tail, n_name, n_rows):  # type: ignore[no-untyped-def]
    return end_hash(h, tail, n_name & 3, n_name, n_rows)


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


@entry
def hash_texts(texts, n_texts, places):  # type: ignore[no-untyped-def]
    """Puts each text's hash, below N_FIELDS, where its end stands. `texts` (uint8) and `places` (int64) are addresses.

    Text t lies up to ``texts + places[t]``, and begins where the one before it ends.
    """
    begin = texts
    for text in range(n_texts):
        end = texts + signed64(places + 8 * text)
        h, tail = hash_name(begin, end)
        store(places + 8 * text, row_of_number(h, tail, end - begin, N_FIELDS))
        begin = end

"""Names: the set of those that an event has had already."""

from __future__ import annotations

import numpy as np

from flexihash.model.compiled import part
from flexihash.model.kernel.vectors import store
from flexihash.model.words import is_same, signed64

SLOT_BITS = 12  # of the set of an event's names: 32 KiB, of which each name touches 8 bytes
MAX_PROBES = 32  # in that set; an event with names beyond is left


@part
def spread_hash(h, tail, n_bits):  # type: ignore[no-untyped-def]
    """A number of `n_bits` bits from what `hash_name` gives."""
    mixed = ((np.uint64(h) << np.uint64(24)) ^ tail) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(mixed >> np.uint64(64 - n_bits))


@part
def is_new_name(event, name, n_name, h, tail, slots):  # type: ignore[no-untyped-def]
    """Notes a name of the event that begins at `event`; False where it came before, or that is not sure.

    A slot holds where a name begins; one that begins before this event counts for nothing.
    """
    slot = spread_hash(h, tail, SLOT_BITS)
    for _ in range(MAX_PROBES):
        place = slots + 8 * slot
        other = signed64(place)
        if other < event:
            store(place, name)
            return True
        if is_same(name, other, n_name + 1):  # with the quote behind it
            return False
        slot = (slot + 1) & ((1 << SLOT_BITS) - 1)
    return False

"""Names: those that an event should have, and those that it has had already."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from flexihash.consumer.scan.text import QUOTE
from flexihash.model.compiled import part
from flexihash.model.kernel.vectors import store
from flexihash.model.words import PADDING, byte, is_same, signed64

SLOT_BITS = 12  # of the set of an event's names: 32 KiB, of which each name touches 8 bytes
MAX_PROBES = 32  # in that set; an event with names beyond is left
NEW, KNOWN, UNSURE = 0, 1, 2  # what the set says of a name


def pack_names(roles: Mapping[str, int]) -> NDArray[np.uint8]:
    """Names and their roles for `scan`: of each its length and its role, 8 bytes each, its UTF-8, 8 bytes 0.

    The length -1 ends them.
    """
    packed = b""
    for name, role in roles.items():
        text = name.encode("utf-8", "surrogatepass")
        packed += np.array([len(text), role], np.int64).tobytes() + text + PADDING
    return np.frombuffer(packed + np.array([-1], np.int64).tobytes(), np.uint8)


@part
def spread_hash(h, tail, n_bits):  # type: ignore[no-untyped-def]
    """A number of `n_bits` bits from what `hash_name` gives."""
    mixed = ((np.uint64(h) << np.uint64(24)) ^ tail) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(mixed >> np.uint64(64 - n_bits))


@part
def find_slot(event, name, n_name, h, tail, slots):  # type: ignore[no-untyped-def]
    """Where a name belongs among those of the event that begins at `event`, and whether it is NEW, KNOWN or UNSURE.

    A slot holds where a name begins that a quote ends; one that begins before this event counts for nothing.
    """
    slot = spread_hash(h, tail, SLOT_BITS)
    place = slots
    for _ in range(MAX_PROBES):
        place = slots + 8 * slot
        other = signed64(place)
        if other < event:
            return place, NEW
        if is_same(name, other, n_name) and byte(other + n_name) == QUOTE:
            return place, KNOWN
        slot = (slot + 1) & ((1 << SLOT_BITS) - 1)
    return place, UNSURE


@part
def is_new_name(event, name, n_name, h, tail, slots):  # type: ignore[no-untyped-def]
    """Notes a name of the event that begins at `event`; False where it came before, or that is not sure."""
    place, is_known = find_slot(event, name, n_name, h, tail, slots)
    if is_known == NEW:
        store(place, name)
    return is_known == NEW

"""A book of feature names: of each that was met, whether it is left out, of which kind it is, and where it stands in
crosses. Python decides that, once a name.
There is another book, of the JSON of labels and the number of each.

The compiled loop writes down a name that it does not find, as undecided, and leaves the event. Behind the loop
`decide` asks for all of these, and the messages are scanned again. So patterns cost an event a look-up a name.

    entries    two numbers of 8 bytes: how many bytes are used, and whether a name found no room; then, of each name,
               its length and its role, 8 bytes each, its UTF-8, and 8 to 15 bytes that mean nothing
    slots      by a name's hash, where its entry begins; 0: nowhere
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from flexihash.consumer.scan.names import MAX_PROBES, spread_hash
from flexihash.model.compiled import part
from flexihash.model.kernel.vectors import store
from flexihash.model.words import PADDING, is_same, signed64, word64

UNDECIDED = 16  # a role, beside those in `names`
KIND_SHIFT = 5  # three bits of a role are the feature's kind, as `model.kinds` has them
MISSING = 256  # a null of this name is a category
KINDS = MISSING | 7 << KIND_SHIFT
SIDES_SHIFT = 12  # of a role that has a feature's sides, as `model.crosses` has them, in its upper bits
BOOK_SLOT_BITS = 13  # 64 KiB
BOOK_BYTES = 1 << 19  # some ten thousand names; a book without room for one more is begun anew
FIRST_ENTRY = 16


class BookAddresses(NamedTuple):
    """Where a book lies."""

    entries: int
    slots: int


class NameBook:
    """The names met so far; for one thread.

    Args:
        find_role: says what a name means: IGNORED, MISSING, its kind from bit KIND_SHIFT on, and the sides of a cross
            from bit SIDES_SHIFT on.
    """

    def __init__(self, find_role: Callable[[str], int]) -> None:
        self._find_role = find_role
        self._bytes = np.zeros(BOOK_BYTES + len(PADDING), np.uint8)
        self._words = self._bytes.view(np.int64)
        self._slots = np.zeros(1 << BOOK_SLOT_BITS, np.int64)
        self.begin()

    @property
    def addresses(self) -> BookAddresses:
        """For the compiled loop."""
        return BookAddresses(self._bytes.ctypes.data, self._slots.ctypes.data)

    def make_room(self) -> None:
        """Begins anew, where a name found no room."""
        if self._words[1]:
            self.begin()

    def decide(self) -> bool:
        """Decides on the names that are new; returns whether there were any."""
        n_used = int(self._words[0])
        has_new = self._n_decided < n_used
        while self._n_decided < n_used:
            name = self._n_decided + 16
            n_name = int(self._words[self._n_decided // 8])
            role = self._find_role(self._bytes[name : name + n_name].tobytes().decode())
            self._words[self._n_decided // 8 + 1] = role
            self._n_decided += _entry_size(n_name)
        return has_new

    def begin(self) -> None:
        """Forgets all."""
        self._slots.fill(0)
        self._words[:2] = FIRST_ENTRY, 0
        self._n_decided = FIRST_ENTRY


def _entry_size(n_name: int) -> int:
    return 16 + ((n_name + 15) & ~7)


entry_size = part(_entry_size)


@part
def find_in_book(name, n_name, h, tail, book):  # type: ignore[no-untyped-def]
    """The role of a name: UNDECIDED, or what `find_role` said. `h` and `tail` are what `hash_name` gives."""
    slot = spread_hash(h, tail, BOOK_SLOT_BITS)
    for _ in range(MAX_PROBES):
        place = book.slots + 8 * slot
        at = signed64(place)
        if at == 0:
            return write_down(name, n_name, place, book)
        entry = book.entries + at
        if signed64(entry) == n_name and is_same(name, entry + 16, n_name):
            return signed64(entry + 8)
        slot = (slot + 1) & ((1 << BOOK_SLOT_BITS) - 1)
    store(book.entries + 8, np.int64(1))
    return np.int64(UNDECIDED)


@part
def write_down(name, n_name, place, book):  # type: ignore[no-untyped-def]
    """Writes an entry, to which the slot at `place` leads; returns the role of a name that is new."""
    at = signed64(book.entries)
    if at + entry_size(n_name) > BOOK_BYTES:
        store(book.entries + 8, np.int64(1))
        return np.int64(UNDECIDED)
    entry = book.entries + at
    store(entry, n_name)
    store(entry + 8, np.int64(UNDECIDED))
    for k in range(0, n_name, 8):
        store(entry + 16 + k, word64(name + k))
    store(book.entries, at + entry_size(n_name))
    store(place, at)
    return np.int64(UNDECIDED)

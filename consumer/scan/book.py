"""A book of feature names: of each that was met, whether it is left out, of which kind it is, and where it stands in
crosses. Python decides that, once a name.

The compiled loop writes down a name that it does not find, as undecided, and leaves the event. Behind the loop
`decide` asks for all of these, and the messages are scanned again. So patterns cost an event a look-up a name.

    entries    of each name numbers of 8 bytes: its length, its role, where the entry of the name begins that came after
               it when that was last looked up, and the roles of its parts, where it is a time; then its UTF-8, and 8 to
               15 bytes that mean nothing. The first entry is of no name: what came after it is what came first, it is
               UNDECIDED where a name found no room, and instead of parts it has how many bytes are used
    slots      by a name's hash, where its entry begins; 0: nowhere

Names come in the order in which they came before, mostly: so a name is looked for where the last one leads.

There is another book, of the JSON of labels and the number of each.
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
BOOK_BYTES = 1 << 19  # some seven thousand names; a book without room for one more is begun anew
ROLE, NEXT, ROLES_OF_PARTS, USED, NAME = 8, 16, 24, 24, 48  # bytes from where an entry begins
NO_NAME = -1  # as a length


class BookAddresses(NamedTuple):
    """Where a book lies."""

    entries: int
    slots: int


class NameBook:
    """The names met so far; for one thread.

    Args:
        find_role: says what a name means: IGNORED, MISSING, its kind from bit KIND_SHIFT on, and the sides of a cross
            from bit SIDES_SHIFT on.
        parts: names of parts, up to three; of each name ``name.part`` is decided on as well.
    """

    def __init__(self, find_role: Callable[[str], int], parts: tuple[str, ...] = ()) -> None:
        self._find_role = find_role
        self._parts = parts
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
        if self._words[ROLE // 8]:
            self.begin()

    def decide(self) -> bool:
        """Decides on the names that are new; returns whether there were any."""
        n_used = int(self._words[USED // 8])
        has_new = self._n_decided < n_used
        while self._n_decided < n_used:
            words = self._words[self._n_decided // 8 :]
            begin, n_name = self._n_decided + NAME, int(words[0])
            name = self._bytes[begin : begin + n_name].tobytes().decode()
            words[ROLE // 8] = self._find_role(name)
            for place, part_name in enumerate(self._parts, ROLES_OF_PARTS // 8):
                words[place] = self._find_role(f"{name}.{part_name}")
            self._n_decided += _entry_size(n_name)
        return has_new

    def begin(self) -> None:
        """Forgets all."""
        self._slots.fill(0)
        self._words[: NAME // 8] = 0
        self._words[0] = NO_NAME
        self._words[USED // 8] = self._n_decided = NAME


def _entry_size(n_name: int) -> int:
    return NAME + ((n_name + 15) & ~7)


entry_size = part(_entry_size)


@part
def follow_book(last, name, n_name, h, tail, book):  # type: ignore[no-untyped-def]
    """The entry of a name that came after the one whose entry is `last`, or after none: then that is `book.entries`.

    `h` and `tail` are what `hash_name` gives. The role is UNDECIDED where the name is new, or found no room.
    """
    entry = book.entries + signed64(last + NEXT)
    if signed64(entry) == n_name and is_same(name, entry + NAME, n_name):
        return entry
    entry = find_in_book(name, n_name, h, tail, book)
    store(last + NEXT, entry - book.entries)
    return entry


@part
def find_in_book(name, n_name, h, tail, book):  # type: ignore[no-untyped-def]
    """The entry of a name, by its hash; that of no name where it found no room."""
    slot = spread_hash(h, tail, BOOK_SLOT_BITS)
    for _ in range(MAX_PROBES):
        place = book.slots + 8 * slot
        at = signed64(place)
        if at == 0:
            return write_down(name, n_name, place, book)
        entry = book.entries + at
        if signed64(entry) == n_name and is_same(name, entry + NAME, n_name):
            return entry
        slot = (slot + 1) & ((1 << BOOK_SLOT_BITS) - 1)
    store(book.entries + ROLE, np.int64(UNDECIDED))
    return book.entries


@part
def write_down(name, n_name, place, book):  # type: ignore[no-untyped-def]
    """The new entry of a name, to which the slot at `place` leads; that of no name where there is no room."""
    at = signed64(book.entries + USED)
    if at + entry_size(n_name) > BOOK_BYTES:
        store(book.entries + ROLE, np.int64(UNDECIDED))
        return book.entries
    entry = book.entries + at
    store(entry, n_name)
    store(entry + ROLE, np.int64(UNDECIDED))
    store(entry + NEXT, np.int64(0))
    for k in range(0, n_name, 8):
        store(entry + NAME + k, word64(name + k))
    store(book.entries + USED, at + entry_size(n_name))
    store(place, at)
    return entry


@part
def role_in_book(entry):  # type: ignore[no-untyped-def]
    return signed64(entry + ROLE)


@part
def role_of_part(entry, which):  # type: ignore[no-untyped-def]
    return signed64(entry + ROLES_OF_PARTS + 8 * which)

"""Many messages at once: the memory that the compiled loop reads and fills, and the loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexihash.consumer.scan.book import NameBook
from flexihash.consumer.scan.flat_events import LEFT, Limits, scan_event
from flexihash.consumer.scan.names import SLOT_BITS
from flexihash.model.compiled import entry
from flexihash.model.kernel.vectors import store
from flexihash.model.words import PADDING


class Scanned(NamedTuple):
    """What the loop found in N messages; only those to LEARN have features, a label and a weight.

    Args:
        outcomes: (N,) uint8.
        offsets: (N + 1,) int64; message m owns ``rows[offsets[m]:offsets[m + 1]]``.
        labels, weights: (N,) float64.
        rows, values, is_number, fields, sides: (nnz,), as in `model.features.Batch`.
    """

    outcomes: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    labels: NDArray[np.float64]
    weights: NDArray[np.float64]
    rows: NDArray[np.int64]
    values: NDArray[np.float64]
    is_number: NDArray[np.bool_]
    fields: NDArray[np.int64]
    sides: NDArray[np.int64]


class Addresses(NamedTuple):
    """Where the arrays of `Scanned` lie.

    And, for the words of texts: how far from each message there is room for them, and a set for those of one text.
    """

    outcomes: int
    offsets: int
    labels: int
    weights: int
    rows: int
    values: int
    is_number: int
    fields: int
    sides: int
    words: int
    word_slots: int


def scan(messages: Sequence[bytes | None], names: NDArray[np.uint8], book: NameBook, limits: Limits) -> Scanned:
    """Scans N messages; a missing one is LEFT, and one beyond the limit, which takes no memory for it.

    Args:
        names: what `pack_names` gives.
    """
    book.make_room()
    scanned = _scan_once(messages, names, book, limits)
    return _scan_once(messages, names, book, limits) if book.decide() else scanned


def _scan_once(messages: Sequence[bytes | None], names: NDArray[np.uint8], book: NameBook, limits: Limits) -> Scanned:
    present = [message if message and len(message) <= limits.max_event_bytes else b"" for message in messages]
    starts = np.zeros(len(present) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, present), np.int64, len(present)) + 1, out=starts[1:])
    buffer = np.frombuffer(b"\0".join([*present, PADDING]), np.uint8)
    # The shortest feature, `"":1,`, takes five bytes and gives two. A time gives four, so that there may be too little
    # room for messages of nothing else: but for one of them there is.
    most = len(buffer) // 2 + int(np.diff(starts).max(initial=0)) + limits.n_expected * len(present)
    scanned = Scanned(
        outcomes=np.empty(len(present), np.uint8),
        offsets=np.zeros(len(present) + 1, np.int64),
        labels=np.empty(len(present)),
        weights=np.empty(len(present)),
        rows=np.empty(most, np.int64),
        values=np.empty(most),
        is_number=np.empty(most, np.bool_),
        fields=np.empty(most, np.int64),
        sides=np.empty(most if limits.has_crosses else 0, np.int64),
    )
    words = np.empty(len(buffer) if limits.has_texts else 0, np.uint8)
    slots = np.zeros((1 + limits.has_texts, 1 << SLOT_BITS), np.int64)
    n = scan_messages(buffer, starts, names, book.addresses, limits, slots, words, scanned)
    of_features = "rows", "values", "is_number", "fields", "sides"
    return scanned._replace(**{name: getattr(scanned, name)[:n] for name in of_features})


@entry
def scan_messages(buffer, starts, names, book, limits, slots, words, scanned):  # type: ignore[no-untyped-def]
    """Fills `scanned`, and returns how many features there are.

    Message m lies from ``buffer[starts[m]]`` up to the byte 0 before the next one.
    """
    found = Addresses(
        scanned.outcomes.ctypes.data,
        scanned.offsets.ctypes.data,
        scanned.labels.ctypes.data,
        scanned.weights.ctypes.data,
        scanned.rows.ctypes.data,
        scanned.values.ctypes.data,
        scanned.is_number.ctypes.data,
        scanned.fields.ctypes.data,
        scanned.sides.ctypes.data,
        words.ctypes.data - buffer.ctypes.data,
        slots.ctypes.data + 8 * slots.shape[1],
    )
    n = 0
    for message in range(len(starts) - 1):
        begin = buffer.ctypes.data + starts[message]
        end = buffer.ctypes.data + starts[message + 1] - 1
        outcome, label, weight = LEFT, 0.0, 1.0
        if n + end - begin + limits.n_expected <= len(scanned.rows):
            outcome, n, label, weight = scan_event(
                begin, end, names.ctypes.data, book, limits, slots.ctypes.data, found, n
            )
        store(found.outcomes + message, np.uint8(outcome))
        store(found.offsets + 8 * (message + 1), n)
        store(found.labels + 8 * message, label)
        store(found.weights + 8 * message, weight)
    return n

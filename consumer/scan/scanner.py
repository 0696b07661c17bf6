"""Many messages at once: the memory that the compiled loop reads and fills, and the loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexihash.consumer.scan.book import NameBook
from flexihash.consumer.scan.flat_events import LEFT, Limits, scan_event
from flexihash.consumer.scan.names import SLOT_BITS
from flexihash.consumer.scan.runs import RUN_NUMBERS
from flexihash.model.compiled import entry
from flexihash.model.kernel.vectors import store
from flexihash.model.words import PADDING


class Scanned(NamedTuple):
    """What the loop found in N messages; only those to LEARN have features, labels and a weight.

    Args:
        outcomes: (N,) uint8.
        offsets: (N + 1,) int64; message m owns ``rows[offsets[m]:offsets[m + 1]]``.
        labels: (N, number of them) float64.
        weights: (N,) float64.
        rows, values, is_number, fields, sides: (nnz,), as in `model.features.Batch`.
        texts: by its place, the JSON of each label that the book of labels did not know.
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
    texts: dict[int, bytes]


class Addresses(NamedTuple):
    """Where the messages lie, and the arrays of `Scanned`.

    And, for the words of texts: how far from each message there is room for them, and a set for those of one text; from
    where to where in the buffer each label is that the book does not know; and the runs of `consumer.scan.runs`, each
    where its name would be, had the layout RUN_NUMBERS times as many bytes.
    """

    buffer: int
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
    spans: int
    runs: int


class Books(NamedTuple):
    """Names of features, and the JSON of labels."""

    names: NameBook
    labels: NameBook


def scan(
    messages: Sequence[bytes | None], layout: NDArray[np.uint8], books: Books, limits: Limits, by_text: bool = False
) -> Scanned:
    """Scans N messages; a missing one is LEFT, and one beyond the limit, which takes no memory for it.

    Args:
        layout: of the messages, as `consumer.scan.layout` has it.
        by_text: labels are read by their JSON.
    """
    for book in books:
        book.make_room()
    scanned = _scan_once(messages, layout, books, limits, by_text)
    if books.names.decide():
        scanned = _scan_once(messages, layout, books, limits, by_text)
    books.labels.decide()
    return scanned


def _scan_once(
    messages: Sequence[bytes | None], layout: NDArray[np.uint8], books: Books, limits: Limits, by_text: bool
) -> Scanned:
    present = [message if message and len(message) <= limits.max_event_bytes else b"" for message in messages]
    starts = np.zeros(len(present) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, present), np.int64, len(present)) + 1, out=starts[1:])
    joined = b"\0".join([*present, PADDING])
    buffer = np.frombuffer(joined, np.uint8)
    # The shortest feature, `"":1,`, takes five bytes and gives two. A time gives four, so that there may be too little
    # room for messages of nothing else: but for one of them there is.
    most = len(buffer) // 2 + int(np.diff(starts).max(initial=0)) + limits.n_expected * len(present)
    scanned = Scanned(
        outcomes=np.empty(len(present), np.uint8),
        offsets=np.zeros(len(present) + 1, np.int64),
        labels=np.empty((len(present), limits.n_labels)),
        weights=np.empty(len(present)),
        rows=np.empty(most, np.int64),
        values=np.empty(most),
        is_number=np.empty(most, np.bool_),
        fields=np.empty(most, np.int64),
        sides=np.empty(most if limits.has_crosses else 0, np.int64),
        texts={},
    )
    spans = np.zeros((len(present) if by_text else 0, 2), np.int64)
    runs = np.zeros(RUN_NUMBERS * len(layout), np.uint8)
    words = np.empty(len(buffer) if limits.has_texts else 0, np.uint8)
    slots = np.zeros((1 + limits.has_texts, 1 << SLOT_BITS), np.int64)
    addresses = books.names.addresses, books.labels.addresses
    n = scan_messages(buffer, starts, layout, addresses, limits, (slots, words, spans, runs), scanned[:-1])
    of_features = "rows", "values", "is_number", "fields", "sides"
    return scanned._replace(
        texts={place: joined[slice(*spans[place])] for place in np.flatnonzero(spans[:, 1]).tolist()},
        **{name: getattr(scanned, name)[:n] for name in of_features},
    )


@entry
def scan_messages(buffer, starts, layout, books, limits, beside, scanned):  # type: ignore[no-untyped-def]
    """Fills what of `scanned` are arrays, in their order, and returns how many features there are.

    Message m lies from ``buffer[starts[m]]`` up to the byte 0 before the next one. `beside` is memory to work in.
    """
    outcomes, offsets, labels, weights, rows, values, is_number, fields, sides = scanned
    slots, words, spans, runs = beside
    found = Addresses(
        buffer.ctypes.data,
        outcomes.ctypes.data,
        offsets.ctypes.data,
        labels.ctypes.data,
        weights.ctypes.data,
        rows.ctypes.data,
        values.ctypes.data,
        is_number.ctypes.data,
        fields.ctypes.data,
        sides.ctypes.data,
        words.ctypes.data - buffer.ctypes.data,
        slots.ctypes.data + 8 * slots.shape[1],
        spans.ctypes.data,
        runs.ctypes.data,
    )
    n = 0
    for message in range(len(starts) - 1):
        begin = buffer.ctypes.data + starts[message]
        end = buffer.ctypes.data + starts[message + 1] - 1
        outcome, weight = LEFT, 1.0
        if n + end - begin + limits.n_expected <= len(rows):
            outcome, n, weight = scan_event(
                begin, end, layout.ctypes.data, books, limits, slots.ctypes.data, found, message, n
            )
        store(found.outcomes + message, np.uint8(outcome))
        store(found.offsets + 8 * (message + 1), n)
        store(found.weights + 8 * message, weight)
    return n

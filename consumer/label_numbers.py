"""Numbers for labels that are names, as long as they are in arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from flexihash.consumer.consumer_errors import EventRejected
from flexihash.consumer.labels import Label
from flexihash.consumer.wire import UNREADABLE

REFUSED = math.inf  # no label is that
MOST_BYTES = 1 << 22  # of the labels remembered, about; beyond, all are forgotten
ENTRY_BYTES = 128  # of one, beside its text


class LabelNumbers:
    """Labels as numbers: numbers stay what they are, names are numbered as they are met, from 0.

    Args:
        read: as `EventReader.read_label`.
    """

    def __init__(self, read: Callable[[Any], Label | None]) -> None:
        self._read = read
        self._forget()

    def make_room(self) -> bool:
        """Forgets what was met, where that has become too much; then numbers from before mean nothing."""
        is_full = self._n_bytes > MOST_BYTES
        if is_full:
            self._forget()
        return is_full

    def number(self, label: Label | None) -> float:
        """A label's number; NaN of None."""
        if label is None:
            return math.nan
        if isinstance(label, float):
            return label
        number = self._numbers.get(label)
        if number is None:
            number = self._numbers[label] = len(self._numbers)
            self._n_bytes += ENTRY_BYTES + sum(len(str(part)) for part in label)
        return float(number)

    def number_text(self, text: bytes) -> float:
        """That of a label's JSON; REFUSED where it is none that can be learned."""
        number = self._by_text.get(text)
        if number is None:
            try:
                number = self.number(self._read(msgspec.json.decode(text)))
            except (EventRejected, *UNREADABLE):
                number = REFUSED
            self._by_text[text] = number
            self._n_bytes += ENTRY_BYTES + len(text)
        return number

    def name_classes(self, numbers: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[Any, ...]]:
        """B labels as places among the distinct ones, in the order in which these first come, and those.

        Args:
            numbers: (B,); NaN where there is none, and so in what is returned.
        """
        is_there = ~np.isnan(numbers)
        places = np.flatnonzero(is_there)
        met = numbers[places].astype(np.int64)
        first = np.full(len(self._numbers), len(numbers))
        first[met[::-1]] = places[::-1]  # the last one written is the first that comes
        order = np.argsort(first, kind="stable")[: np.count_nonzero(first < len(numbers))]
        ranks = np.empty(len(first))
        ranks[order] = np.arange(len(order))
        labels = np.full(len(numbers), np.nan)
        labels[places] = ranks[met]
        known: list[Any] = list(self._numbers)
        return labels, tuple(known[number] for number in order.tolist())

    def _forget(self) -> None:
        self._numbers: dict[Label, int] = {}
        self._by_text: dict[bytes, float] = {}
        self._n_bytes = 0


def spread_sets(
    labels: NDArray[np.float64], sets: Sequence[tuple[str, ...]]
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """B sets of classes as a column for each class, in the order in which these first come, and the classes.

    Args:
        labels: (B,), each event's place among `sets`; NaN where it has none, and so is its row in what is returned.
    """
    classes = tuple(dict.fromkeys(chain.from_iterable(sets)))
    column = {name: number for number, name in enumerate(classes)}
    members = np.zeros((len(sets), len(classes)))
    for row, one in enumerate(sets):
        members[row, [column[name] for name in one]] = 1.0
    spread = np.full((len(labels), len(classes)), np.nan)
    is_there = ~np.isnan(labels)
    spread[is_there] = members[labels[is_there].astype(np.int64)]
    return spread, classes

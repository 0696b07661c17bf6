"""What the first features of a file were taken for: numbers, categories, or both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice

import msgspec

from flexihash.consumer.consumer_errors import EventRejected
from flexihash.consumer.wire import EventReader
from flexihash.model.features import Feature

N_EVENTS = 2_000
MAX_FEATURES = 1_000
NUMBER, CATEGORY = 1, 2
KINDS = ("number", "category", "both", "mixed", "label", "weight", "left out", "nothing")
"""Both: an integer. Mixed: numbers in some events and texts in others. Nothing: all cells of a column are empty."""


class Taken(msgspec.Struct):
    """What one feature, or column, was taken for.

    Args:
        taken_for: one of `KINDS`.
        missing: the share of events without it; None of what is no feature.
    """

    taken_for: str
    missing: float | None


class Sample:
    """Looks at the first events of a file.

    Args:
        reader: reads them as the learner does.
        columns: of a table; each of them is told, whatever became of it.
    """

    def __init__(self, reader: EventReader, columns: Sequence[str] | None) -> None:
        self.n_events = 0
        self._n_seen = 0
        self._reader = reader
        self._columns = columns or ()
        self._counts: dict[str, Counter[int]] = {name: Counter() for name in self._columns}

    def note(self, values: Iterable[bytes | None]) -> None:
        """Takes events, until there are enough; such as cannot be read say nothing."""
        for value in islice(values, N_EVENTS - self._n_seen):
            self._n_seen += 1
            with suppress(EventRejected):
                self._note(self._reader.decode_one(value).features)

    def describe(self) -> dict[str, Taken]:
        """By feature: columns in their order, then what else there is."""
        return {
            name: self._describe(name, counts)
            for name, counts in self._counts.items()
            if self.n_events and (counts or not self._is_outer(name))
        }

    def _describe(self, name: str, counts: Counter[int]) -> Taken:
        if not counts and (role := self._find_role(name)):
            return Taken(role, None)
        return Taken(self._find_kind(counts), 1.0 - counts.total() / self.n_events)

    def _note(self, features: list[Feature]) -> None:
        self.n_events += 1
        kinds: dict[str, int] = {}
        for name, value in features:
            kinds[name] = kinds.get(name, 0) | (CATEGORY if isinstance(value, str) else NUMBER)
        for name, kind in kinds.items():
            if name in self._counts or len(self._counts) < MAX_FEATURES:
                self._counts.setdefault(name, Counter())[kind] += 1

    def _find_kind(self, counts: Counter[int]) -> str:
        if not counts:
            return "nothing"
        if not counts[CATEGORY]:
            return "both" if counts[NUMBER | CATEGORY] else "number"
        return "category" if counts[CATEGORY] == counts.total() else "mixed"

    def _find_role(self, name: str) -> str:
        """What a column is that is no feature; empty where it is one."""
        if name == self._reader.format.label_field:
            return "label"
        if name == "weight":
            return "weight"
        is_left_out = name in self._reader.left_out or self._reader.format.rules.ignores(name)
        return "left out" if is_left_out else ""

    def _is_outer(self, name: str) -> bool:
        """Whether a column holds objects or lists, whose parts are the features."""
        return any(other.startswith(f"{name}.") for other in self._counts)

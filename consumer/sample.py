"""What the first features of a file were taken for: numbers, categories, times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice

import msgspec

from flexihash.consumer.consumer_errors import EventRejected
from flexihash.consumer.wire import EventReader
from flexihash.model import kinds
from flexihash.model.features import MISSING, Feature
from flexihash.model.times import PARTS

N_EVENTS = 2_000
MAX_FEATURES = 1_000
NUMBER, CATEGORY, TIME = 1, 2, 4  # an integer is the first two
KINDS = ("number", "category", "both", "time", "text", "mixed", "label", "weight", "left out", "nothing")
"""Both: integers. Mixed: a text in some events and none in others. Nothing: all cells of a column are empty."""
NAMED = {NUMBER: "number", CATEGORY: "category", NUMBER | CATEGORY: "both", TIME: "time"}


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
        return Taken(self._find_kind(name, counts), 1.0 - counts.total() / self.n_events)

    def _note(self, features: list[Feature]) -> None:
        self.n_events += 1
        for name, kind in self._find_forms(features).items():
            if name in self._counts or len(self._counts) < MAX_FEATURES:
                self._counts.setdefault(name, Counter())[kind] += 1

    def _find_forms(self, features: list[Feature]) -> dict[str, int]:
        """What each name is in one event; what is known of a time beside its seconds has no name of its own here."""
        rules, forms = self._reader.format.rules, dict[str, int]()
        for name, value in features:
            if value != MISSING or not rules.misses(name):
                forms[name] = forms.get(name, 0) | (CATEGORY if isinstance(value, str) else NUMBER)
        for name in [name for name, form in forms.items() if form == NUMBER]:
            parts = [part for part in (f"{name}.{part}" for part in PARTS) if forms.get(part) == CATEGORY]
            if parts:
                forms[name] = TIME
            for part in parts:
                del forms[part]
        return forms

    def _find_kind(self, name: str, counts: Counter[int]) -> str:
        if not counts:
            return "nothing"
        if self._reader.format.rules.kind_of(name) == kinds.TEXT:
            return "text"
        found = set(counts)
        if len(found) == 1 or found == {NUMBER, NUMBER | CATEGORY}:
            return NAMED[max(found)]
        return "mixed"

    def _find_role(self, name: str) -> str:
        """What a column is that is no feature; empty where it is one."""
        format = self._reader.format
        if name in format.label_names:
            return "label"
        if name == format.weight_field:
            return "weight"
        return "left out" if self._reader.fields.leaves_out(name) or format.rules.ignores(name) else ""

    def _is_outer(self, name: str) -> bool:
        """Whether a column holds objects or lists, whose parts are the features."""
        return any(other.startswith(f"{name}.") for other in self._counts)

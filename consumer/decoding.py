"""From JSON bytes to hashed events: `consumer.scan` takes the plain ones, `consumer.wire` reads what it leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from flexihash.consumer.consumer_errors import EventRejected
from flexihash.consumer.label_numbers import REFUSED, LabelNumbers, spread_sets
from flexihash.consumer.labels import Label, are_texts
from flexihash.consumer.scan.book import KIND_SHIFT, MISSING, SIDES_SHIFT, NameBook
from flexihash.consumer.scan.flat_events import COMPARISONS, LEARN, LEFT, NO_RULE, UNLABELLED, Limits
from flexihash.consumer.scan.layout import IGNORED, lay_out_event, lay_out_instance
from flexihash.consumer.scan.names import pack_names
from flexihash.consumer.scan.scanner import Books, Scanned, scan
from flexihash.consumer.wire import MAX_WEIGHT, Event, EventFormat, EventReader
from flexihash.model.crosses import find_sides
from flexihash.model.features import Batch, hash_features
from flexihash.model.tasks import Task
from flexihash.model.times import PARTS
from flexihash.model.times import warm_up as warm_up_times

# An odd event, to warm up by.
NESTED = b'{"features": {"a": {"b": ["c", 1.5, 2, true, null]}, "d": "2024-01-01T00:00:00Z"}, "label": null}'
FEW_INSTANCES = 3  # so few are parsed in less time than it takes to begin a scan


class Decoded(msgspec.Struct, frozen=True):
    """What N messages hold: B events to learn from, and the reasons against the rest.

    Args:
        batch: the B events' hashed features.
        labels: (B,) float64, NaN where an event has none and teaches nevertheless. Of classes, the place among
            `classes`; of several labels (B, len(classes)), 0 or 1, a row of NaN where there is none; of targets (B, T).
        weights: (B,) float64.
        kept: (B,) int64, each event's place among the messages.
        rejections: place and reason of each rejected message.
        n_unlabelled: valid events without a label, whether among the B or not.
        classes: the distinct classes of these events, as JSON, in the order in which they first come.
    """

    batch: Batch
    labels: NDArray[np.float64]
    weights: NDArray[np.float64]
    kept: NDArray[np.int64]
    rejections: list[tuple[int, EventRejected]]
    n_unlabelled: int
    classes: tuple[str, ...] = ()


class EventDecoder(EventReader):
    """Decodes many events of one format for one task; in one thread at a time.

    Args:
        n_rows: of the table, a power of two.
        needs_label: whether events without a label teach nothing, and are left out.
    """

    def __init__(self, format: EventFormat, task: Task, n_rows: int, needs_label: bool = True) -> None:
        super().__init__(format, task)
        self.n_rows = n_rows
        self._needs_label = needs_label
        self._by_text = are_texts(task, format.positive_labels, format.rule)
        self._layout = lay_out_event(self.fields, format.envelope, self._by_text)
        self._instance_layout = lay_out_instance(self.fields)
        self._numbers = LabelNumbers(self.read_label)
        self._books = Books(NameBook(self._find_role, PARTS), NameBook(self._find_code))
        self._expected = pack_names({name: self._find_role(name) for name in format.rules.expected_names})
        self._label_limits = self._find_label_limits()
        self._limits = self._scan_limits()
        self._instance_limits = self._limits._replace(has_header=False, needs_label=False)

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decodes N messages; never raises for what is in them."""
        if self._numbers.make_room():
            self._books.labels.begin()
        return self._name_classes(self._decode(values))

    def decode_instances(self, values: Sequence[bytes], n_rows: int) -> Decoded:
        """Decodes N instances, each an object of features, as events whose labels mean nothing.

        Args:
            n_rows: of the table that answers, a power of two.
        """
        if len(values) < FEW_INSTANCES:
            return self._read_all(values, range(len(values)), self.decode_instance, n_rows)
        scanned = scan(values, self._instance_layout, self._books, self._instance_limits._replace(n_rows=n_rows))
        return self._complete(scanned, values, self.decode_instance, n_rows)

    def warm_up(self) -> None:
        """Compiles or loads the compiled parts, so that no event, however odd, waits for them."""
        self.decode([])
        warm_up_times()
        self._read_all([NESTED], [0], self.decode_one, self.n_rows)

    def _decode(self, values: Sequence[bytes | None]) -> Decoded:
        scanned = scan(values, self._layout, self._books, self._limits, self._by_text)
        if scanned.texts:
            scanned = self._read_texts(scanned)
        return self._complete(scanned, values, self.decode_one, self.n_rows)

    def _complete(self, scanned: Scanned, values: Sequence[Any], read: Callable[[Any], Event], n_rows: int) -> Decoded:
        """What the scan found, and `read` of what it left."""
        if not self.format.targets:
            scanned = scanned._replace(labels=scanned.labels.reshape(-1))
        if (scanned.outcomes == LEARN).all():
            return _take_all(scanned)
        return _merge(scanned, self._read_all(values, _left(scanned), read, n_rows))

    def _read_all(
        self, values: Sequence[Any], places: Iterable[int], read: Callable[[Any], Event], n_rows: int
    ) -> Decoded:
        """Reads the messages at `places`, one by one; `kept` and `rejections` count among all of `values`."""
        events: list[Event] = []
        kept: list[int] = []
        rejections: list[tuple[int, EventRejected]] = []
        n_unlabelled = 0
        for place in places:
            try:
                event = read(values[place])
            except EventRejected as rejected:
                rejections.append((place, rejected))
                continue
            if event.label is None:
                n_unlabelled += 1
                if self._needs_label:
                    continue
            events.append(event)
            kept.append(place)
        return Decoded(
            batch=hash_features([event.features for event in events], n_rows, self.format.rules.crosses),
            labels=self._pack_labels([event.label for event in events]),
            weights=np.array([event.weight for event in events], np.float64),
            kept=np.array(kept, np.int64),
            rejections=rejections,
            n_unlabelled=n_unlabelled,
        )

    def _pack_labels(self, labels: Sequence[Label | None]) -> NDArray[np.float64]:
        """The labels of B events as `Decoded` has them, but names by their numbers."""
        if n_targets := len(self.format.targets):
            none = (math.nan,) * n_targets
            rows = [label if isinstance(label, tuple) else none for label in labels]
            return np.array(rows, np.float64).reshape(-1, n_targets)
        return np.array(list(map(self._numbers.number, labels)), np.float64)

    def _read_texts(self, scanned: Scanned) -> Scanned:
        """The same with the labels read that the scan did not know; it has left those that are refused."""
        is_refused = np.zeros(len(scanned.outcomes), np.bool_)
        for place, text in scanned.texts.items():
            if scanned.outcomes[place] == LEARN:
                scanned.labels[place] = number = self._numbers.number_text(text)
                is_refused[place] = number == REFUSED
        return _leave(scanned, is_refused) if is_refused.any() else scanned

    def _name_classes(self, decoded: Decoded) -> Decoded:
        """The same with places among the classes for their numbers."""
        if not self.task.record.has_classes:
            return decoded
        labels, classes = self._numbers.name_classes(decoded.labels)
        if self.task is Task.MULTILABEL:
            labels, classes = spread_sets(labels, classes)
        return msgspec.structs.replace(decoded, labels=labels, classes=classes)

    def _find_role(self, name: str) -> int:
        rules = self.format.rules
        if rules.ignores(name):
            return IGNORED
        missing = MISSING if rules.misses(name) else 0
        return missing | rules.kind_of(name) << KIND_SHIFT | find_sides(name, rules.crosses) << SIDES_SHIFT

    def _find_code(self, text: str) -> int:
        """What the book of labels says of a label's JSON: its number; all bits, UNDECIDED among them: it is refused."""
        number = self._numbers.number_text(text.encode())
        return -1 if number == REFUSED else int(number) << SIDES_SHIFT

    def _find_label_limits(self) -> NDArray[np.float64]:
        """What each number that is a label may be, as `Limits` has it."""
        records = [task.record for _, task in self.format.targets] or [self.task.record]
        return np.array([(record.is_binary, record.lowest, record.highest) for record in records], np.float64)

    def _scan_limits(self) -> Limits:
        rules, rule = self.format.rules, self.format.rule
        comparison, compared = NO_RULE, 0.0
        if rule is not None and isinstance(rule.value, float):
            comparison, compared = COMPARISONS[rule.comparison], rule.value
        return Limits(
            has_runs=not self.fields.has_digits,
            has_header=True,
            has_patterns=bool(rules.has_kinds or rules.missing_features or rules.ignored_features or rules.crosses),
            has_crosses=bool(rules.crosses),
            needs_label=self._needs_label,
            n_labels=len(self._label_limits),
            label_limits=self._label_limits.ctypes.data,
            comparison=comparison,
            compared=compared,
            max_weight=MAX_WEIGHT,
            max_features=rules.max_features,
            max_name_bytes=rules.max_key_length,  # a character takes a byte or more
            max_event_bytes=self.format.max_event_bytes,
            n_rows=self.n_rows,
            zone=rules.zone,
            max_words=rules.max_words,
            expected=self._expected.ctypes.data,
            n_expected=len(rules.expected_names),
            has_texts=bool(rules.text_features),
        )


def _left(scanned: Scanned) -> list[int]:
    """The places of the messages that the scan left."""
    places: list[int] = np.flatnonzero(scanned.outcomes == LEFT).tolist()
    return places


def _leave(scanned: Scanned, is_left: NDArray[np.bool_]) -> Scanned:
    """The same, had the scan left some more."""
    sizes = np.diff(scanned.offsets)
    is_kept = np.repeat(~is_left, sizes)
    offsets = np.zeros_like(scanned.offsets)
    np.cumsum(np.where(is_left, 0, sizes), out=offsets[1:])
    return scanned._replace(
        outcomes=np.where(is_left, np.uint8(LEFT), scanned.outcomes),
        offsets=offsets,
        rows=scanned.rows[is_kept],
        values=scanned.values[is_kept],
        is_number=scanned.is_number[is_kept],
        fields=scanned.fields[is_kept],
        sides=scanned.sides[is_kept] if len(scanned.sides) else scanned.sides,
    )


def _is_missing(labels: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Of each event, whether it has no label. (B,)"""
    is_missing: NDArray[np.bool_] = np.isnan(labels)
    return is_missing if is_missing.ndim == 1 else np.asarray(is_missing.all(1))


def _take_all(scanned: Scanned) -> Decoded:
    """What the scan found, where it kept every message."""
    return Decoded(
        batch=_batch_of(scanned),
        labels=scanned.labels,
        weights=scanned.weights,
        kept=np.arange(len(scanned.outcomes)),
        rejections=[],
        n_unlabelled=int(np.count_nonzero(_is_missing(scanned.labels))),
    )


def _batch_of(scanned: Scanned) -> Batch:
    return Batch(scanned.rows, scanned.offsets, scanned.values, scanned.is_number, scanned.fields, scanned.sides)


def _merge(scanned: Scanned, read: Decoded) -> Decoded:
    """What the scan found and what it left, in the messages' order."""
    is_kept = scanned.outcomes == LEARN
    n_unlabelled = int(np.count_nonzero(is_kept & _is_missing(scanned.labels) | (scanned.outcomes == UNLABELLED)))
    labels, weights, batch = scanned.labels, scanned.weights, _batch_of(scanned)
    sizes = batch.sizes
    if len(read.kept):
        is_kept[read.kept] = True
        sizes[read.kept] = read.batch.sizes
        labels[read.kept], weights[read.kept] = read.labels, read.weights
        batch = _weave(batch, read.batch, _spread(read.kept, sizes))
    offsets = np.zeros(np.count_nonzero(is_kept) + 1, np.int64)
    np.cumsum(sizes[is_kept], out=offsets[1:])
    return Decoded(
        batch=msgspec.structs.replace(batch, offsets=offsets),
        labels=labels[is_kept],
        weights=weights[is_kept],
        kept=np.flatnonzero(is_kept),
        rejections=read.rejections,
        n_unlabelled=n_unlabelled + read.n_unlabelled,
    )


def _spread(places: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Of each feature of all messages, whether its message is at one of `places`. (nnz,)"""
    is_there = np.zeros(len(sizes), np.bool_)
    is_there[places] = True
    return np.repeat(is_there, sizes)


def _weave(scanned: Batch, read: Batch, is_read: NDArray[np.bool_]) -> Batch:
    """The features of both, each next one of `read` where `is_read`; the offsets are still to come."""

    def weave(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
        woven = np.empty(len(is_read), first.dtype)
        woven[is_read] = first
        woven[~is_read] = second
        return woven

    return Batch(
        weave(read.rows, scanned.rows),
        scanned.offsets,
        weave(read.values, scanned.values),
        weave(read.is_number, scanned.is_number),
        weave(read.fields, scanned.fields),
        weave(read.sides, scanned.sides) if len(read.sides) + len(scanned.sides) == len(is_read) else scanned.sides,
    )

"""From JSON bytes to hashed events: `consumer.scan` takes the plain ones, `consumer.wire` reads what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from flexihash.consumer.consumer_errors import EventRejected
from flexihash.consumer.scan.book import KIND_SHIFT, MISSING, SIDES_SHIFT, NameBook
from flexihash.consumer.scan.flat_events import LEARN, LEFT, UNLABELLED, Limits
from flexihash.consumer.scan.names import FEATURES, IGNORED, LABEL, WEIGHT, pack_names
from flexihash.consumer.scan.scanner import Scanned, scan
from flexihash.consumer.wire import MAX_WEIGHT, Event, EventFormat, EventReader
from flexihash.model.crosses import find_sides
from flexihash.model.features import Batch, hash_features
from flexihash.model.tasks import Task
from flexihash.model.times import PARTS
from flexihash.model.times import warm_up as warm_up_times

FEW_INSTANCES = 3  # so few are parsed in less time than it takes to begin a scan


class Decoded(msgspec.Struct, frozen=True):
    """What N messages hold: B events to learn from, and the reasons against the rest.

    Args:
        batch: the B events' hashed features.
        labels, weights: (B,) float64; a label is NaN where an event has none and teaches nevertheless.
        kept: (B,) int64, each event's place among the messages.
        rejections: place and reason of each rejected message.
        n_unlabelled: valid events without a label, whether among the B or not.
        classes: names of the classes that the labels index, or have a column of each; see `model.outputs`.
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
        self._names = pack_names(self._name_roles())
        self._book = NameBook(self._find_role, PARTS)
        self._expected = pack_names({name: self._find_role(name) for name in format.rules.expected_names})
        self._limits = self._scan_limits()
        self._instance_names = pack_names(dict.fromkeys(self.left_out, IGNORED))
        self._instance_limits = self._limits._replace(is_whole=True, needs_label=False)

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decodes N messages; never raises for what is in them."""
        scanned = scan(values, self._names, self._book, self._limits)
        return self._complete(scanned, values, self.decode_one, self.n_rows)

    def decode_instances(self, values: Sequence[bytes], n_rows: int) -> Decoded:
        """Decodes N instances, each an object of features, as events whose labels mean nothing.

        Args:
            n_rows: of the table that answers, a power of two.
        """
        if len(values) < FEW_INSTANCES:
            return self._read_all(values, range(len(values)), self.decode_instance, n_rows)
        scanned = scan(values, self._instance_names, self._book, self._instance_limits._replace(n_rows=n_rows))
        return self._complete(scanned, values, self.decode_instance, n_rows)

    def warm_up(self) -> None:
        """Compiles or loads the compiled parts, so that no event, however odd, waits for them."""
        self.decode([])
        warm_up_times()
        hash_features([], self.n_rows)

    def _complete(self, scanned: Scanned, values: Sequence[Any], read: Callable[[Any], Event], n_rows: int) -> Decoded:
        """What the scan found, and `read` of what it left."""
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
            labels=np.array([np.nan if event.label is None else event.label for event in events], np.float64),
            weights=np.array([event.weight for event in events], np.float64),
            kept=np.array(kept, np.int64),
            rejections=rejections,
            n_unlabelled=n_unlabelled,
        )

    def _find_role(self, name: str) -> int:
        rules = self.format.rules
        if rules.ignores(name):
            return IGNORED
        missing = MISSING if rules.misses(name) else 0
        return missing | rules.kind_of(name) << KIND_SHIFT | find_sides(name, rules.crosses) << SIDES_SHIFT

    def _name_roles(self) -> dict[str, int]:
        roles = dict.fromkeys(self.left_out, IGNORED)
        fields = [(self.format.label_field, LABEL), ("weight", WEIGHT)]
        if self.format.features_field:
            fields.append((self.format.features_field, FEATURES))
        for name, role in fields:
            roles[name] = roles.get(name, 0) | role
        return roles

    def _scan_limits(self) -> Limits:
        rules, labels = self.format.rules, self.task.record
        return Limits(
            is_whole=not self.format.features_field,
            has_patterns=bool(rules.has_kinds or rules.missing_features or rules.ignored_features or rules.crosses),
            has_crosses=bool(rules.crosses),
            needs_label=self._needs_label,
            is_binary=labels.is_binary,
            lowest=labels.lowest,
            highest=labels.highest,
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


def _take_all(scanned: Scanned) -> Decoded:
    """What the scan found, where it kept every message."""
    return Decoded(
        batch=_batch_of(scanned),
        labels=scanned.labels,
        weights=scanned.weights,
        kept=np.arange(len(scanned.outcomes)),
        rejections=[],
        n_unlabelled=int(np.count_nonzero(np.isnan(scanned.labels))),
    )


def _batch_of(scanned: Scanned) -> Batch:
    return Batch(scanned.rows, scanned.offsets, scanned.values, scanned.is_number, scanned.fields, scanned.sides)


def _merge(scanned: Scanned, read: Decoded) -> Decoded:
    """What the scan found and what it left, in the messages' order."""
    is_kept = scanned.outcomes == LEARN
    n_unlabelled = int(np.count_nonzero(is_kept & np.isnan(scanned.labels) | (scanned.outcomes == UNLABELLED)))
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

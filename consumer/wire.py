"""The wire format: JSON bytes to events, and everything that can be wrong with them.

An event is one JSON object: the features, and optionally ``label``, ``weight``, ``id`` and ``timestamp``. Kafka, HTTP
and files all come through here.

What an event means is written here and in `model.features`. `consumer.scan` is a faster way to the same result for most
events.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from flexihash.consumer.consumer_errors import EventRejected
from flexihash.consumer.scan.flat_events import LEARN, LEFT, UNLABELLED, Limits
from flexihash.consumer.scan.names import FEATURES, IGNORED, LABEL, WEIGHT, pack_names
from flexihash.consumer.scan.scanner import Scanned, scan
from flexihash.model.config import Task
from flexihash.model.features import Batch, Feature, FeatureRules, flatten, hash_features
from flexihash.model.kernel.losses import LABEL_LIMIT
from flexihash.model.model_errors import FeatureError, LabelError
from flexihash.model.online import check_label

FEW_INSTANCES = 3  # so few are parsed in less time than it takes to begin a scan
MAX_WEIGHT = 1e6  # an event that counts more than a million times is a mistake, and would drown the stream


class EventFormat(msgspec.Struct, frozen=True, kw_only=True):
    """How events are written.

    Args:
        label_field: the name of the label.
        features_field: the name of the object that holds the features; empty: the whole event but the label,
            ``weight``, ``id``, ``timestamp`` and `ignored_features`.
        ignored_features: top-level names, among the features, that are not learned from.
        rules: how features are flattened, and what is too much.
        max_event_bytes: of one event's JSON.
    """

    label_field: str = "label"
    features_field: str = "features"
    ignored_features: tuple[str, ...] = ()
    rules: FeatureRules = FeatureRules()
    max_event_bytes: int = 1_000_000


class Event(msgspec.Struct, frozen=True):
    """A decoded event; `label` is None where it has none."""

    features: list[Feature]
    label: float | None
    weight: float


class Decoded(msgspec.Struct, frozen=True):
    """What N messages hold: B labelled events to learn from, and the reasons against the rest.

    Args:
        batch: the B events' hashed features.
        labels, weights: (B,) float64.
        kept: (B,) int64, each event's place among the messages.
        rejections: place and reason of each rejected message.
        n_unlabelled: valid events without a label.
    """

    batch: Batch
    labels: NDArray[np.float64]
    weights: NDArray[np.float64]
    kept: NDArray[np.int64]
    rejections: list[tuple[int, EventRejected]]
    n_unlabelled: int


class EventDecoder:
    """Decodes events of one format for one task.

    Args:
        n_rows: of the table, a power of two.
    """

    def __init__(self, format: EventFormat, task: Task, n_rows: int) -> None:
        self.format = format
        self.task = task
        self.n_rows = n_rows
        self._json: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
        outer = {format.label_field, "weight", "id", "timestamp"} if not format.features_field else set()
        self._left_out = frozenset(outer.union(format.ignored_features))
        self._names = pack_names(self._name_roles())
        self._limits = self._scan_limits()
        self._instance_names = pack_names(dict.fromkeys(self._left_out, IGNORED))
        self._instance_limits = self._limits._replace(is_whole=True, needs_label=False)

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decodes N messages; never raises for what is in them."""
        if self.format.rules.has_globs:
            return self._parse_all(values, range(len(values)))
        scanned = scan(values, self._names, self._limits)
        parsed = self._parse_all(values, np.flatnonzero(scanned.outcomes == LEFT).tolist())
        return _merge(scanned, parsed)

    def decode_instances(self, instances: Sequence[bytes], read: Callable[[int], list[Feature]], n_rows: int) -> Batch:
        """Hashed features of B instances: what `hash_features` would make of `read(0)`, `read(1)` and so on.

        Args:
            instances: the JSON of each, an object of features.
            read: flat features of the instance at a place, which the fast path left; what it raises comes through.
            n_rows: of the table, a power of two.
        """
        if self.format.rules.has_globs or len(instances) < FEW_INSTANCES:
            return hash_features([read(place) for place in range(len(instances))], n_rows)
        scanned = scan(instances, self._instance_names, self._instance_limits._replace(n_rows=n_rows))
        left = np.flatnonzero(scanned.outcomes == LEFT)
        batch = hash_features([read(place) for place in left.tolist()], n_rows)
        parsed = Decoded(batch, np.zeros(len(left)), np.ones(len(left)), left, rejections=[], n_unlabelled=0)
        return _merge(scanned, parsed).batch

    def warm_up(self) -> None:
        """Compiles or loads the compiled part, so that the first event doesn't wait for it."""
        self.decode([])

    def decode_one(self, value: bytes | None) -> Event:
        """One message.

        Raises:
            EventRejected: with the reason; nothing else, whatever the bytes.
        """
        return self.read(self._parse(value))

    def read(self, event: Any) -> Event:
        """An event that is parsed already.

        Raises:
            EventRejected: with the reason.
        """
        if not isinstance(event, Mapping):
            raise EventRejected("not_an_object", f"the event is {_describe(event)}, not an object")
        return Event(
            features=self.read_features(self._find_features(event)),
            label=self._read_label(event.get(self.format.label_field)),
            weight=_read_weight(event.get("weight")),
        )

    def read_features(self, features: Any) -> list[Feature]:
        """Flat features of one instance.

        Raises:
            EventRejected: with the reason and the key.
        """
        if not isinstance(features, Mapping):
            raise EventRejected("no_features", f"the features are {_describe(features)}, not an object")
        if self._left_out:
            features = {name: value for name, value in features.items() if name not in self._left_out}
        try:
            return flatten(features, self.format.rules)
        except FeatureError as error:
            raise EventRejected(error.reason, str(error), error.key) from error

    def _parse_all(self, values: Sequence[bytes | None], places: Iterable[int]) -> Decoded:
        """Decodes the messages at `places`, one by one; `kept` and `rejections` count among all of `values`."""
        events: list[Event] = []
        kept: list[int] = []
        rejections: list[tuple[int, EventRejected]] = []
        n_unlabelled = 0
        for place in places:
            try:
                event = self.decode_one(values[place])
            except EventRejected as rejected:
                rejections.append((place, rejected))
                continue
            if event.label is None:
                n_unlabelled += 1
                continue
            events.append(event)
            kept.append(place)
        return Decoded(
            batch=hash_features([event.features for event in events], self.n_rows),
            labels=np.array([event.label for event in events], np.float64),
            weights=np.array([event.weight for event in events], np.float64),
            kept=np.array(kept, np.int64),
            rejections=rejections,
            n_unlabelled=n_unlabelled,
        )

    def _name_roles(self) -> dict[str, int]:
        roles = dict.fromkeys(self._left_out, IGNORED)
        fields = [(self.format.label_field, LABEL), ("weight", WEIGHT)]
        if self.format.features_field:
            fields.append((self.format.features_field, FEATURES))
        for name, role in fields:
            roles[name] = roles.get(name, 0) | role
        return roles

    def _scan_limits(self) -> Limits:
        rules = self.format.rules
        return Limits(
            is_whole=not self.format.features_field,
            has_ignored=bool(self._left_out),
            needs_label=True,
            is_binary=self.task is Task.BINARY,
            lowest=0.0 if self.task is Task.COUNTS else -LABEL_LIMIT,
            highest=LABEL_LIMIT,
            max_weight=MAX_WEIGHT,
            max_features=rules.max_features,
            max_name_bytes=rules.max_key_length,  # a character takes a byte or more
            max_event_bytes=self.format.max_event_bytes,
            n_rows=self.n_rows,
        )

    def _parse(self, value: bytes | None) -> Any:
        if not value:
            raise EventRejected("empty", "the message is empty")
        if len(value) > self.format.max_event_bytes:
            raise EventRejected(
                "too_large", f"the message has {len(value)} bytes, more than {self.format.max_event_bytes}"
            )
        try:
            return self._json.decode(value)
        except msgspec.ValidationError as error:  # a number that float64 cannot hold
            raise EventRejected("non_finite_number", f"a number is out of range: {error}") from error
        except msgspec.DecodeError as error:
            raise EventRejected("not_json", f"not JSON: {error}") from error
        except UnicodeDecodeError as error:
            raise EventRejected("not_utf8", f"not UTF-8: {error.reason} at byte {error.start}") from error
        except RecursionError as error:
            raise EventRejected("too_deep", "nested deeper than can be read") from error

    def _find_features(self, event: Mapping[str, Any]) -> Any:
        name = self.format.features_field
        if not name:
            return event
        if name not in event:
            raise EventRejected("no_features", f'the event has no "{name}"', name)
        return event[name]

    def _read_label(self, label: Any) -> float | None:
        if label is None:
            return None
        name = self.format.label_field
        if not isinstance(label, bool | int | float):
            raise EventRejected("bad_label", f"label {_quote(label)} is not a number (task={self.task})", name)
        try:
            return check_label(label, self.task)
        except (LabelError, OverflowError) as error:
            raise EventRejected("bad_label", str(error), name) from error


def _merge(scanned: Scanned, parsed: Decoded) -> Decoded:
    """What the scan found and what it left, in the messages' order."""
    n_unlabelled = int(np.count_nonzero(scanned.outcomes == UNLABELLED)) + parsed.n_unlabelled
    is_kept = scanned.outcomes == LEARN
    rows, values, is_number = scanned.rows, scanned.values, scanned.is_number
    sizes = np.diff(scanned.offsets)
    labels, weights = scanned.labels, scanned.weights
    if len(parsed.kept):
        is_kept[parsed.kept] = True
        sizes[parsed.kept] = np.diff(parsed.batch.offsets)
        labels[parsed.kept], weights[parsed.kept] = parsed.labels, parsed.weights
        is_parsed = np.zeros(len(is_kept), np.bool_)
        is_parsed[parsed.kept] = True
        is_parsed = np.repeat(is_parsed, sizes)  # (nnz,)
        rows = _weave(is_parsed, parsed.batch.rows, rows)
        values = _weave(is_parsed, parsed.batch.values, values)
        is_number = _weave(is_parsed, parsed.batch.is_number, is_number)
    offsets = np.zeros(np.count_nonzero(is_kept) + 1, np.int64)
    np.cumsum(sizes[is_kept], out=offsets[1:])
    return Decoded(
        batch=Batch(rows, offsets, values, is_number),
        labels=labels[is_kept],
        weights=weights[is_kept],
        kept=np.flatnonzero(is_kept),
        rejections=parsed.rejections,
        n_unlabelled=n_unlabelled,
    )


def _weave(is_first: NDArray[np.bool_], first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """The elements of two arrays, in order: the next of `first` where `is_first`, else the next of `second`."""
    woven = np.empty(len(is_first), first.dtype)
    woven[is_first] = first
    woven[~is_first] = second
    return woven


def _read_weight(weight: Any) -> float:
    if weight is None:
        return 1.0
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0.0 <= weight <= MAX_WEIGHT:
        raise EventRejected("bad_weight", f"weight {_quote(weight)} is not from 0 to {MAX_WEIGHT:g}", "weight")
    return float(weight)


def _describe(value: Any) -> str:
    if value is None:
        return "null"
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def _quote(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    try:
        return msgspec.json.encode(value).decode()[:80]
    except RecursionError:  # nested exactly as deep as can be read, which is deeper than can be written
        return _describe(value)

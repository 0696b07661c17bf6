"""The wire format: what a JSON event means, and everything that can be wrong with it.

An event is one JSON object: the features, and optionally ``label``, ``weight``, ``id`` and ``timestamp``. Kafka, HTTP
and files all come through here, by `consumer.decoding`, which knows a faster way to the same result for most events.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from flexihash.consumer.consumer_errors import EventRejected, RowDeleted
from flexihash.consumer.envelopes import Envelope, is_wrapped, strip_header, unwrap
from flexihash.consumer.fields import Fields
from flexihash.consumer.labels import Label, LabelRule, ReadLabel, make_reader, parse_rule
from flexihash.consumer.paths import ABSENT, Place, prune
from flexihash.consumer.quotation import describe, quote
from flexihash.model.features import Feature, FeatureRules, flatten
from flexihash.model.model_errors import FeatureError, LabelError
from flexihash.model.tasks import Task

MAX_WEIGHT = 1e6  # an event that counts more than a million times is a mistake, and would drown the stream
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # all that msgspec raises on bad bytes


class EventFormat(msgspec.Struct, frozen=True, kw_only=True):
    """How events are written. A field is a name at the top of an event, or a path; see `consumer.paths`.

    Args:
        label_field: of the label.
        features_field: of the object that holds the features; empty: the whole event but for the label, the weight,
            the id and ``timestamp``. None of these is a feature, wherever it lies.
        weight_field, id_field: empty: there is none. The id is not read.
        envelope: what the event is in; paths begin at the event.
        targets: fields of several labels, each with its task; for the targets task, which has no `label_field`.
        positive_labels: the texts that are 1 as a label, all others being 0; none: a label is what the task takes.
        label_rule: a comparison that gives the label instead of `label_field`, such as ``arr_delay > 15``.
        rules: how features are flattened, and what is too much.
        max_event_bytes: of one message.
    """

    label_field: str = "label"
    features_field: str = "features"
    weight_field: str = "weight"
    id_field: str = "id"
    envelope: Envelope = ""
    targets: tuple[tuple[str, Task], ...] = ()
    positive_labels: tuple[str, ...] = ()
    label_rule: str = ""
    rules: FeatureRules = FeatureRules()
    max_event_bytes: int = 1_000_000

    @property
    def rule(self) -> LabelRule | None:
        """The rule that gives the label, where there is one."""
        return parse_rule(self.label_rule) if self.label_rule else None

    @property
    def label_names(self) -> tuple[str, ...]:
        """The fields that say what the label is, or the targets."""
        if self.targets:
            return tuple(name for name, _ in self.targets)
        return (self.rule.field if self.rule else self.label_field,)


class Event(msgspec.Struct, frozen=True):
    """A decoded event; `label` is None where it has none."""

    features: list[Feature]
    label: Label | None
    weight: float


class LabelField(NamedTuple):
    """Where a label lies, and what reads it."""

    place: Place
    read: ReadLabel


class EventReader:
    """Reads events of one format for one task, one by one; `fields` says where what is no feature lies."""

    def __init__(self, format: EventFormat, task: Task) -> None:
        self.format = format
        self.task = task
        self.fields = Fields(
            format.label_names,
            format.weight_field,
            format.id_field,
            format.features_field,
            format.rules.ignored_features,
        )
        self._json: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
        tasks = [of_target for _, of_target in format.targets] or [task]
        readers = [make_reader(one, format.positive_labels, format.rule) for one in tasks]
        self._labels = tuple(map(LabelField, self.fields.labels, readers))

    def decode_one(self, value: bytes | None) -> Event:
        """One message.

        Raises:
            EventRejected: with the reason; nothing else, whatever the bytes.
        """
        return self.read(self._parse(value))

    def decode_instance(self, value: bytes) -> Event:
        """One instance, a JSON object of features, as an event of label 0.

        Raises:
            EventRejected: with the reason, and the key where it is known.
        """
        try:
            features = self._json.decode(value)
        except UNREADABLE as error:
            raise EventRejected("not_json", describe_unreadable(error)) from error
        return Event(self.read_instance(features), 0.0, 1.0)

    def read(self, event: Any) -> Event:
        """An event that is parsed already.

        Raises:
            EventRejected: with the reason.
        """
        event = self._open(event)
        return Event(
            features=self.read_features(self._find_features(event)),
            label=self._read_labels(event),
            weight=self._read_weight(event),
        )

    def read_instance(self, instance: Any) -> list[Feature]:
        """Flat features of one instance.

        Raises:
            EventRejected: with the reason and the key; also where it is a whole event, whose features lie deeper.
        """
        if isinstance(instance, Mapping) and (name := self._find_whole_event(instance)):
            message = f'an instance is the features alone: send what is in "{name}", without the object around it'
            raise EventRejected("whole_event", message, name)
        return self.read_features(instance)

    def read_features(self, features: Any) -> list[Feature]:
        """Flat features of an object of them.

        Raises:
            EventRejected: with the reason and the key.
        """
        if not isinstance(features, Mapping):
            raise EventRejected("no_features", f"the features are {describe(features)}, not an object")
        if self.fields.left_out:
            features = prune(features, self.fields.left_out)
        try:
            return flatten(features, self.format.rules)
        except FeatureError as error:
            raise EventRejected(error.reason, str(error), error.key) from error

    def read_label(self, label: Any, target: int = 0) -> Label | None:
        """What is learned of a label; None of null.

        Raises:
            EventRejected: it is none that the task takes.
        """
        if label is None:
            return None
        place, read = self._labels[target]
        try:
            return read(label)
        except (LabelError, OverflowError) as error:
            raise EventRejected("bad_label", str(error), place.name) from error

    def find_labels(self, value: bytes) -> list[Any]:
        """The labels as they stand in a message that can be read; ABSENT where there is none."""
        event = self._open(self._parse(value))
        return [place.find(event) for place in self.fields.labels]

    def _find_whole_event(self, instance: Mapping[str, Any]) -> str:
        """The object that holds the features, of what is an event and no instance; nothing else is beside it."""
        if is_wrapped(instance, self.format.envelope):
            return self.format.features_field or self.format.envelope
        features = self.fields.features
        if features is None or not isinstance(features.find(instance), Mapping):
            return ""
        is_deep = len(features.path) > 1
        return features.name if is_deep or self.fields.outer >= instance.keys() - {features.name} else ""

    def _parse(self, value: bytes | None) -> Any:
        if not value:
            if self.format.envelope:
                raise RowDeleted("deleted", "the message is empty: it tells that a row was deleted")
            raise EventRejected("empty", "the message is empty")
        if len(value) > self.format.max_event_bytes:
            raise EventRejected(
                "too_large", f"the message has {len(value)} bytes, more than {self.format.max_event_bytes}"
            )
        try:
            return self._json.decode(strip_header(value))
        except msgspec.ValidationError as error:  # a number that float64 cannot hold
            raise EventRejected("non_finite_number", f"a number is out of range: {error}") from error
        except msgspec.DecodeError as error:
            raise EventRejected("not_json", f"not JSON: {error}") from error
        except UnicodeDecodeError as error:
            raise EventRejected("not_utf8", f"not UTF-8: {error.reason} at byte {error.start}") from error
        except RecursionError as error:
            raise EventRejected("too_deep", "nested deeper than can be read") from error

    def _open(self, event: Any) -> Mapping[str, Any]:
        if not isinstance(event, Mapping):
            raise EventRejected("not_an_object", f"the event is {describe(event)}, not an object")
        return unwrap(event, self.format.envelope)

    def _find_features(self, event: Mapping[str, Any]) -> Any:
        place = self.fields.features
        if place is None:
            return event
        features = place.find(event)
        if features is ABSENT:
            raise EventRejected("no_features", f'the event has no "{place.name}"', place.name)
        return features

    def _read_labels(self, event: Mapping[str, Any]) -> Label | None:
        labels = [self._read_target(event, target) for target in range(len(self._labels))]
        if not self.format.targets:
            return labels[0]
        if all(label is None for label in labels):
            return None
        return tuple(math.nan if label is None else label for label in labels)  # type: ignore[return-value]

    def _read_target(self, event: Mapping[str, Any], target: int) -> Label | None:
        label = self._labels[target].place.find(event)
        return None if label is ABSENT else self.read_label(label, target)

    def _read_weight(self, event: Mapping[str, Any]) -> float:
        place = self.fields.weight
        weight = ABSENT if place is None else place.find(event)
        if place is None or weight is ABSENT or weight is None:
            return 1.0
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0.0 <= weight <= MAX_WEIGHT:
            message = f"weight {quote(weight)} is not from 0 to {MAX_WEIGHT:g}"
            raise EventRejected("bad_weight", message, place.name)
        return float(weight)


def describe_unreadable(error: Exception) -> str:
    """What bytes that are no JSON lack, in words."""
    return "nested too deep" if isinstance(error, RecursionError) else str(error)

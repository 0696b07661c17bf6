"""The wire format: what a JSON event means, and everything that can be wrong with it.

An event is one JSON object: the features, and optionally ``label``, ``weight``, ``id`` and ``timestamp``. Kafka, HTTP
and files all come through here, by `consumer.decoding`, which knows a faster way to the same result for most events.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from flexihash.consumer.consumer_errors import EventRejected
from flexihash.model.features import Feature, FeatureRules, flatten
from flexihash.model.model_errors import FeatureError, LabelError
from flexihash.model.tasks import Task

MAX_WEIGHT = 1e6  # an event that counts more than a million times is a mistake, and would drown the stream
OUTER_FIELDS = ("weight", "id", "timestamp")  # of an event, beside its label and its features
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # all that msgspec raises on bad bytes


class EventFormat(msgspec.Struct, frozen=True, kw_only=True):
    """How events are written.

    Args:
        label_field: the name of the label.
        features_field: the name of the object that holds the features; empty: the whole event but the label,
            ``weight``, ``id``, ``timestamp``.
        rules: how features are flattened, and what is too much.
        max_event_bytes: of one event's JSON.
    """

    label_field: str = "label"
    features_field: str = "features"
    rules: FeatureRules = FeatureRules()
    max_event_bytes: int = 1_000_000


class Event(msgspec.Struct, frozen=True):
    """A decoded event; `label` is None where it has none."""

    features: list[Feature]
    label: float | None
    weight: float


class EventReader:
    """Reads events of one format for one task, one by one."""

    def __init__(self, format: EventFormat, task: Task) -> None:
        self.format = format
        self.task = task
        self._json: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
        self._outer = frozenset((format.label_field, *OUTER_FIELDS))
        self.left_out = self._outer if not format.features_field else frozenset[str]()

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
        if not isinstance(event, Mapping):
            raise EventRejected("not_an_object", f"the event is {_describe(event)}, not an object")
        return Event(
            features=self.read_features(self._find_features(event)),
            label=self._read_label(event.get(self.format.label_field)),
            weight=_read_weight(event.get("weight")),
        )

    def read_instance(self, instance: Any) -> list[Feature]:
        """Flat features of one instance.

        Raises:
            EventRejected: with the reason and the key; also where it is a whole event, whose features lie deeper.
        """
        name = self.format.features_field
        if isinstance(instance, Mapping) and self._is_whole_event(instance):
            message = f'an instance is the features alone: send what is in "{name}", without the object around it'
            raise EventRejected("whole_event", message, name)
        return self.read_features(instance)

    def read_features(self, features: Any) -> list[Feature]:
        """Flat features of an object of them.

        Raises:
            EventRejected: with the reason and the key.
        """
        if not isinstance(features, Mapping):
            raise EventRejected("no_features", f"the features are {_describe(features)}, not an object")
        if self.left_out:
            features = {name: value for name, value in features.items() if name not in self.left_out}
        try:
            return flatten(features, self.format.rules)
        except FeatureError as error:
            raise EventRejected(error.reason, str(error), error.key) from error

    def _is_whole_event(self, instance: Mapping[str, Any]) -> bool:
        """Whether an object has features in it, and beside them nothing but what events have."""
        name = self.format.features_field
        return bool(name) and isinstance(instance.get(name), Mapping) and self._outer >= instance.keys() - {name}

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
            return self.task.check_label(label)
        except (LabelError, OverflowError) as error:
            raise EventRejected("bad_label", str(error), name) from error


def describe_unreadable(error: Exception) -> str:
    """What bytes that are no JSON lack, in words."""
    return "nested too deep" if isinstance(error, RecursionError) else str(error)


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

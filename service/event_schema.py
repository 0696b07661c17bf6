"""The JSON schema of an event, as the settings say how one is written."""

from __future__ import annotations

from typing import Any

from flexihash.consumer.envelopes import WAYS
from flexihash.consumer.labels import LabelRule
from flexihash.consumer.paths import Path
from flexihash.consumer.wire import MAX_WEIGHT, EventFormat, EventReader
from flexihash.model.tasks import Task

FEATURES = {"$ref": "#/components/schemas/Features"}
WEIGHT = {"type": ["number", "null"], "minimum": 0, "maximum": MAX_WEIGHT}
CLASS = ["string", "integer", "boolean"]


def describe_event(format: EventFormat, task: Task) -> dict[str, Any]:
    """The schema of the events of a format; a field at a path is described in the objects on its way."""
    fields = EventReader(format, task).fields
    event: dict[str, Any] = {"type": "object", "properties": {}}
    tasks = [of_target for _, of_target in format.targets] or [task]
    for place, one in zip(fields.labels, tasks, strict=True):
        _put(event, place.path, _describe_label(format, one))
    if fields.weight is not None:
        _put(event, fields.weight.path, WEIGHT)
    if fields.features is not None:
        _put(event, fields.features.path, FEATURES, is_required=True)
    return _wrap(event, format) if format.envelope else event


def _wrap(event: dict[str, Any], format: EventFormat) -> dict[str, Any]:
    message: dict[str, Any] = {"type": "object", "properties": {}}
    for way in WAYS[format.envelope]:
        _put(message, way, event)
    return message


def _put(schema: dict[str, Any], path: Path, inner: dict[str, Any], is_required: bool = False) -> None:
    """Describes what lies at a path; an object of which something is described already stays as it is."""
    for name in path[:-1]:
        if is_required:
            schema.setdefault("required", []).append(name)
        schema = schema.setdefault("properties", {}).setdefault(name, {"type": "object", "properties": {}})
    schema.setdefault("properties", {}).setdefault(path[-1], inner)
    if is_required:
        schema.setdefault("required", []).append(path[-1])


def _describe_label(format: EventFormat, task: Task) -> dict[str, Any]:
    if format.rule is not None:
        return _describe_compared(format.rule)
    if format.positive_labels:
        return {"type": ["string", "number", "boolean", "null"]}
    if task is Task.MULTILABEL:
        return {"type": ["array", "null"], "items": {"type": CLASS}}
    if task.record.has_classes:
        return {"type": [*CLASS, "null"]}
    return task.record.label_schema


def _describe_compared(rule: LabelRule) -> dict[str, Any]:
    return {"type": ["string" if isinstance(rule.value, str) else "number", "null"]}

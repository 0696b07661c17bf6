"""The schemas of what depends on the task in answers and requests: predictions, and the metrics of the model."""

from __future__ import annotations

from typing import Any

import msgspec

from flexihash.model import contexts
from flexihash.model.config import MOST_CLASSES, ModelConfig
from flexihash.model.metrics import COUNTED, metric_names
from flexihash.model.rates import OF_A_CLASS
from flexihash.model.tasks import Task
from flexihash.service import messages
from flexihash.service.phrasing import KINDS, TOP_K

Schema = dict[str, Any]

REFERENCE = "#/components/schemas/{name}"
NUMBER: Schema = {"type": ["number", "null"]}
WHOLE: Schema = {"type": "integer"}
KNOWN = {"known_features": 5, "features": 5}
EXAMPLES: dict[Task, Schema] = {
    Task.MULTICLASS: {"value": "UA", "probabilities": {"UA": 0.61, "AA": 0.27}, "score": 1.84, **KNOWN},
    Task.MULTILABEL: {"value": ["late"], "probabilities": {"late": 0.83, "full": 0.21}, **KNOWN},
    Task.TARGETS: {"targets": {"delay": {"value": 12.5, "score": 0.31}}, **KNOWN},
}
TOP_K_SCHEMA: Schema = {"type": "integer", "minimum": 1, "maximum": MOST_CLASSES, "default": TOP_K}


def describe_task(config: ModelConfig) -> dict[str, Schema]:
    """Schemas by name: ``Prediction`` and what it is made of, and those of the metrics."""
    _, schemas = msgspec.json.schema_components([_kind(config.task)], ref_template=REFERENCE)
    schemas["Prediction"] = schemas.pop(_kind(config.task).__name__)
    return schemas | _describe_metrics(config)


def _kind(task: Task) -> type[msgspec.Struct]:
    return KINDS.get(task, messages.Prediction)


def _describe_metrics(config: ModelConfig) -> dict[str, Schema]:
    """Over all events, and over the last ones."""
    metrics = _list_metrics(config.task)
    if config.task.record.has_classes:
        metrics["classes"] = {"type": "object", "additionalProperties": _refer("MetricsOfOne")}
    whole: Schema = metrics | {"window": _refer("WindowMetrics"), "embeddings": _refer("EmbeddingMetrics")}
    described = {"Metrics": whole, "WindowMetrics": metrics, "EmbeddingMetrics": _list_losses()}
    if config.task.record.has_classes:
        described["MetricsOfOne"] = {name: WHOLE if name == "count" else NUMBER for name in OF_A_CLASS}
    if config.targets:
        whole["targets"] = {"type": "object", "additionalProperties": _refer("MetricsOfTarget")}
        del whole["window"], described["WindowMetrics"]
        own = {name: kind for task in config.targets.values() for name, kind in _list_metrics(task).items()}
        described["MetricsOfTarget"] = own | {"window": _refer("WindowMetricsOfTarget")}
        described["WindowMetricsOfTarget"] = own
    return {name: {"type": "object", "properties": properties} for name, properties in described.items()}


def _list_metrics(task: Task) -> Schema:
    kinds = dict(zip(COUNTED, (WHOLE, {"type": "number"}), strict=True))
    return {name: kinds.get(name, NUMBER) for name in metric_names(task)}


def _list_losses() -> Schema:
    return {"events": WHOLE, "told": WHOLE, **{name: NUMBER for name, *_ in contexts.LOSSES}}


def _refer(name: str) -> Schema:
    return {"$ref": REFERENCE.format(name=name)}


def show_predictions(document: Schema, task: Task) -> None:
    """Has the example of a prediction be one of this task, where it is another than a number."""
    if task in EXAMPLES:
        answer = document["paths"]["/v1/predictions"]["post"]["responses"]["200"]["content"]["application/json"]
        answer["example"] = {**answer["example"], "predictions": [EXAMPLES[task]]}

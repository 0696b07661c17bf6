"""The OpenAPI document: bodies and answers, examples, and the problems that a call can answer."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, get_args

import msgspec
from fastapi import FastAPI

from flexihash.model.pooled import Kind, Pooling
from flexihash.service import messages, problems
from flexihash.service.answer_schema import TOP_K_SCHEMA, describe_task, show_predictions
from flexihash.service.bodies import JSON, NDJSON
from flexihash.service.event_schema import describe_event
from flexihash.service.settings import Settings

METRICS = "/metrics"
ANSWERS = (
    messages.Embeddings,
    messages.Predictions,
    messages.Similarities,
    messages.Published,
    messages.Model,
    messages.Saved,
    messages.Checkpoints,
    messages.Health,
    messages.Index,
    messages.ProblemDetails,
)

FEATURES = {"carrier": "UA", "origin": "EWR", "dest": "IAH", "hour": "5", "distance": 1400.0}
VERSION = {"events": 327346, "positions": {"events:0": 327346}}
EVENT = {"features": FEATURES, "label": 1}
EXAMPLES: dict[type, Any] = {
    messages.Embeddings: {
        "embeddings": [[0.25, -0.5, 0.0, 1.5] * 4],
        "version": VERSION,
        "known_features": [5],
        "features": [5],
    },
    messages.Predictions: {
        "predictions": [{"value": 0.187, "score": -1.469, "known_features": 5, "features": 5}],
        "version": VERSION,
    },
    messages.Similarities: {"similarities": [0.93, -0.12, None], "version": VERSION},
    messages.Published: {"events": 1, "positions": {"events:0": 327347}},
}
BAD_INSTANCE = {
    "title": "Unprocessable Entity",
    "status": 422,
    "detail": 'instances[3]: "distance" is not a finite number',
    "where": "instances[3]",
    "key": "distance",
    "reason": "non_finite_number",
    "request_id": "5f0c9c1e7a5b4d0f8a3f1f0a9a1b2c3d",
}

INSTANCES: dict[str, Any] = {
    "type": "object",
    "required": ["instances"],
    "additionalProperties": False,
    "properties": {"instances": {"type": "array", "items": {"$ref": "#/components/schemas/Features"}}},
}
CHOICE = {  # of embeddings, as `model.pooled` has it
    "kind": {"type": ["string", "null"], "enum": [*get_args(Kind), None]},
    "pooling": {"type": "string", "enum": [*get_args(Pooling)], "default": "sum"},
    "normalize": {"type": "boolean", "default": False},
    "output": {"type": "string", "default": "", "description": "The class, label or target whose own factors it is."},
}
INSTANCES_TO_EMBED = {**INSTANCES, "properties": {**INSTANCES["properties"], **CHOICE}}
COMPARISON = {
    "type": "object",
    "required": ["query", "candidates"],
    "additionalProperties": False,
    "properties": {
        "query": {"$ref": "#/components/schemas/Features"},
        "candidates": INSTANCES["properties"]["instances"],
        **CHOICE,
    },
}


def _describe_body(schema: str, example: Any) -> dict[str, Any]:
    return {
        "required": True,
        "content": {JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}, "example": example}},
    }


CHOICE_PARAMETERS = [
    {"name": name, "in": "query", "required": False, "schema": schema, "description": "As in the body."}
    for name, schema in {**CHOICE, "kind": {"type": "string", "enum": [*get_args(Kind)]}}.items()
]
INSTANCES_BODY = _describe_body("Instances", {"instances": [FEATURES]})
EMBED_BODY = _describe_body("InstancesToEmbed", {"instances": [FEATURES, {"dest": "IAH"}], "normalize": True})
EMBED_BODY["content"][NDJSON] = {
    "schema": {"type": "string", "format": "ndjson-instances", "description": "One instance a line."},
    "example": msgspec.json.encode(FEATURES).decode() + "\n",
}
COMPARISON_BODY = _describe_body("Comparison", {"query": {"dest": "IAH"}, "candidates": [{"dest": "DFW"}, FEATURES]})
EVENT_REFERENCE = {"$ref": "#/components/schemas/Event"}
EVENTS_BODY = {
    "required": True,
    "content": {
        JSON: {
            "schema": {"oneOf": [EVENT_REFERENCE, {"type": "array", "items": EVENT_REFERENCE, "minItems": 1}]},
            "examples": {"one event": {"value": EVENT}, "several": {"value": [EVENT, EVENT]}},
        },
        NDJSON: {
            "schema": {"type": "string", "format": "ndjson", "description": "One event a line."},
            "example": msgspec.json.encode(EVENT).decode() + "\n",
        },
    },
}


class DocumentedApp(FastAPI):
    """FastAPI, with the schemas of our messages in its document."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, made once."""
        if self.openapi_schema:
            return self.openapi_schema
        document = super().openapi()
        _, schemas = msgspec.json.schema_components(ANSWERS, ref_template="#/components/schemas/{name}")
        settings: Settings = self.state.parts.settings
        components = document.setdefault("components", {})
        schemas["Model"]["properties"]["metrics"] = {"$ref": "#/components/schemas/Metrics"}
        schemas["Predictions"]["properties"]["predictions"]["items"] = {"$ref": "#/components/schemas/Prediction"}
        instances = INSTANCES
        if settings.task.record.has_classes:
            instances = {**INSTANCES, "properties": {**INSTANCES["properties"], "top_k": TOP_K_SCHEMA}}
        bodies = {
            "Features": {"type": "object"},
            "Instances": instances,
            "InstancesToEmbed": INSTANCES_TO_EMBED,
            "Comparison": COMPARISON,
            "Event": describe_event(settings.event_format, settings.task),
        }
        components.setdefault("schemas", {}).update(schemas, **bodies, **describe_task(settings.model))
        if settings.api_token is None:
            components.pop("securitySchemes", None)
        show_predictions(document, settings.task)
        for path, operations in document["paths"].items():
            if settings.api_token is None or (path == METRICS and settings.public_metrics):
                for operation in operations.values():
                    operation.pop("security", None)
        return document


def describe_answers(
    answer: type, *statuses: int, status: int = 200, forms: Iterable[str] = ()
) -> dict[int | str, dict[str, Any]]:
    """A route's ``responses``: `answer` at `status`, also in other `forms`, and a problem at each of `statuses`."""
    answers: dict[int | str, dict[str, Any]] = {
        status: _describe(answer.__doc__ or "", JSON, answer, EXAMPLES.get(answer))
    }
    answers[status]["content"].update({form: {"schema": {"type": "string", "format": "binary"}} for form in forms})
    for code in (*statuses, 500):
        meaning = problems.MEANINGS[code]
        plain = {"title": HTTPStatus(code).phrase, "status": code, "detail": meaning}
        example = BAD_INSTANCE if code == 422 else plain
        answers[code] = _describe(meaning, problems.MEDIA_TYPE, messages.ProblemDetails, example)
    return answers


def _describe(text: str, media_type: str, message: type, example: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{message.__name__}"}}
    if example is not None:
        body["example"] = example
    return {"description": text.partition("\n")[0], "content": {media_type: body}}

"""The OpenAPI document and docs/http.md: both describe every route as it is."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from flexihash.consumer.status import CheckpointStatus
from flexihash.model.class_metrics import ClassMetrics
from flexihash.model.target_metrics import TargetMetrics
from flexihash.service.messages import Embeddings, Predictions, Similarities
from flexihash.service.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "http.md"
OUR_ROUTES = {
    ("get", "/"),
    ("get", "/livez"),
    ("get", "/readyz"),
    ("get", "/metrics"),
    ("post", "/v1/embeddings"),
    ("post", "/v1/predictions"),
    ("post", "/v1/similarities"),
    ("post", "/v1/events"),
    ("get", "/v1/model"),
    ("post", "/v1/checkpoints"),
    ("get", "/v1/checkpoints"),
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With all that can be turned on, and be documented."""
    return settings.model_copy(update={"embeddings": True})


@pytest.fixture
def document(api: Any) -> dict[str, Any]:
    document: dict[str, Any] = api.get("/openapi.json").json()
    return document


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(method, path): call for path, calls in document["paths"].items() for method, call in calls.items()}


def test_every_route_is_documented(document: dict[str, Any]) -> None:
    assert set(operations(document)) == OUR_ROUTES
    assert all(call["description"] for call in operations(document).values())


def test_every_error_is_a_problem(document: dict[str, Any]) -> None:
    problem = {"$ref": "#/components/schemas/ProblemDetails"}
    for route, call in operations(document).items():
        for status, answer in call["responses"].items():
            if int(status) >= 400:
                assert answer["content"]["application/problem+json"]["schema"] == problem, (route, status)
    assert {"title", "status", "detail", "where", "key", "reason", "request_id"} == set(
        document["components"]["schemas"]["ProblemDetails"]["properties"]
    )


def test_bodies_and_answers_have_schemas_and_examples(document: dict[str, Any]) -> None:
    bodies = {"/v1/predictions": Predictions, "/v1/embeddings": Embeddings, "/v1/similarities": Similarities}
    for path, answer in bodies.items():
        call = operations(document)["post", path]
        content = call["responses"]["200"]["content"]["application/json"]
        assert content["schema"] == {"$ref": f"#/components/schemas/{answer.__name__}"}
        msgspec.convert(content["example"], answer)
        assert {"400", "401", "413", "415", "422", "500", "503"} < set(call["responses"])
    events = operations(document)["post", "/v1/events"]["requestBody"]["content"]
    assert set(events) == {"application/json", "application/x-ndjson"}


def test_the_examples_of_bodies_are_accepted(
    api: Any, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.app.state.parts.publisher, "publish", lambda events: [(0, 7)] * len(events))
    for path in ("/v1/predictions", "/v1/embeddings", "/v1/similarities"):
        content = operations(document)["post", path]["requestBody"]["content"]["application/json"]
        assert api.post(path, json=content["example"]).status_code == 200
    events = operations(document)["post", "/v1/events"]["requestBody"]["content"]
    for example in events["application/json"]["examples"].values():
        assert api.post("/v1/events", json=example["value"]).status_code == 200
    lines = events["application/x-ndjson"]["example"]
    assert api.post_text("/v1/events", lines, "application/x-ndjson").json()["events"] == 1


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    references = set(re.findall(r'"#/components/schemas/(\w+)"', msgspec.json.encode(document).decode()))
    assert references
    assert references <= set(document["components"]["schemas"])


@pytest.mark.parametrize("public_metrics", [True, False])
def test_the_token_is_in_the_document_where_it_is_asked_for(open_api: Any, public_metrics: bool) -> None:
    document = open_api(api_token=SecretStr("t"), public_metrics=public_metrics).get("/openapi.json").json()
    secured = {route for route, call in operations(document).items() if call.get("security")}
    metrics = set() if public_metrics else {("get", "/metrics")}
    assert secured == {route for route in OUR_ROUTES if route[1].startswith("/v1/")} | metrics


def test_without_a_token_the_document_asks_for_none(document: dict[str, Any]) -> None:
    assert not [call for call in operations(document).values() if "security" in call]
    assert "securitySchemes" not in document["components"]


def test_the_page_shows_every_route_with_a_curl() -> None:
    page = PAGE.read_text()
    headings = set(re.findall(r"^## `(\w+) (\S+)`$", page, re.MULTILINE))
    assert {(method.lower(), path) for method, path in headings} == OUR_ROUTES
    for section in page.split("\n## ")[1:]:
        if match := re.match(r"`(\w+) (\S+)`\n", section):
            assert re.search(rf"^    curl .*localhost:8080{re.escape(match[2])}(\s|'|$)", section, re.MULTILINE), match[
                0
            ]


def list_metrics(api: Any) -> set[str]:
    return {family.name for family in text_string_to_metric_families(api.get("/metrics").text)}


def reports_of_other_tasks() -> Iterator[dict[str, Any]]:
    """What is reported where the label is one of many classes, or several targets."""
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in ClassMetrics.layout(2).items()}
    classes = ClassMetrics(2, tensors)
    classes.update(np.array([[0.5, 0.0]]), np.zeros(1), np.ones(1))
    yield classes.report(["UA"])
    targets = {"late": "binary"}
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in TargetMetrics.layout(targets).items()}
    yield TargetMetrics(targets, tensors).report()


def test_the_page_lists_every_metric_and_no_other(api: Any, learner: Any) -> None:
    for color in ("red", "blue") * 10:
        learner.learn({"color": color, "size": 1.5}, 1)
    learner.report(
        metrics=learner.model.report(),
        rejected={"bad_label": 1},
        checkpoint=CheckpointStatus(path="/c", saved_at=time.time(), duration_s=1, pause_s=1, size_bytes=1),
    )
    metrics = list_metrics(api)
    for report in reports_of_other_tasks():
        learner.report(metrics=report)
        metrics |= list_metrics(api)
    listed = set(re.findall(r"^\| `(flexihash_\w+)` ", PAGE.read_text(), re.MULTILINE))
    assert listed == metrics

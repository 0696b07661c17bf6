"""A client that openapi-python-client makes of our OpenAPI document: it has every route, and every route answers it."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.model.metrics import metric_names
from flexihash.model.tasks import Task
from flexihash.service.api import create_app
from flexihash.service.settings import load_settings
from tests.integration.served import Launch

TOKEN = "tok-81c2d7"
TIMEOUT_S = 120
FEATURES = {"carrier": "UA", "distance": 1400.5}
UNSUPPORTED = "Unsupported content type application/x-ndjson"  # an array of events, or of instances, says the same
N_UNSUPPORTED = 2  # bodies: of events, and of instances


def generate(folder: Path, *source: str) -> str:
    """Makes a package named flights_client in a folder; returns what the generator says."""
    (folder / "config.yml").write_text("post_hooks: []")
    command = [sys.executable, "-m", "openapi_python_client", "generate", *source, "--config", "config.yml"]
    command += ["--meta", "none", "--output-path", "flights_client"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout + made.stderr


def find_calls(folder: Path) -> dict[str, str]:
    """The modules that have a call each, by the call's name."""
    modules = (folder / "flights_client" / "api").glob("*/[a-z]*.py")
    return {path.stem: f"flights_client.api.{path.parent.name}.{path.stem}" for path in modules}


def check_whole(said: str) -> None:
    """Nothing was left out but the bodies that openapi-python-client does not know."""
    assert said.count("WARNING") == said.count(UNSUPPORTED) == N_UNSUPPORTED, said
    assert "will not be generated" not in said
    assert "Unable" not in said


CHANGES: list[dict[str, Any]] = [
    *({"task": task} for task in Task if task is not Task.TARGETS),
    {"task": Task.TARGETS, "targets": "late:binary,order.delay:regression"},
    {"features_field": ""},
    {"features_field": "order.now", "label_field": "order.now.late", "weight_field": "/order/a.b"},
    {"envelope": "debezium", "features_field": "", "label_rule": "delay > 15"},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_nothing_is_left_out(tmp_path: Path, changes: dict[str, Any]) -> None:
    document = create_app(load_settings(memory_dir=tmp_path / "memory", **changes)).openapi()
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    check_whole(generate(tmp_path, "--path", "openapi.json"))
    operations = {call["operationId"] for calls in document["paths"].values() for call in calls.values()}
    assert set(find_calls(tmp_path)) == operations
    metrics = (tmp_path / "flights_client" / "models" / "metrics.py").read_text()
    assert [name for name in metric_names(changes.get("task", Task.BINARY)) if f"    {name}: " not in metrics] == []


def test_every_route_answers_a_generated_client(
    tansu: KafkaConnection, topic_name: str, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Topic(tansu, topic_name).create()
    service = launch(tansu, topic_name, FLEXIHASH_API_TOKEN=TOKEN).start().wait_ready()
    url = f"http://127.0.0.1:{service.port}"
    check_whole(generate(tmp_path, "--url", f"{url}/openapi.json"))
    monkeypatch.syspath_prepend(tmp_path)
    made = importlib.import_module("flights_client")
    models = importlib.import_module("flights_client.models")
    called = set()

    with made.Client(base_url=url) as anybody, made.AuthenticatedClient(base_url=url, token=TOKEN) as client:

        def call(name: str, by: Any = client, status: int = 200, **how: Any) -> Any:
            response = importlib.import_module(find_calls(tmp_path)[name]).sync_detailed(client=by, **how)
            assert response.status_code == status, response.content
            called.add(name)
            return response.parsed

        event = models.Event.from_dict({"features": FEATURES, "label": 1, "weight": 2.0})
        unlabelled = models.Event.from_dict({"features": FEATURES})
        assert call("publish", body=event).to_dict() == {"events": 1, "positions": {f"{topic_name}:0": 1}}
        published = call("publish", body=[event, unlabelled])
        assert (published.events, published.unlabelled, len(published.warnings)) == (2, 1, 1)
        service.wait_position(3)

        near = models.Comparison.from_dict({"query": FEATURES, "candidates": [FEATURES, {}]})
        instances = models.Instances.from_dict({"instances": [FEATURES, {"carier": "UA"}]})
        predictions = call("predict", body=instances)
        assert [(one.known_features, one.features) for one in predictions.predictions] == [(2, 2), (0, 1)]
        assert 0.5 < predictions.predictions[0].value < 1.0
        assert predictions.version.events == 2
        embeddings = call("embed", body=models.InstancesToEmbed.from_dict({**instances.to_dict(), "kind": "task"}))
        assert (len(embeddings.embeddings), embeddings.known_features) == (2, [2, 0])
        similarities = call("compare", body=near)
        assert similarities.similarities == [pytest.approx(1.0), None]

        model = call("describe_model")
        assert model.version.events == model.metrics.events == model.metrics.window.events == 2
        assert model.metrics.weight == 4.0
        assert model.metrics.auc is None
        assert model.metrics.log_loss > 0.0
        assert model.learner.state == "learning"

        saved = call("save_checkpoint", status=201)
        assert [one.path for one in call("list_checkpoints").checkpoints] == [saved.path]
        assert call("show_index", anybody).model == "/v1/model"
        assert call("check_life", anybody).status == "alive"
        assert call("check_readiness", anybody).status == "ready"
        assert "flexihash_events 2.0" in call("show_metrics", anybody)
        assert call("describe_model", anybody, status=401).reason == "token"
        whole = models.Instances.from_dict({"instances": [{"features": FEATURES}]})
        assert call("predict", status=422, body=whole).reason == "whole_event"
    assert called == set(find_calls(tmp_path))
    assert service.stop() == 0

"""The model's description, checkpoints, metrics, the token, the router's errors and crashes."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from structlog.testing import capture_logs

from flexihash.consumer.status import CHECKPOINT_REQUEST, CheckpointStatus, DeadLettersStatus
from flexihash.model.checkpoint.store import CheckpointStore
from flexihash.model.class_metrics import ClassMetrics
from flexihash.model.metrics import Layout
from flexihash.model.target_metrics import TargetMetrics
from flexihash.service.memory import AttachedModel

FEATURES = {"carrier": "UA", "distance": 1400.5}
GET_PATHS = (
    *("/", "/livez", "/readyz", "/metrics", "/docs", "/docs/start.js", "/openapi.json"),
    *("/v1/model", "/v1/checkpoints"),
)
METRICS = {
    "events": 3,
    "log_loss": 0.41,
    "baseline_log_loss": 0.52,
    "auc": None,
    "window": {"events": 2, "log_loss": 0.38, "baseline_log_loss": 0.5, "auc": 0.8},
}


def zeros(layout: Layout) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in layout.items()}


def read_metrics(api: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    response = api.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_the_model_is_described(api: Any, learner: Any) -> None:
    learner.learn(FEATURES, 1, times=3)
    learner.report(
        positions={"flights:0": 3},
        end_positions={"flights:0": 10},
        rejected={"bad_label": 2},
        unlabelled=1,
        dead_letters=DeadLettersStatus(waiting=7, spilled=5, error="too large"),
        events_per_second=12.5,
    )
    body = api.get("/v1/model").json()

    assert body["version"] == {"events": 3, "positions": {"flights:0": 3}}
    assert body["metrics"] == learner.model.report()
    assert body["occupancy"] == learner.model.occupancy() > 0
    assert body["configuration"]["task"] == "binary"
    assert body["configuration"]["n_rows"] == 1024
    learner_seen = body["learner"]
    assert learner_seen["state"] == "learning"
    assert learner_seen["problem"] is None
    assert learner_seen["lag"] == 7
    assert learner_seen["rejected"] == {"bad_label": 2}
    assert learner_seen["unlabelled"] == 1
    assert learner_seen["dead_letters"] == {"waiting": 7, "spilled": 5, "error": "too large"}
    assert learner_seen["events_per_second"] == 12.5
    assert 0 <= learner_seen["age_s"] < 60


def test_the_metrics_are_of_the_moment_that_the_version_names(api: Any, learner: Any) -> None:
    learner.learn(FEATURES, 1, times=256)
    learner.report(metrics=learner.model.report())
    learner.learn(FEATURES, 1, times=1536)  # the learner measures less often than it learns
    body = api.get("/v1/model").json()
    assert body["version"]["events"] == body["metrics"]["events"] == body["metrics"]["window"]["events"] == 1792
    assert body["metrics"] == learner.model.report()


def test_the_metrics_are_of_one_moment_while_it_goes_on_learning(api: Any, learner: Any) -> None:
    done = threading.Event()

    def learn() -> None:
        while not done.is_set():
            learner.learn(FEATURES, 1, times=7)

    learning = threading.Thread(target=learn)
    learning.start()
    try:
        bodies = [api.get("/v1/model").json() for _ in range(50)]
    finally:
        done.set()
        learning.join()
    assert all(body["version"]["events"] == body["metrics"]["events"] for body in bodies)
    assert len({body["version"]["events"] for body in bodies}) > 10


def test_the_model_is_described_without_a_learner_and_without_secrets(open_api: Any) -> None:
    api = open_api(sasl_password=SecretStr("hunter2"), sasl_username="anna", api_token=SecretStr("s3cret"))
    response = api.get("/v1/model", headers={"authorization": "Bearer s3cret"})
    body = response.json()
    assert (body["version"], body["occupancy"], body["learner"], body["metrics"]) == (None, None, None, {})
    assert body["configuration"]["topic"] == "flights"
    assert not {"api_token", "sasl_password", "sasl_username"} & set(body["configuration"])
    assert "hunter2" not in response.text
    assert "s3cret" not in response.text


def answer_request(api: Any, learner: Any, **checkpoint: Any) -> httpx.Response:
    """POST /v1/checkpoints, with a learner that answers the request so."""

    async def answer() -> None:
        request = learner.directory / CHECKPOINT_REQUEST
        while not request.exists():
            await asyncio.sleep(0.01)
        request.unlink()
        now: dict[str, Any] = {name: time.time() if value == "now" else value for name, value in checkpoint.items()}
        learner.report(checkpoint=CheckpointStatus(**now))

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api.app), base_url="http://api") as client:
            response, _ = await asyncio.gather(client.post("/v1/checkpoints"), answer())
            return response

    response: httpx.Response = api.run(asyncio.wait_for(ask(), 30))
    return response


def test_a_checkpoint_is_saved_on_request(api: Any, learner: Any) -> None:
    learner.report(
        checkpoint=CheckpointStatus(path="old", saved_at=time.time() - 50, error="x", failed_at=time.time() - 60)
    )
    response = answer_request(
        api, learner, path="/c/1", events=3, saved_at="now", duration_s=0.5, pause_s=0.01, size_bytes=99
    )
    assert response.status_code == 201
    body = response.json()
    assert time.time() - body.pop("saved_at") < 60
    assert body == {"path": "/c/1", "events": 3, "duration_s": 0.5, "pause_s": 0.01, "size_bytes": 99}


def test_a_checkpoint_that_fails_says_why(api: Any, learner: Any) -> None:
    response = answer_request(api, learner, path="old", saved_at=1.0, failed_at="now", error="no space left in /c")
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"] == "the checkpoint was not saved: no space left in /c"


def test_no_checkpoint_without_a_learner(api: Any, learner: Any) -> None:
    learner.report(state="restoring")
    response = api.post("/v1/checkpoints")
    assert response.status_code == 503
    assert (
        response.json()["detail"] == "there is no learner to save a checkpoint: the learner is restoring a checkpoint"
    )
    assert not (learner.directory / CHECKPOINT_REQUEST).exists()


def test_a_learner_that_never_saves_is_a_504(api: Any, learner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexihash.service.routes.checkpointing.CHECKPOINT_TIMEOUT_S", 0.1)
    response = api.post("/v1/checkpoints")
    assert response.status_code == 504
    assert response.json()["reason"] == "timeout"
    assert (learner.directory / CHECKPOINT_REQUEST).exists()


def test_checkpoints_are_listed_newest_first_with_the_damaged(api: Any, learner: Any, settings: Any) -> None:
    assert api.get("/v1/checkpoints").json() == {"checkpoints": []}
    store = CheckpointStore(settings.checkpoint_dir, 3)
    for events in (1, 2):
        store.save(
            learner.model.tables.tensors, events=events, positions={"flights:0": events}, configuration={}, metrics={}
        )
    old, new = sorted(settings.checkpoint_dir.iterdir())
    old_size = (old / "model.safetensors").stat().st_size
    (new / "manifest.json").write_text("{")

    listed = api.get("/v1/checkpoints").json()["checkpoints"]
    assert [entry["path"] for entry in listed] == [str(new), str(old)]
    assert listed[0]["events"] is None
    assert "manifest.json" in listed[0]["problem"]
    assert (listed[1]["events"], listed[1]["positions"], listed[1]["problem"]) == (1, {"flights:0": 1}, None)
    assert listed[1]["size_bytes"] == old_size


def test_metrics_tell_of_the_learner(api: Any, learner: Any) -> None:
    learner.learn(FEATURES, 1, times=3)
    learner.report(
        metrics=METRICS,
        positions={"flights:0": 3, "flights:1": 5},
        end_positions={"flights:0": 10, "flights:1": 5},
        rejected={"bad_label": 2},
        unlabelled=4,
        dead_letters=DeadLettersStatus(waiting=7, spilled=5),
        events_per_second=12.5,
        checkpoint=CheckpointStatus(
            path="/c",
            events=2,
            saved_at=time.time() - 30,
            duration_s=0.5,
            pause_s=0.01,
            size_bytes=99,
            set_aside=["/d"],
        ),
    )
    metrics = read_metrics(api)

    def value(name: str, **labels: str) -> float:
        return metrics[f"flexihash_{name}", tuple(sorted(labels.items()))]

    assert value("learner_up") == 1
    assert 0 <= value("learner_report_age_seconds") < 60
    assert value("events") == 3
    assert value("events_per_second") == 12.5
    assert value("unlabelled_events") == 4
    assert value("rejected_events", reason="bad_label") == 2
    assert value("dead_letters_waiting") == 7
    assert value("dead_letters_spilled") == 5
    assert value("position", topic="flights", partition="0") == 3
    assert value("lag", topic="flights", partition="0") == 7
    assert value("lag", topic="flights", partition="1") == 0
    assert value("progressive_metric", metric="log_loss", over="all") == 0.41
    assert value("progressive_metric", metric="baseline_log_loss", over="all") == 0.52
    assert value("progressive_metric", metric="log_loss", over="window") == 0.38
    assert ("flexihash_progressive_metric", (("metric", "auc"), ("over", "all"))) not in metrics
    assert 30 <= value("checkpoint_age_seconds") < 90
    assert value("checkpoint_duration_seconds") == 0.5
    assert value("checkpoint_pause_seconds") == 0.01
    assert value("checkpoint_size_bytes") == 99
    assert value("checkpoint_events") == 2
    assert value("checkpoint_failed") == 0
    assert value("checkpoints_set_aside") == 1


def test_metrics_tell_of_the_most_frequent_classes(api: Any, learner: Any) -> None:
    labels = np.repeat(np.arange(30.0), np.arange(30, 0, -1))
    metrics = ClassMetrics(40, zeros(ClassMetrics.layout(40)))
    predictions = np.stack([np.full(len(labels), 0.5), np.minimum(labels, 5.0)], axis=1)
    metrics.update(predictions, labels, np.ones(len(labels)))
    learner.report(metrics=metrics.report([f"class {k}" for k in range(40)]))
    told = read_metrics(api)
    assert told["flexihash_progressive_metric", (("metric", "kappa"), ("over", "all"))] > 0.0
    for over in ("all", "window"):
        counts = {
            labels[0][1]: value
            for (name, labels), value in told.items()
            if name == "flexihash_class_count" and labels[1] == ("over", over)
        }
        assert counts == {f"class {k}": 30 - k for k in range(20)}
    assert told["flexihash_class_recall", (("class", "class 3"), ("over", "all"))] == 1.0
    assert told["flexihash_class_recall", (("class", "class 6"), ("over", "all"))] == 0.0
    assert told["flexihash_class_precision", (("class", "class 5"), ("over", "all"))] == pytest.approx(25 / 325)
    assert ("flexihash_class_precision", (("class", "class 6"), ("over", "all"))) not in told


def test_metrics_tell_of_each_target(api: Any, learner: Any) -> None:
    targets = {"late": "binary", "delay": "regression"}
    metrics = TargetMetrics(targets, zeros(TargetMetrics.layout(targets)))
    metrics.update(np.array([[0.9, 3.0]]), np.array([[1.0, 5.0]]), np.ones(1))
    learner.report(metrics=metrics.report())
    told = read_metrics(api)
    assert told["flexihash_progressive_metric", (("metric", "weight"), ("over", "all"))] == 1.0
    for over in ("all", "window"):
        labels = ("over", over), ("target", "delay")
        assert told["flexihash_target_metric", (("metric", "mae"), *labels)] == 2.0
        labels = ("over", over), ("target", "late")
        assert told["flexihash_target_metric", (("metric", "accuracy"), *labels)] == 1.0


def test_metrics_tell_of_a_failed_checkpoint_and_a_lost_learner(api: Any, learner: Any) -> None:
    checkpoint = CheckpointStatus(saved_at=time.time() - 30, failed_at=time.time() - 1, error="disk full")
    learner.report(state="stopped", checkpoint=checkpoint)
    metrics = read_metrics(api)
    assert metrics["flexihash_checkpoint_failed", ()] == 1
    assert metrics["flexihash_learner_up", ()] == 0


def test_metrics_without_a_learner_say_so(open_api: Any) -> None:
    metrics = read_metrics(open_api())
    assert metrics["flexihash_learner_up", ()] == 0
    assert ("flexihash_events", ()) not in metrics


def test_requests_are_counted_by_route_and_status(api: Any) -> None:
    for _ in range(2):
        api.post("/v1/predictions", json={"instances": [{}]})
    api.post_text("/v1/predictions", "{")
    api.get("/no/such/page")
    api.get("/another/one")
    metrics = read_metrics(api)

    def count(method: str, route: str, status: str) -> float:
        labels = (("method", method), ("route", route), ("status", status))
        return metrics["flexihash_http_request_seconds_count", labels]

    assert count("POST", "/v1/predictions", "200") == 2
    assert count("POST", "/v1/predictions", "400") == 1
    assert count("GET", "none", "404") == 2
    assert not [labels for _, labels in metrics if ("route", "/no/such/page") in labels]


def test_the_token_is_asked_for_and_compared(open_api: Any, learner: Any) -> None:
    api = open_api(api_token=SecretStr("s3cret"))
    calls = [
        ("POST", "/v1/predictions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/events"),
        ("GET", "/v1/model"),
        ("POST", "/v1/checkpoints"),
        ("GET", "/v1/checkpoints"),
    ]
    for method, path in calls:
        for authorization in (
            None,
            "Bearer wrong",
            "Bearer s3cre",
            "Bearer s3cret2",
            "Basic s3cret",
            "s3cret",
            "Bearer ü",
        ):
            headers = {"authorization": authorization.encode()} if authorization else {}
            response = api.call(method, path, headers=headers)
            assert response.status_code == 401, (path, authorization)
            assert response.headers["content-type"] == "application/problem+json"
            assert response.headers["www-authenticate"] == "Bearer"
            assert "s3cret" not in response.text
    assert api.get("/v1/model", headers={"authorization": "Bearer s3cret"}).status_code == 200
    for path in ("/livez", "/readyz", "/metrics", "/", "/docs", "/openapi.json"):
        assert api.get(path).status_code == 200, path


def test_metrics_can_be_kept_from_the_public(open_api: Any, learner: Any) -> None:
    api = open_api(api_token=SecretStr("s3cret"), public_metrics=False)
    assert api.get("/metrics").status_code == 401
    assert api.get("/metrics", headers={"authorization": "Bearer s3cret"}).status_code == 200


def test_without_a_token_set_none_is_needed(open_api: Any, learner: Any) -> None:
    assert open_api(public_metrics=False).get("/metrics").status_code == 200


def test_unknown_routes_and_methods_are_problems(api: Any) -> None:
    missing = api.get("/v1/nothing")
    assert missing.status_code == 404
    assert missing.headers["content-type"] == "application/problem+json"
    assert missing.json()["detail"] == "there is no /v1/nothing; /docs lists every route"
    wrong = api.get("/v1/predictions")
    assert wrong.status_code == 405
    assert wrong.headers["content-type"] == "application/problem+json"
    assert wrong.headers["allow"] == "POST"
    assert wrong.json()["detail"] == "/v1/predictions doesn't take GET"


def test_a_crash_is_a_problem_with_an_id_that_the_logs_have(
    api: Any, learner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any) -> Any:
        raise ZeroDivisionError("a secret of the inside")

    monkeypatch.setattr(AttachedModel, "predict", crash)
    with capture_logs() as logs:
        response = api.post("/v1/predictions", json={"instances": [{}]})
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    request_id = response.json()["request_id"]
    assert request_id in response.json()["detail"]
    (line,) = [line for line in logs if line.get("request_id") == request_id]
    assert line["event"] == "request failed"
    assert line["exc_info"]
    labels = (("method", "POST"), ("route", "/v1/predictions"), ("status", "500"))
    assert read_metrics(api)["flexihash_http_request_seconds_count", labels] == 1


def test_a_client_that_leaves_is_no_crash(api: Any) -> None:
    sent: list[Any] = []

    async def leave() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json"), (b"content-length", b"10")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/predictions",
            "raw_path": b"/v1/predictions",
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "http_version": "1.1",
            "scheme": "http",
        }
        await api.app(scope, receive, send)

    with capture_logs() as logs:
        api.run(leave())
    assert sent == []
    assert logs == []
    labels = (("method", "POST"), ("route", "/v1/predictions"), ("status", "499"))
    assert read_metrics(api)["flexihash_http_request_seconds_count", labels] == 1


@pytest.mark.parametrize("path", GET_PATHS)
def test_head_is_answered_as_get_without_the_body(api: Any, learner: Any, path: str) -> None:
    head, get = api.call("HEAD", path), api.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert get.content
    for name in ("content-type", "content-security-policy", "cache-control"):
        assert head.headers[name] == get.headers[name]
    assert "content-length" in head.headers
    if path.startswith("/v1/"):
        labels = (("method", "HEAD"), ("route", path), ("status", "200"))
        assert read_metrics(api)["flexihash_http_request_seconds_count", labels] == 1


def test_head_needs_the_token_and_a_route_to_get(open_api: Any, learner: Any) -> None:
    api = open_api(api_token=SecretStr("s3cret"))
    assert api.call("HEAD", "/v1/model").status_code == 401
    assert api.call("HEAD", "/v1/nothing").status_code == 404
    wrong = api.call("HEAD", "/v1/predictions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert api.call("DELETE", "/v1/checkpoints").headers["allow"] == "GET, HEAD, POST"


def test_answers_carry_security_headers_and_an_id(api: Any) -> None:
    first, second = api.get("/livez"), api.get("/livez")
    assert first.headers["x-content-type-options"] == "nosniff"
    assert first.headers["cache-control"] == "no-store"
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


def test_the_front_page_shows_the_way(api: Any) -> None:
    for path in api.get("/").json().values():
        if path.startswith("/"):
            assert api.get(path).status_code == 200, path

"""What operators see: Prometheus metrics, and each request observed under an id that its logs and problems carry."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flexihash.consumer.outcomes import REASONS
from flexihash.consumer.status import UNLABELLED, CheckpointStatus, LearnerStatus
from flexihash.model.rates import most_frequent
from flexihash.service.doors import Cause
from flexihash.service.memory import Memory
from flexihash.service.problems import Problem, render_problem, unavailable
from flexihash.service.shared_metrics import FOLDER_VARIABLE

CLIENT_GONE = 499  # nginx's number, in the metrics only: nobody is left to answer
BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
SECURITY_HEADERS = {  # of every answer that has no other
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
SECURITY_FIELDS = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
EMBEDDING_LOSSES = {
    "loss": "Log loss of telling a real feature from a drawn one, before learning, over all events or a window.",
    "chance_loss": "The same loss of who knows only how many of them are real.",
}
OF_CLASSES = {
    "count": "Events of one of the 20 most frequent classes or labels, over all events or a window.",
    "precision": "Share of them among the events of which that class or label was predicted.",
    "recall": "Share of the events of that class or label of which it was predicted.",
}

log = structlog.stdlib.get_logger("api")


class Metrics:
    """The metrics of this service: its requests, over all its API processes, and its learner."""

    def __init__(self, memory: Memory) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # else each series has a second one, when it began
        self._learner = LearnerCollector(memory)
        self._registry = CollectorRegistry()
        self.request_seconds = Histogram(
            "flexihash_http_request_seconds",
            "Time to answer a request; its count is the number of requests.",
            ("method", "route", "status"),
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._closed = Counter(
            "flexihash_http_closed_connections",
            "Connections that were closed for what their clients did, or to make room for others, by cause.",
            ("cause",),
            registry=self._registry,
        )
        for cause in get_args(Cause):
            self._closed.labels(cause)
        self._registry.register(self._learner)

    def count_closed(self, cause: Cause) -> None:
        """Counts a connection that was closed against its client's will."""
        self._closed.labels(cause).inc()

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._gather() if os.environ.get(FOLDER_VARIABLE) else self._registry)

    def _gather(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        registry.register(self._learner)
        return registry


class LearnerCollector(Collector):
    """The learner's status as metrics.

    All of them are gauges: after a crash the counts fall back to those of the checkpoint, where a counter would make
    Prometheus believe in a restart from zero.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The metrics now; without a status only that the learner is not up."""
        is_up = self._memory.explain_learner() is None
        yield _gauge("learner_up", "1 while the learner learns and reports, else 0.", is_up)
        if (status := self._memory.status) is not None:
            yield from _describe_progress(status)
            yield from _describe_rejections(status)
            yield from _describe_positions(status)
            yield from _describe_quality(status.metrics)
            yield from _describe_targets(status.metrics.get("targets", {}))
            yield from _describe_classes(status.metrics)
            yield from self._describe_embeddings(status.metrics.get("embeddings", {}))
            yield from _describe_checkpoint(status.checkpoint)

    def _describe_embeddings(self, report: Mapping[str, float | None]) -> Iterator[GaugeMetricFamily]:
        for name, text in EMBEDDING_LOSSES.items():
            losses = _family(f"embedding_{name}", text, "over")
            for over, prefix in (("all", ""), ("window", "window_")):
                if (value := report.get(prefix + name)) is not None:
                    losses.add_metric([over], value)
            if losses.samples:
                yield losses
        model = self._memory.model
        if model is not None and (share := model.embedding_occupancy()) is not None:
            yield _gauge("embedding_occupancy", "Share of the rows that have learned a context embedding.", share)


def _describe_progress(status: LearnerStatus) -> Iterator[GaugeMetricFamily]:
    yield _gauge("learner_report_age_seconds", "Time since the learner reported.", status.age_s)
    yield _gauge("events", "Events learned so far.", status.events)
    yield _gauge("events_per_second", "Events learned per second.", status.events_per_second)
    yield _gauge("unlabelled_events", "Events that had no label, so far.", status.unlabelled)


def _describe_rejections(status: LearnerStatus) -> Iterator[GaugeMetricFamily]:
    if status.tables is not None:  # until the checkpoint is restored, what it has counted is not known
        rejected = _family("rejected_events", "Events that could not be learned so far, by reason.", "reason")
        for reason, n_events in sorted((dict.fromkeys(REASONS, 0) | status.rejected).items()):
            rejected.add_metric([reason], n_events)
        yield rejected
    text = "1 while most of the last 1,000 records teach nothing, with the most frequent reason; else 0."
    fruitless = _family("fruitless", text, "reason")
    for reason in sorted({*REASONS, UNLABELLED, *status.recent.untaught}):
        fruitless.add_metric([reason], float(status.recent.is_fruitless and reason == status.recent.reason))
    yield fruitless
    letters = status.dead_letters
    yield _gauge("dead_letters_waiting", "Dead letters in memory, on their way to the broker.", letters.waiting)
    yield _gauge("dead_letters_spilled", "Dead letters on the disk, as the broker did not take them.", letters.spilled)


def _describe_positions(status: LearnerStatus) -> Iterator[GaugeMetricFamily]:
    positions = _family("position", "Next offset to learn.", "topic", "partition")
    lag = _family("lag", "Records in the partition that are not yet learned.", "topic", "partition")
    for name, position in sorted(status.positions.items()):
        positions.add_metric(name.rsplit(":", 1), position)
    for name, end in sorted(status.end_positions.items()):
        lag.add_metric(name.rsplit(":", 1), max(0, end - status.positions.get(name, 0)))
    yield positions
    yield lag


def _describe_quality(report: Mapping[str, Any]) -> Iterator[GaugeMetricFamily]:
    text = "Metrics of predictions made before learning, over all events or a window."
    progressive = _family("progressive_metric", text, "metric", "over")
    _add_metrics(progressive, report)
    yield progressive


def _describe_targets(reports: Mapping[str, Mapping[str, Any]]) -> Iterator[GaugeMetricFamily]:
    if not reports:
        return
    text = "The same of each target, where the label is several."
    family = _family("target_metric", text, "target", "metric", "over")
    for target, report in reports.items():
        _add_metrics(family, report, target)
    yield family


def _describe_classes(report: Mapping[str, Any]) -> Iterator[GaugeMetricFamily]:
    if "classes" not in report:
        return
    shown = most_frequent(report["classes"])
    for name, text in OF_CLASSES.items():
        family = _family(f"class_{name}", text, "class", "over")
        for over, metrics in _parts(report):
            for one in shown:
                if (value := metrics["classes"][one][name]) is not None:
                    family.add_metric([one, over], value)
        yield family


def _add_metrics(family: GaugeMetricFamily, report: Mapping[str, Any], *labels: str) -> None:
    for over, metrics in _parts(report):
        for metric, value in metrics.items():
            if isinstance(value, int | float):
                family.add_metric([*labels, metric, over], value)


def _parts(report: Mapping[str, Any]) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    """What is measured over all events and over the last ones."""
    return ("all", report), ("window", report.get("window", {}))


def _describe_checkpoint(checkpoint: CheckpointStatus) -> Iterator[GaugeMetricFamily]:
    yield _gauge("checkpoint_failed", "1 if the last attempt to save failed, else 0.", checkpoint.has_failed)
    yield _gauge("checkpoints_set_aside", "Damaged checkpoints found at the start.", len(checkpoint.set_aside))
    if checkpoint.saved_at is not None:
        yield _gauge("checkpoint_age_seconds", "Time since the newest checkpoint.", time.time() - checkpoint.saved_at)
        yield _gauge("checkpoint_events", "Events in the newest checkpoint.", checkpoint.events)
    for name, text, value in (
        ("checkpoint_duration_seconds", "Time that saving the newest checkpoint took.", checkpoint.duration_s),
        ("checkpoint_pause_seconds", "Time for which that save held up learning.", checkpoint.pause_s),
        ("checkpoint_size_bytes", "Size of the newest checkpoint.", checkpoint.size_bytes),
    ):
        if value is not None:
            yield _gauge(name, text, value)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"flexihash_{name}", text, value=float(value))


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"flexihash_{name}", text, labels=labels)


class RequestObserver:
    """ASGI middleware around everything: request id, security headers, metrics, and the last word on a crash."""

    def __init__(self, app: ASGIApp, request_seconds: Histogram) -> None:
        self._app = app
        self._request_seconds = request_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(uuid.uuid4().hex, send)
        scope.setdefault("state", {})["request_id"] = answer.request_id
        started = time.perf_counter()
        try:
            await self._have_answered(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "none")  # the pattern: a path would be a label without end
            seconds = time.perf_counter() - started
            self._request_seconds.labels(scope["method"], route, answer.status).observe(seconds)

    async def _have_answered(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            await self._app(scope, receive, answer.send)
            return
        except ClientDisconnect:
            answer.status = CLIENT_GONE
            return
        except asyncio.CancelledError:  # uvicorn's grace period is over: this is the last moment to say so
            problem = unavailable("the service is stopping; send the request again", "stopping")
        except Exception:
            log.exception("request failed", request_id=answer.request_id, method=scope["method"], path=scope["path"])
            detail = f"the service failed on this request; its logs say why under request_id {answer.request_id}"
            problem = Problem(500, detail)
        if answer.status == 0:
            await render_problem(problem, answer.request_id)(scope, receive, answer.send)


class _Answer:
    """One request's answer on its way out; `status` is 0 until it has begun."""

    def __init__(self, request_id: str, send: Send) -> None:
        self.request_id = request_id
        self.status = 0
        self._send = send

    async def send(self, message: Message) -> None:
        """Pass on a part of the answer; the first one gets its headers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name for name, _ in message["headers"]}
            ours = [(b"x-request-id", self.request_id.encode()), *SECURITY_FIELDS]
            message["headers"] = [*message["headers"], *(field for field in ours if field[0] not in given)]
        await self._send(message)

"""The routes of the HTTP API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from flexihash.consumer.consumer_errors import ConsumerError
from flexihash.consumer.status import CHECKPOINT_REQUEST, CheckpointStatus
from flexihash.model.checkpoint.checkpoint_errors import CheckpointUnreadable
from flexihash.model.checkpoint.store import CheckpointInfo
from flexihash.model.features import Batch
from flexihash.service.access import require_metrics_token, require_token
from flexihash.service.advice import advise
from flexihash.service.bodies import (
    JSON,
    NDJSON,
    check_content_type,
    hash_instances,
    read_body,
    split_events,
    split_instances,
)
from flexihash.service.memory import AttachedModel
from flexihash.service.messages import (
    Checkpoint,
    Checkpoints,
    Embeddings,
    Health,
    Index,
    Learner,
    Model,
    Predictions,
    Published,
    Saved,
    Version,
)
from flexihash.service.openapi import EVENTS_BODY, INSTANCES_BODY, describe_answers
from flexihash.service.parts import Parts
from flexihash.service.problems import Problem, unavailable

CHUNK_INSTANCES = 256  # answered in one go, in some milliseconds; then other requests have their turn
CHECKPOINT_TIMEOUT_S = 60.0  # gigabytes of tables take this long on a slow disk
CHECKPOINT_POLL_S = 0.05

Item = TypeVar("Item")
Compute = Callable[[AttachedModel, Batch], Awaitable[tuple[list[Item], Version]]]

public = APIRouter(tags=["operation"])
v1 = APIRouter(prefix="/v1", dependencies=[Depends(require_token)], default_response_class=Response)


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def _answer(message: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(message), status, media_type=JSON)


@v1.post(
    "/embeddings",
    tags=["answers"],
    responses=describe_answers(Embeddings, 400, 401, 408, 413, 415, 422, 503),
    openapi_extra={"requestBody": INSTANCES_BODY},
)
async def embed(request: Request) -> Response:
    """The embedding of each instance: the sum of what its features have learned. Zeros for one without features."""
    return _answer(Embeddings(*await _compute(request, AttachedModel.embed)))


@v1.post(
    "/predictions",
    tags=["answers"],
    responses=describe_answers(Predictions, 400, 401, 408, 413, 415, 422, 503),
    openapi_extra={"requestBody": INSTANCES_BODY},
)
async def predict(request: Request) -> Response:
    """What the label of each instance will be. One without features gets the prior: what is known of labels alone."""
    return _answer(Predictions(*await _compute(request, AttachedModel.predict)))


async def _compute(request: Request, compute: Compute[Item]) -> tuple[list[Item], Version]:
    """`compute` over the request's instances, chunk by chunk; the version is that of the last chunk."""
    parts = _parts(request)
    check_content_type(request, JSON)
    body = await read_body(request, parts.settings.max_body_bytes)
    model = parts.memory.model
    if model is None:
        raise unavailable(f"there is no model to answer with yet: {parts.memory.explain_unready()}", "no_model")
    instances = split_instances(body, parts.decoder, parts.settings.max_instances)
    answers: list[Item] = []
    for begin in range(0, max(1, len(instances)), CHUNK_INSTANCES):
        if begin:
            await asyncio.sleep(0)
        chunk = instances[begin : begin + CHUNK_INSTANCES]
        some, version = await compute(model, hash_instances(chunk, begin, parts.decoder, model.n_rows))
        answers += some
    return answers, version


@v1.post(
    "/events",
    tags=["events"],
    responses=describe_answers(Published, 400, 401, 408, 413, 415, 422, 503),
    openapi_extra={"requestBody": EVENTS_BODY},
)
async def publish(request: Request) -> Response:
    """Publishes events to the topic, all or, where one of them is wrong, none. They are learned a moment later."""
    parts = _parts(request)
    media_type = check_content_type(request, JSON, NDJSON)
    body = await read_body(request, parts.settings.max_body_bytes)

    def check_and_publish() -> Published:
        events = split_events(body, media_type, parts.decoder, parts.settings.max_instances)
        positions: dict[str, int] = {}
        for partition, offset in parts.publisher.publish(events):
            name = f"{parts.settings.topic}:{partition}"
            positions[name] = max(offset + 1, positions.get(name, 0))
        return Published(len(events), positions)

    try:
        return _answer(await parts.publish(check_and_publish))
    except ConsumerError as error:
        detail = f"the events were not published: {advise(error)}"
        raise unavailable(detail, "broker") if error.retriable else Problem(503, detail, reason="broker") from error


@v1.get("/model", tags=["model"], responses=describe_answers(Model, 401, 503))
async def describe_model(request: Request) -> Response:
    """What the model is, how far it has come, how good it is, and how its learner fares."""
    parts = _parts(request)
    model, status = parts.memory.model, parts.memory.status
    return _answer(
        Model(
            configuration=parts.describe_settings(),
            version=await model.read_version() if model else None,
            metrics=status.metrics if status else {},
            occupancy=await asyncio.to_thread(model.occupancy) if model else None,
            learner=_describe_learner(parts),
        )
    )


def _describe_learner(parts: Parts) -> Learner | None:
    status = parts.memory.status
    if status is None:
        return None
    return Learner(
        state=status.state,
        problem=parts.memory.explain_learner(),
        age_s=status.age_s,
        started_at=status.started_at,
        events_per_second=status.events_per_second,
        lag=status.lag,
        positions=status.positions,
        end_positions=status.end_positions,
        rejected=status.rejected,
        unlabelled=status.unlabelled,
        dead_letters=status.dead_letters,
        checkpoint=status.checkpoint,
    )


@v1.post(
    "/checkpoints",
    tags=["model"],
    status_code=201,
    responses=describe_answers(Saved, 401, 408, 413, 503, 504, status=201),
)
async def save_checkpoint(request: Request) -> Response:
    """Saves a checkpoint now and waits until it is on the disk."""
    parts = _parts(request)
    await read_body(request, parts.settings.max_body_bytes)  # there is nothing in it; but none is left unread
    requested_at = time.time()
    _require_learner(parts)
    (parts.memory.directory / CHECKPOINT_REQUEST).touch()
    while time.time() < requested_at + CHECKPOINT_TIMEOUT_S:
        await asyncio.sleep(CHECKPOINT_POLL_S)
        parts.memory.refresh()
        checkpoint = _require_learner(parts)
        if checkpoint.saved_at is not None and checkpoint.saved_at >= requested_at:
            return _answer(_describe_saved(checkpoint), 201)
        if checkpoint.failed_at is not None and checkpoint.failed_at >= requested_at:
            raise Problem(500, f"the checkpoint was not saved: {checkpoint.error}", reason="checkpoint")
    raise Problem(504, f"no checkpoint was saved within {CHECKPOINT_TIMEOUT_S:.0f} s", reason="timeout")


def _require_learner(parts: Parts) -> CheckpointStatus:
    reason = parts.memory.explain_learner()
    if reason is not None or parts.memory.status is None:
        raise unavailable(f"there is no learner to save a checkpoint: {reason}", "no_learner")
    return parts.memory.status.checkpoint


def _describe_saved(checkpoint: CheckpointStatus) -> Saved:
    assert checkpoint.path is not None
    assert checkpoint.saved_at is not None
    return Saved(
        path=checkpoint.path,
        events=checkpoint.events,
        saved_at=checkpoint.saved_at,
        duration_s=checkpoint.duration_s,
        pause_s=checkpoint.pause_s,
        size_bytes=checkpoint.size_bytes,
    )


@v1.get("/checkpoints", tags=["model"], responses=describe_answers(Checkpoints, 401, 500))
async def list_checkpoints(request: Request) -> Response:
    """The checkpoints on the disk, newest first, damaged ones among them."""
    try:
        found = await asyncio.to_thread(_parts(request).checkpoints.list)
    except CheckpointUnreadable as error:
        raise Problem(500, str(error), reason="checkpoint") from error
    return _answer(Checkpoints([_describe_checkpoint(info) for info in found]))


def _describe_checkpoint(info: CheckpointInfo) -> Checkpoint:
    manifest = info.manifest
    return Checkpoint(
        path=str(info.path),
        events=manifest.events if manifest else None,
        created_at=manifest.created_at if manifest else None,
        positions=manifest.positions if manifest else None,
        size_bytes=info.size_bytes,
        problem=info.problem,
    )


@public.get("/", responses=describe_answers(Index), response_class=Response)
async def show_index() -> Response:
    """Where to go from here."""
    return _answer(
        Index("flexihash", documentation="/docs", model="/v1/model", readiness="/readyz", metrics="/metrics")
    )


@public.get("/livez", responses=describe_answers(Health), response_class=Response)
async def check_life() -> Response:
    """Whether this process answers at all."""
    return _answer(Health("alive"))


@public.get("/readyz", responses=describe_answers(Health, 503), response_class=Response)
async def check_readiness(request: Request) -> Response:
    """Whether answers follow the stream; the problem says why not. Predictions may be answered all the same."""
    memory = _parts(request).memory
    if reason := memory.explain_unready():
        raise unavailable(f"not ready: {reason}", "not_ready")
    return _answer(Health("ready", memory.warnings()))


METRICS_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Prometheus' text format", "content": {"text/plain": {"schema": {"type": "string"}}}},
    401: describe_answers(Health, 401)[401],
}


@public.get(
    "/metrics", dependencies=[Depends(require_metrics_token)], responses=METRICS_ANSWERS, response_class=Response
)
async def show_metrics(request: Request) -> Response:
    """Metrics of the learner and of this API, for Prometheus."""
    return Response(_parts(request).metrics.render(), media_type=CONTENT_TYPE_LATEST)

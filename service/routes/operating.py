"""What runs the service asks for: where to go, life, readiness, metrics."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from flexihash.service.access import require_metrics_token
from flexihash.service.messages import Health, Index
from flexihash.service.openapi import describe_answers
from flexihash.service.problems import unavailable
from flexihash.service.routes.responding import name_operation, parts_of, respond

METRICS_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Prometheus' text format", "content": {"text/plain": {"schema": {"type": "string"}}}},
    401: describe_answers(Health, 401)[401],
}

router = APIRouter(tags=["operation"], default_response_class=Response, generate_unique_id_function=name_operation)


@router.get("/", responses=describe_answers(Index))
async def show_index() -> Response:
    """Where to go from here."""
    return respond(
        Index("flexihash", documentation="/docs", model="/v1/model", readiness="/readyz", metrics="/metrics")
    )


@router.get("/livez", responses=describe_answers(Health))
async def check_life() -> Response:
    """Whether this process answers at all."""
    return respond(Health("alive"))


@router.get("/readyz", responses=describe_answers(Health, 503))
async def check_readiness(request: Request) -> Response:
    """Whether answers follow the stream; the problem says why not. Predictions may be answered all the same."""
    memory = parts_of(request).memory
    if reason := memory.explain_unready():
        raise unavailable(f"not ready: {reason}", "not_ready")
    return respond(Health("ready", memory.warnings()))


@router.get("/metrics", dependencies=[Depends(require_metrics_token)], responses=METRICS_ANSWERS)
async def show_metrics(request: Request) -> Response:
    """Metrics of the learner and of this API, for Prometheus."""
    metrics = await asyncio.to_thread(parts_of(request).metrics.render)  # looks at a column of the whole table
    return Response(metrics, media_type=CONTENT_TYPE_LATEST)

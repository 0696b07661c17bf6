"""What the model is, and how its learner fares."""

from __future__ import annotations

import asyncio

from fastapi import Request, Response

from flexihash.service.messages import Learner, Model
from flexihash.service.openapi import describe_answers
from flexihash.service.parts import Parts
from flexihash.service.routes.responding import make_router, parts_of, respond

router = make_router("model")


@router.get("/model", responses=describe_answers(Model, 401, 503))
async def describe_model(request: Request) -> Response:
    """What the model is, how far it has come, how good it is, and how its learner fares."""
    parts = parts_of(request)
    model = parts.memory.model
    version, report = await model.read_progress() if model else (None, dict)
    return respond(
        Model(
            configuration=parts.describe_settings(),
            version=version,
            metrics=await asyncio.to_thread(report),
            occupancy=await asyncio.to_thread(model.occupancy) if model else None,
            embedding_occupancy=await asyncio.to_thread(model.embedding_occupancy) if model else None,
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
        recent=status.recent,
        dead_letters=status.dead_letters,
        checkpoint=status.checkpoint,
    )

"""Checkpoints: those on the disk, and saving one now."""

from __future__ import annotations

import asyncio
import time

from fastapi import Request, Response

from flexihash.consumer.status import CHECKPOINT_REQUEST, CheckpointStatus
from flexihash.model.checkpoint.checkpoint_errors import CheckpointUnreadable
from flexihash.model.checkpoint.store import CheckpointInfo
from flexihash.service.bodies import read_body
from flexihash.service.folders import FILE_MODE
from flexihash.service.messages import Checkpoint, Checkpoints, Saved
from flexihash.service.openapi import describe_answers
from flexihash.service.parts import Parts
from flexihash.service.problems import Problem, unavailable
from flexihash.service.routes.responding import make_router, parts_of, respond

CHECKPOINT_TIMEOUT_S = 60.0  # gigabytes of tables take this long on a slow disk
CHECKPOINT_POLL_S = 0.05

router = make_router("model")


@router.post(
    "/checkpoints",
    status_code=201,
    responses=describe_answers(Saved, 401, 408, 413, 503, 504, status=201),
)
async def save_checkpoint(request: Request) -> Response:
    """Saves a checkpoint now and waits until it is on the disk."""
    parts = parts_of(request)
    await read_body(request, parts.settings.max_body_bytes)  # there is nothing in it; but none is left unread
    with parts.saving:
        return await _save(parts)


async def _save(parts: Parts) -> Response:
    requested_at = time.time()
    _require_learner(parts)
    try:
        (parts.memory.directory / CHECKPOINT_REQUEST).touch(FILE_MODE)
    except OSError as error:
        raise unavailable(
            f"cannot ask the learner in {parts.memory.directory}: {error.strerror}", "no_learner"
        ) from error
    while time.time() < requested_at + CHECKPOINT_TIMEOUT_S:
        await asyncio.sleep(CHECKPOINT_POLL_S)
        parts.memory.refresh()
        checkpoint = _require_learner(parts)
        if checkpoint.saved_at is not None and checkpoint.saved_at >= requested_at:
            return respond(_describe_saved(checkpoint), 201)
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


@router.get("/checkpoints", responses=describe_answers(Checkpoints, 401, 500))
async def list_checkpoints(request: Request) -> Response:
    """The checkpoints on the disk, newest first, damaged ones among them."""
    try:
        found = await asyncio.to_thread(parts_of(request).checkpoints.list)
    except CheckpointUnreadable as error:
        raise Problem(500, str(error), reason="checkpoint") from error
    return respond(Checkpoints([_describe_checkpoint(info) for info in found]))


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

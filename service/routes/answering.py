"""What the model makes of instances: embeddings and predictions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
from fastapi import Request, Response
from starlette.responses import StreamingResponse

from flexihash.model.pooled import Embedded
from flexihash.service.answer_forms import WRITERS, Answer, choose_form
from flexihash.service.bodies import (
    JSON,
    NDJSON,
    InstancesToEmbed,
    InstancesToPredict,
    RawInstances,
    check_content_type,
    check_count,
    read_choice,
    split_body,
)
from flexihash.service.bulk import hold_of, read_lines
from flexihash.service.memory import AttachedModel
from flexihash.service.messages import Embeddings, Predictions, Version
from flexihash.service.openapi import CHOICE_PARAMETERS, EMBED_BODY, INSTANCES_BODY, describe_answers
from flexihash.service.parts import Parts
from flexihash.service.problems import Problem
from flexihash.service.routes.computing import CHUNK_INSTANCES, Compute, compute_chunks, read_in_turn
from flexihash.service.routes.responding import make_router, parts_of, respond

VERSION_HEADER = "x-flexihash-version"  # where the answer has no place for it
MAX_HEADER_BYTES = 4_096  # what every client and proxy takes; the positions of some hundred partitions

router = make_router("answers")


@router.post(
    "/embeddings",
    responses=describe_answers(Embeddings, 400, 401, 406, 408, 409, 413, 415, 422, 503, forms=WRITERS),
    openapi_extra={"requestBody": EMBED_BODY, "parameters": CHOICE_PARAMETERS},
)
async def embed(request: Request) -> Response:
    """The embedding of each instance: of the vectors that its features have learned. Zeros for one without features."""
    media_type = check_content_type(request, JSON, NDJSON)
    form = choose_form(request.headers.get("accept", ""), media_type)
    embedded, version = await (_embed_lines if media_type == NDJSON else _embed_body)(request)
    if form == JSON:
        columns = (_list(embedded, name) for name in ("vectors", "known", "features"))
        return respond(Embeddings(next(columns), version, *columns))
    headers = {VERSION_HEADER: _describe_version(version)}
    return StreamingResponse(_send(WRITERS[form](Answer(embedded, version))), headers=headers, media_type=form)


async def _embed_body(request: Request) -> Answer:
    parts, queried = parts_of(request), read_choice(request)
    async with read_in_turn(request) as body:
        asked = split_body(body, InstancesToEmbed, parts.decoder)
        check_count(len(asked.instances), parts.settings.max_instances, "instances")
        compute = partial(AttachedModel.embed, choice=asked.over(queried))
        return Answer(*await compute_chunks(parts, asked.instances, compute))


async def _embed_lines(request: Request) -> Answer:
    """Of as many instances as a client may send in one go, the embeddings alone are held until the last has come.

    That the choice can be had is seen before they come.
    """
    parts, hold = parts_of(request), hold_of(request)
    limits = parts.settings.max_body_bytes, parts.settings.max_instances
    compute = partial(AttachedModel.embed, choice=read_choice(request))
    embedded, version = await compute_chunks(parts, [], compute)
    n_before = 0
    async for lines in read_lines(request, *limits, CHUNK_INSTANCES):
        some, version = await compute_chunks(parts, lines, compute, first=n_before)
        embedded += some
        n_before += len(lines)
        hold(sum(column.nbytes for one in some for column in one))
        await asyncio.sleep(0)
    if not n_before:
        raise Problem(422, "there are no instances in the body", reason="shape")
    return Answer(embedded, version)


def _describe_version(version: Version) -> str:
    encoded = msgspec.json.encode(version)
    if len(encoded) > MAX_HEADER_BYTES:
        encoded = msgspec.json.encode({"events": version.events})
    return encoded.decode()


async def _send(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)


def _list(chunks: Sequence[Embedded], name: str) -> list[Any]:
    return [one for chunk in chunks for one in getattr(chunk, name).tolist()]


@router.post(
    "/predictions",
    responses=describe_answers(Predictions, 400, 401, 408, 413, 415, 422, 503),
    openapi_extra={"requestBody": INSTANCES_BODY},
)
async def predict(request: Request) -> Response:
    """What the label of each instance will be. One without features gets the prior: what is known of labels alone."""
    parts = parts_of(request)
    async with read_in_turn(request) as body:
        instances, compute = _read_instances(body, parts)
        check_count(len(instances), parts.settings.max_instances, "instances")
        return respond(Predictions(*await compute_chunks(parts, instances, compute)))


def _read_instances(body: bytes, parts: Parts) -> tuple[list[msgspec.Raw], Compute[Any]]:
    """The instances, and what predicts them: of classes and labels as many as are asked for."""
    if parts.settings.task.record.has_classes:
        asked = split_body(body, InstancesToPredict, parts.decoder)
        return asked.instances, partial(AttachedModel.predict, top_k=asked.top_k)
    return split_body(body, RawInstances, parts.decoder).instances, AttachedModel.predict

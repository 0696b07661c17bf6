"""What the model makes of instances: embeddings and predictions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import TypeVar

import msgspec
from fastapi import Request, Response

from flexihash.model.features import Batch
from flexihash.service.bodies import JSON, check_content_type, hash_instances, read_body, split_instances
from flexihash.service.memory import AttachedModel
from flexihash.service.messages import Embeddings, Predictions, Version
from flexihash.service.openapi import INSTANCES_BODY, describe_answers
from flexihash.service.parts import Parts
from flexihash.service.problems import unavailable
from flexihash.service.routes.responding import make_router, parts_of, respond

CHUNK_INSTANCES = 256  # answered in one go, in some milliseconds; then other requests have their turn

Item = TypeVar("Item")
Compute = Callable[[AttachedModel, Batch], Awaitable[tuple[list[Item], Version]]]
Route = Callable[[Request], Awaitable[Response]]

router = make_router("answers")


def _answers_instances(path: str, answer: type[msgspec.Struct]) -> Callable[[Route], Route]:
    """A route that takes instances and answers with something for each."""
    return router.post(
        path,
        responses=describe_answers(answer, 400, 401, 408, 413, 415, 422, 503),
        openapi_extra={"requestBody": INSTANCES_BODY},
    )


@_answers_instances("/embeddings", Embeddings)
async def embed(request: Request) -> Response:
    """The embedding of each instance: the sum of what its features have learned. Zeros for one without features."""
    answers, version = await _compute(request, AttachedModel.embed)
    vectors, n_known, n_features = map(list, zip(*answers, strict=True)) if answers else ([], [], [])
    return respond(Embeddings(vectors, version, n_known, n_features))


@_answers_instances("/predictions", Predictions)
async def predict(request: Request) -> Response:
    """What the label of each instance will be. One without features gets the prior: what is known of labels alone."""
    return respond(Predictions(*await _compute(request, AttachedModel.predict)))


async def _compute(request: Request, compute: Compute[Item]) -> tuple[list[Item], Version]:
    """`compute` over the request's instances, chunk by chunk; the version is that of the last chunk."""
    check_content_type(request, JSON)
    body = await read_body(request, parts_of(request).settings.max_body_bytes)
    may_be_large = body.count(b"{") > CHUNK_INSTANCES
    async with parts_of(request).large if may_be_large else nullcontext():
        return await _compute_chunks(parts_of(request), body, compute)


async def _compute_chunks(parts: Parts, body: bytes, compute: Compute[Item]) -> tuple[list[Item], Version]:
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

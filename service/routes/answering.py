"""What the model makes of instances: embeddings and predictions."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import Request, Response

from flexihash.model.pooled import Embedded
from flexihash.service.bodies import InstancesToEmbed, RawInstances, check_count, split_body
from flexihash.service.memory import AttachedModel
from flexihash.service.messages import Embeddings, Predictions
from flexihash.service.openapi import EMBED_BODY, INSTANCES_BODY, describe_answers
from flexihash.service.routes.computing import compute_chunks, read_in_turn
from flexihash.service.routes.responding import make_router, parts_of, respond

router = make_router("answers")


@router.post(
    "/embeddings",
    responses=describe_answers(Embeddings, 400, 401, 408, 409, 413, 415, 422, 503),
    openapi_extra={"requestBody": EMBED_BODY},
)
async def embed(request: Request) -> Response:
    """The embedding of each instance: of the vectors that its features have learned. Zeros for one without features."""
    parts = parts_of(request)
    async with read_in_turn(request) as body:
        asked = split_body(body, InstancesToEmbed, parts.decoder)
        check_count(len(asked.instances), parts.settings.max_instances, "instances")
        chunks, version = await compute_chunks(parts, asked.instances, partial(AttachedModel.embed, choice=asked))
    return respond(Embeddings(_list(chunks, "vectors"), version, _list(chunks, "known"), _list(chunks, "features")))


def _list(chunks: list[Embedded], name: str) -> list[Any]:
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
        instances = split_body(body, RawInstances, parts.decoder).instances
        check_count(len(instances), parts.settings.max_instances, "instances")
        return respond(Predictions(*await compute_chunks(parts, instances, AttachedModel.predict)))

"""How near instances are to one another, by their embeddings."""

from __future__ import annotations

from functools import partial

import msgspec
import numpy as np
from fastapi import Request, Response
from numpy.typing import NDArray

from flexihash.service.bodies import QUERY, RawComparison, check_count, split_body
from flexihash.service.memory import AttachedModel
from flexihash.service.messages import Similarities
from flexihash.service.openapi import COMPARISON_BODY, describe_answers
from flexihash.service.routes.computing import compute_chunks, read_in_turn
from flexihash.service.routes.responding import make_router, parts_of, respond

CHUNK_CANDIDATES = 1024  # they are most often of one feature, and answered with one number

router = make_router("answers")


@router.post(
    "/similarities",
    responses=describe_answers(Similarities, 400, 401, 408, 409, 413, 415, 422, 503),
    openapi_extra={"requestBody": COMPARISON_BODY},
)
async def compare(request: Request) -> Response:
    """The cosine between the query's embedding and each candidate's, in their order; null where one is all zeros."""
    parts = parts_of(request)
    async with read_in_turn(request) as body:
        asked = split_body(body, RawComparison, parts.decoder)
        check_count(len(asked.candidates), parts.settings.max_instances, "candidates")
        compute = partial(AttachedModel.embed, choice=msgspec.structs.replace(asked, normalize=True))
        (query,), _ = await compute_chunks(parts, [asked.query], compute, QUERY)
        found, version = await compute_chunks(parts, asked.candidates, compute, "candidates", CHUNK_CANDIDATES)
    return respond(Similarities([one for some in found for one in _compare(query.vectors[0], some.vectors)], version))


def _compare(query: NDArray[np.float32], candidates: NDArray[np.float32]) -> list[float | None]:
    """Cosines of vectors of length 1 or 0; None with one of 0."""
    cosines = np.clip(candidates.astype(np.float64) @ query.astype(np.float64), -1.0, 1.0)
    is_defined: list[bool] = np.logical_and(candidates.any(1), query.any()).tolist()
    return [cosine if defined else None for cosine, defined in zip(cosines.tolist(), is_defined, strict=True)]

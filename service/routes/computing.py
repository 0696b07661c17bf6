"""What routes have computed of instances: chunk by chunk, so that others need not wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import Request

from flexihash.model.features import Batch
from flexihash.model.model_errors import ConfigurationError
from flexihash.service.advice import advise
from flexihash.service.bodies import JSON, check_content_type, hash_instances, read_body
from flexihash.service.memory import AttachedModel
from flexihash.service.messages import Version
from flexihash.service.parts import Parts
from flexihash.service.problems import Problem, unavailable
from flexihash.service.routes.responding import parts_of

CHUNK_INSTANCES = 256  # answered in one go, in some milliseconds; then other requests have their turn

Item = TypeVar("Item")
Compute = Callable[[AttachedModel, Batch], Awaitable[tuple[list[Item], Version]]]


@asynccontextmanager
async def read_in_turn(request: Request) -> AsyncIterator[bytes]:
    """The body of JSON; one that may hold many instances is worked on only when few others of that kind are."""
    parts = parts_of(request)
    check_content_type(request, JSON)
    body = await read_body(request, parts.settings.max_body_bytes)
    if body.count(b"{") <= CHUNK_INSTANCES:
        yield body
        return
    async with parts.large:
        yield body


async def compute_chunks(
    parts: Parts,
    instances: Sequence[bytes],
    compute: Compute[Item],
    name: str = "instances",
    size: int = CHUNK_INSTANCES,
    first: int = 0,
) -> tuple[list[Item], Version]:
    """`compute` over instances, `size` at a time; the version is that of the last chunk.

    Args:
        name: of the list that they are in the request; `first`: place of the first of them there.

    Raises:
        Problem: 409, the model does not give what is asked; 422, an instance cannot be used; 503, there is no model.
    """
    model = require_model(parts)
    answers: list[Item] = []
    for begin in range(0, max(1, len(instances)), size):
        if begin:
            await asyncio.sleep(0)
        batch = hash_instances(instances[begin : begin + size], first + begin, parts.decoder, model.n_rows, name)
        try:
            some, version = await compute(model, batch)
        except ConfigurationError as error:
            raise Problem(409, advise(error), reason="choice") from error
        answers += some
    return answers, version


def require_model(parts: Parts) -> AttachedModel:
    """The model that answers.

    Raises:
        Problem: 503; there is none yet.
    """
    if parts.memory.model is None:
        raise unavailable(f"there is no model to answer with yet: {parts.memory.explain_unready()}", "no_model")
    return parts.memory.model

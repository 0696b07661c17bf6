"""What the routes share: who may call, what a request leads to, and how an answer is written."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute

from flexihash.service.access import require_token
from flexihash.service.bodies import JSON
from flexihash.service.parts import Parts


def make_router(tag: str) -> APIRouter:
    """A router for calls on the model, which need the token; its routes stand under `tag` in the document."""
    # The prefix is given here: the metrics would not have that of `include_router` in the names of routes.
    return APIRouter(
        prefix="/v1",
        tags=[tag],
        dependencies=[Depends(require_token)],
        default_response_class=Response,
        generate_unique_id_function=name_operation,
    )


def name_operation(route: APIRoute) -> str:
    """What a route is called in the document, and by the clients that are made from it."""
    return route.name


def parts_of(request: Request) -> Parts:
    """What this API process works with."""
    parts: Parts = request.app.state.parts
    return parts


def respond(message: msgspec.Struct, status: int = 200) -> Response:
    """A message as JSON."""
    return Response(msgspec.json.encode(message), status, media_type=JSON)

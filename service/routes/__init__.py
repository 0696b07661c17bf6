"""The routes of the HTTP API: a file for each thing that is asked about, put together here."""

from __future__ import annotations

from fastapi import FastAPI

from flexihash.service.routes import answering, checkpointing, comparing, describing, operating, publishing


def include_routes(app: FastAPI) -> None:
    """Gives the API all of its routes. Side by side: in routers of its own each would cost every request more."""
    for part in (operating, answering, comparing, publishing, describing, checkpointing):
        app.router.routes.extend(part.router.routes)

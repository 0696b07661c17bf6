"""The HTTP API as an ASGI app, and the process that serves it on an inherited socket."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, cast

import structlog
import torch
import uvicorn
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from flexihash.service.connections import BoundedProtocol
from flexihash.service.doors import Doors
from flexihash.service.heading import HeadAsGet
from flexihash.service.logs import configure_logs
from flexihash.service.monitoring import RequestObserver
from flexihash.service.openapi import DocumentedApp
from flexihash.service.pages import pages
from flexihash.service.parts import Parts
from flexihash.service.problems import Problem, answer_http_exception, answer_problem
from flexihash.service.routes import include_routes
from flexihash.service.service_errors import SettingsError
from flexihash.service.settings import Settings, load_settings
from flexihash.service.shared_metrics import reserve_files

GRACE_S = 3.0  # for requests under way when told to stop; the supervisor kills after 5
MUST_MEND = 2  # exit code: starting again will not help

DESCRIPTION = """
Predictions and embeddings from a model that learns from a Kafka topic while it serves.

Every error is `application/problem+json` (RFC 9457). Where a token is set, send `Authorization: Bearer <token>`.
"""

log = structlog.stdlib.get_logger("api")


def create_app(settings: Settings) -> FastAPI:
    """The API by these settings; its lifespan follows the learner's memory."""
    parts = Parts(settings)
    app = DocumentedApp(
        title="flexihash",
        version="1",
        description=DESCRIPTION,
        lifespan=_follow_memory,
        docs_url=None,  # FastAPI's loads scripts from elsewhere; ours is in `service.pages`
        redoc_url=None,
        exception_handlers={Problem: answer_problem, HTTPException: answer_http_exception},
    )
    app.state.parts = parts
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestObserver, request_seconds=parts.metrics.request_seconds)
    app.include_router(pages)
    include_routes(app)
    return app


@asynccontextmanager
async def _follow_memory(app: FastAPI) -> AsyncIterator[None]:
    parts: Parts = app.state.parts
    following = asyncio.create_task(parts.memory.follow())
    following.add_done_callback(_report_end)
    try:
        yield
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        await parts.close()


def _report_end(following: asyncio.Task[None]) -> None:
    if not following.cancelled() and (error := following.exception()):
        log.critical("cannot follow the learner any more", exc_info=error)


def create_server(app: ASGIApp, doors: Doors) -> uvicorn.Server:
    """uvicorn for `app`, as we have it, with `doors` that its connections come in by."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=cast(Any, partial(BoundedProtocol, doors)),  # it calls it, and no more
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=int(GRACE_S),
    )
    return uvicorn.Server(config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM, then finishes the requests under way; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flexihash.service.child api", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="file descriptor of the listening socket")
    fd: int = parser.parse_args(arguments).fd
    try:
        settings = load_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return MUST_MEND
    configure_logs(settings, "api")
    reserve_files()
    torch.set_num_threads(1)  # answers are small: to wait for threads that get no core takes longer than the work
    # uvicorn repeats the signal when it is done; without this, it would then kill us.
    signal.signal(signal.SIGTERM, lambda *_: None)
    app = create_app(settings)
    create_server(app, app.state.parts.doors).run(sockets=[socket.socket(fileno=fd)])
    return 0

"""Connections to clients that may be slow, idle or hostile: how many there may be, and how long each may take."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from flexihash.service.messages import ProblemDetails
from flexihash.service.problems import MEDIA_TYPE

MAX_CONNECTIONS = 900  # of one process: below the 1,024 files that a process may commonly have open
HEAD_S = 10.0  # for a whole request head, from the connection or from the head's first byte
DRAIN_S = 30.0  # for a client to take what is written to it
LINGER_S = 1.0  # for a client to take an answer that came before its body was read


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP, where no client holds a connection by being slow.

    uvicorn itself ends a connection that is silent after an answer (`timeout_keep_alive`), and `service.bodies` one
    whose body takes too long. What is added here:

    - a connection without a whole request head within `HEAD_S` is closed;
    - so is one whose client does not take its answer within `DRAIN_S`;
    - a body that is still arriving when the answer is complete is not read on, and the connection closed;
    - beyond `MAX_CONNECTIONS`, the one that has waited longest for a request gives way to the newest.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._waiting_since: float | None = None  # for a request's head; None while there is a request
        self._head_timer: asyncio.TimerHandle | None = None
        self._end_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting_since = time.monotonic()
        self._bound_head()
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._cancel_head_timer()
        self._cancel_end_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._waiting_since is not None:
            self._bound_head()

    def on_headers_complete(self) -> None:
        self._waiting_since = None
        self._cancel_head_timer()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._end_within(DRAIN_S)
        elif self.cycle.response_complete:  # else the next request is there already
            self._waiting_since = time.monotonic()
            if self.cycle.more_body:
                self._end_before_body()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._end_within(DRAIN_S)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._end_within(DRAIN_S)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._cancel_end_timer()

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP by a problem, as every other error."""
        body = msgspec.json.encode(ProblemDetails(title="Bad Request", status=400, detail=msg, reason="not_http"))
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()
        self._end_within(DRAIN_S)

    def _bound_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_before_body(self) -> None:
        """Closes our side first: were all closed while bytes arrive, the client could lose the answer."""
        self._unset_keepalive_if_required()
        self.flow.pause_reading()
        self.transport.write_eof()
        self._end_within(LINGER_S)

    def _end_within(self, seconds: float) -> None:
        self._cancel_end_timer()
        self._end_timer = self.loop.call_later(seconds, self.transport.abort)

    def _cancel_end_timer(self) -> None:
        if self._end_timer is not None:
            self._end_timer.cancel()
            self._end_timer = None

    def _make_room(self) -> None:
        waiting = [
            (other._waiting_since, other)
            for other in self.connections
            if isinstance(other, BoundedProtocol) and other._waiting_since and not other.transport.is_closing()
        ]
        _, longest = min(waiting, key=lambda pair: pair[0])  # this one at least
        longest.transport.abort()

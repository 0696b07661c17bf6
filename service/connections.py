"""Connections to clients that may be slow, greedy or hostile: what each may take, and for how long."""

from __future__ import annotations

import asyncio
import time
import uuid
from functools import partial
from http import HTTPStatus
from typing import Any

import httptools
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from flexihash.service.bulk import HOLD
from flexihash.service.doors import Cause, Client, Doors
from flexihash.service.monitoring import SECURITY_HEADERS
from flexihash.service.problems import RETRY_AFTER_S, Problem, render_problem

MAX_CONNECTIONS = 900  # of one process: below the 1,024 files that a process may commonly have open
MAX_HEAD_BYTES = 65_536  # of a request's head, of a chunk's extensions, of trailers
MAX_HEAD_FIELDS = 100  # each takes some hundred bytes more than itself
MAX_PIPELINED = 32  # requests that wait for the answer to an earlier one; each takes some kilobytes
HEAD_S = 10.0  # for a whole request head, from the connection or from the head's first byte
DRAIN_S = 30.0  # for a client to take what is written to it
LINGER_S = 1.0  # for a client to take an answer that came before its body was read
PATIENCE_S = 5.0  # with a client that could send or take more, before it counts like one that asks for nothing
WORK_S = 60.0  # the same while the client waits for us: the longest answer, a checkpoint, takes so long


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP, where no client holds more than its part of connections, memory and time.

    uvicorn itself ends a connection that is silent after an answer (`timeout_keep_alive`), and `service.bodies` one
    whose body takes too long. What is added here:

    - a connection without a whole request head within `HEAD_S` is closed;
    - so is one whose client does not take its answer within `DRAIN_S`;
    - a body that is still arriving when the answer is complete is not read on, and the connection closed;
    - a head of more than `MAX_HEAD_BYTES` or `MAX_HEAD_FIELDS`, or as much around the pieces of a body, is a 431;
    - trailers are no headers: they are dropped;
    - beyond `MAX_CONNECTIONS`, and where bodies and answers take too much memory, `Doors` says who has to go.
    """

    def __init__(self, doors: Doors, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.owner: Client
        self.due = 0.0
        self._doors = doors
        self._is_asked = False  # there is a request, from its whole head to its answer
        self._is_in_body = False
        self._is_deaf = False  # whatever may still come is not read
        self._n_pending_bytes = 0  # came since there was a whole head, a piece of a body, or a body's end
        self._answered: RequestResponseCycle | None = None  # the oldest of those that came at once
        self._body_bytes: dict[RequestResponseCycle, int] = {}  # of requests that are not yet answered
        self._n_unread_bytes = 0  # of answers that the client has not taken
        self._head_timer: asyncio.TimerHandle | None = None
        self._end_timer: asyncio.TimerHandle | None = None

    # --- what the transport tells -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.due = time.monotonic()
        self.owner = self._doors.enter(self, self.client[0] if self.client else "")
        self._bound_head()
        if self._doors.n_connections > MAX_CONNECTIONS:
            self._doors.make_room(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._doors.leave(self)
        self._hold_answer(0)
        if self._answered is not None:  # uvicorn tells the newest request only
            self._answered.disconnected = True
        for waiting, _ in self.pipeline:
            self._give_back_body(waiting)
        self._cancel_head_timer()
        self._cancel_end_timer()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._unset_keepalive_if_required()
        self._n_pending_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._unsupported_upgrade_warning()
        except httptools.HttpParserError:
            self._refuse(Problem(400, "Invalid HTTP request received.", reason="not_http"), "not_http")
            return
        if self._n_pending_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
        elif not self._is_asked:
            self._bound_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.due = time.monotonic() + PATIENCE_S
        self._end_unread()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._hold_answer(0)
        if not self._is_asked:
            self.due = time.monotonic()
        if not self.transport.is_closing():
            self._cancel_end_timer()

    # --- what the parser finds; to raise stops it -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if len(self.pipeline) == MAX_PIPELINED:
            self._refuse(Problem(400, "too many requests at once", reason="pipelined"), "pipelined")
            raise _Stop
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_body:  # a trailer
            return
        if len(self.headers) == MAX_HEAD_FIELDS:
            self._refuse_head()
            raise _Stop
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers]) > MAX_HEAD_BYTES:
            self._refuse_head()
            raise _Stop
        self._n_pending_bytes = 0
        self._is_asked = self._is_in_body = True
        self.due = time.monotonic() + PATIENCE_S
        self._cancel_head_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._n_pending_bytes = 0
        super().on_body(body)
        if not self.cycle.response_complete:
            self.due = time.monotonic() + PATIENCE_S
            self._hold_body(self.cycle, len(body))
            if self._is_deaf:
                raise _Stop

    def on_message_complete(self) -> None:
        self._n_pending_bytes = 0
        self._is_in_body = False
        if not self.cycle.response_complete:
            self.due = time.monotonic() + WORK_S
        super().on_message_complete()

    # --- what the application does ----------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        self._answered = cycle

        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await self.flow.drain()  # or the client could have us make answers faster than it takes them
                scope[HOLD] = partial(self._hold_body, cycle)
                if not cycle.disconnected:
                    await app(scope, receive, send)
            finally:
                self._give_back_body(cycle)

        super()._start_asgi_task(cycle, run)  # type: ignore[arg-type]

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.flow.write_paused:
            self._hold_answer(self.transport.get_write_buffer_size())
        if self.transport.is_closing():
            self._end_unread()
        elif self.cycle.response_complete:  # else the next request is there already
            self._is_asked = False
            self.due = time.monotonic() + (PATIENCE_S if self.flow.write_paused else 0.0)
            if self.cycle.more_body:
                self._end_before_body()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._end_unread()

    # --- what the doors ask -----------------------------------------------------------------------------------------

    @property
    def n_waiting_bytes(self) -> int:
        """Of a body that is still arriving, of answers that are not taken, and of what these are still made of."""
        is_waiting = self._is_in_body or self.flow.write_paused
        return self._n_unread_bytes + (self._body_bytes.get(self.cycle, 0) if is_waiting else 0)

    def give_way(self, cause: Cause) -> None:
        """Ends it for the sake of others: a request whose body takes their memory with an answer, else at once."""
        is_arriving = self._is_in_body and not self.cycle.response_complete
        if cause == "memory" and is_arriving:
            detail = "too many bodies are arriving at once; send the request again, and all of it without a pause"
            headers = {"retry-after": str(RETRY_AFTER_S)}
            self._refuse(Problem(503, detail, reason="memory", headers=headers), cause)
        else:
            self._abort(cause)
        if is_arriving or self.flow.write_paused:
            self._give_back_body(self.cycle)
        self._hold_answer(0)

    # --- endings ----------------------------------------------------------------------------------------------------

    def _refuse_head(self) -> None:
        detail = f"the request's head is over {MAX_HEAD_BYTES} bytes or {MAX_HEAD_FIELDS} fields; send fewer, or less"
        self._refuse(Problem(431, detail, reason="head_too_large"), "head_too_large")

    def _refuse(self, problem: Problem, cause: Cause) -> None:
        """Reads no more. `problem` is the answer, unless it would be taken for that of an earlier request."""
        if self._is_deaf:
            return
        self._doors.count_closed(cause)
        self._is_deaf = True
        self._cancel_head_timer()
        is_asked = self.cycle is not None and not self.cycle.response_complete
        if is_asked and not self._is_in_body:
            self.cycle.keep_alive = False  # the last request that is whole gets its answer, and then it ends
            self.flow.pause_reading()
        elif is_asked and (self.pipeline or self.cycle.response_started):
            self.transport.abort()
        else:
            if is_asked:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            self._answer(problem)
            self._end_before_body()

    def _answer(self, problem: Problem) -> None:
        request_id = uuid.uuid4().hex
        response = render_problem(problem, request_id)
        fields = {**SECURITY_HEADERS, "x-request-id": request_id, "connection": "close"}
        response.headers.update(fields)
        head = b"".join(b"%s: %s\r\n" % field for field in response.raw_headers)
        status = f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n"
        self.transport.write(status.encode() + head + b"\r\n" + bytes(response.body))

    def _end_before_body(self) -> None:
        """Closes our side first: were all closed while bytes arrive, the client could lose the answer."""
        self._is_deaf = True
        self._unset_keepalive_if_required()
        self._cancel_end_timer()
        self.flow.pause_reading()
        self.transport.write_eof()
        self._end_timer = self.loop.call_later(LINGER_S, self.transport.abort)

    def _abort(self, cause: Cause) -> None:
        self._doors.count_closed(cause)
        self._doors.leave(self)
        self._is_deaf = True
        self.transport.abort()

    # --- bytes and timers -------------------------------------------------------------------------------------------

    def _hold_answer(self, n_bytes: int) -> None:
        more, self._n_unread_bytes = n_bytes - self._n_unread_bytes, n_bytes
        self._hold(more)

    def _hold_body(self, cycle: RequestResponseCycle, n_bytes: int) -> None:
        """Counts a body and what is made of it, or uncounts, below 0, what of the body is no longer held."""
        held = self._body_bytes.get(cycle, 0)
        n_bytes = max(n_bytes, -held)  # all may have been given back already, as it had to give way
        self._body_bytes[cycle] = held + n_bytes
        self._hold(n_bytes)

    def _hold(self, n_bytes: int) -> None:
        if n_bytes > 0:
            self._doors.hold(self.owner, n_bytes)
        elif n_bytes < 0:
            self._doors.give_back(self.owner, -n_bytes)

    def _give_back_body(self, cycle: RequestResponseCycle) -> None:
        self._doors.give_back(self.owner, self._body_bytes.pop(cycle, 0))

    def _bound_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self._abort, "slow_head")

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_unread(self) -> None:
        self._cancel_end_timer()
        self._end_timer = self.loop.call_later(DRAIN_S, self._abort, "slow_answer")

    def _cancel_end_timer(self) -> None:
        if self._end_timer is not None:
            self._end_timer.cancel()
            self._end_timer = None


class _Stop(Exception):
    """Stops the parser."""

"""As many connections as there may be, held by one client: others come in, and it is the client's own that go."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from flexihash.service.connections import MAX_CONNECTIONS
from tests.hostile.clients import BODY, HONEST, HOSTILE, ask, connect, count_closed, peak_bytes, post, serving

UNREAD = b"GET /docs/swagger-ui.js HTTP/1.1\r\nhost: x\r\n\r\n"
HELD = {
    "nothing is asked": b"",
    "a head is not ended": b"GET /livez HTTP/1.1\r\nhost: x\r\n",
    "a body is not sent": post("/v1/predictions", "content-length: 8000"),
    "a body is not sent on": post("/v1/events", "content-length: 8000") + b"{",
    "a body of no route is not sent": post("/no/such/route", "expect: 100-continue", "content-length: 8000"),
    "an answer is not read": UNREAD,
    "many answers are not read": UNREAD * 5,
    "an answer is not made": post("/v1/checkpoints", "content-length: 0"),
}


@pytest.fixture(autouse=True)
def enough_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def hold(worker: Any, request: bytes, n_connections: int, stack: ExitStack, host: str = HOSTILE) -> list[socket.socket]:
    """Connections that send this, and then do nothing."""
    connections = []
    for _ in range(n_connections):
        connection = stack.enter_context(connect(worker, host))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(request)
        connections.append(connection)
    return connections


@pytest.mark.parametrize("kind", HELD)
def test_one_client_does_not_lock_the_others_out(settings: Any, learner: Any, kind: str) -> None:
    with serving(settings, learner) as worker, ExitStack() as stack:
        ask(worker)
        busy = stack.enter_context(connect(worker, HONEST))
        busy.sendall(post("/v1/predictions", f"content-length: {len(BODY)}") + BODY[:5])
        before = peak_bytes(worker)
        hold(worker, HELD[kind], MAX_CONNECTIONS + 50, stack)
        learner.report()
        for _ in range(3):
            ask(worker)
        busy.sendall(BODY[5:])  # it was there before all of them, and has waited the longest
        assert busy.recv(15) == b"HTTP/1.1 200 OK"
        if kind.startswith("a body is not sent"):  # some of the others end by themselves, where we are slow
            assert count_closed(worker)["crowded"] >= 50
        learner.report(state="restoring")  # no checkpoint is waited for any more
        assert peak_bytes(worker) - before < 200_000_000


@pytest.mark.parametrize("kind", ["a body is not sent", "an answer is not read", "an answer is not made"])
def test_behind_one_address_who_waits_the_longest_goes_first(settings: Any, learner: Any, kind: str) -> None:
    limits = "connections.MAX_CONNECTIONS = 40; connections.PATIENCE_S = connections.WORK_S = 0.0"
    with serving(settings, learner, limits) as worker, ExitStack() as stack:
        held = hold(worker, HELD[kind], 40, stack, HONEST)
        hold(worker, b"", 5, stack, HONEST)
        ask(worker)
        assert count_closed(worker)["crowded"] == 6
        assert are_gone(held[:6]) == [True] * 6  # the others are, too, when we are slow to look
        learner.report(state="restoring")


def are_gone(connections: list[socket.socket]) -> list[bool]:
    """Which of them the server has ended; what it had sent is read over."""
    with ThreadPoolExecutor(len(connections)) as readers:
        return list(readers.map(is_gone, connections))


def is_gone(connection: socket.socket) -> bool:
    connection.settimeout(1.0)
    try:
        while connection.recv(65_536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def test_an_honest_client_is_asked_to_go_last(settings: Any, learner: Any) -> None:
    limits = "connections.MAX_CONNECTIONS = 20; connections.HEAD_S = 1e6"
    with serving(settings, learner, limits) as worker, ExitStack() as stack:
        few = hold(worker, b"", 5, stack, HONEST)
        many = hold(worker, b"", 30, stack, HOSTILE)
        assert are_gone(few) == [False] * 5
        assert are_gone(many) == [True] * 15 + [False] * 15


@pytest.mark.parametrize("send", [b"", b"GET /livez HTTP/1.1\r\n\r\n" * 3])
def test_a_process_with_the_usual_number_of_files_takes_a_crowd(settings: Any, learner: Any, send: bytes) -> None:
    limits = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))"
    with serving(settings, learner, limits) as worker, ExitStack() as stack:
        hold(worker, send, 1_800, stack)
        ask(worker)

"""Bodies and answers that fill the memory: as much of them as there may be, and the rest is told to come again."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from flexihash.service.doors import Doors, name_client
from flexihash.service.settings import Settings, load_settings
from tests.hostile.clients import HONEST, HOSTILE, ask, connect, count_closed, peak_bytes, post, receive, serving

BODY_BYTES = 7_900_000
N_BODIES = 150
NEARLY_ALL = b" " * (BODY_BYTES - 100)


@pytest.fixture
def roomy(settings: Settings) -> Settings:
    """The settings with the limits as they come."""
    given = settings.model_dump(include=settings.model_fields_set - {"max_body_bytes", "max_instances"})
    return load_settings(**given)


def send_unread(connection: socket.socket, request: bytes) -> None:
    """Sends a request, as much of it as is taken, and reads no answer."""
    with suppress(ConnectionError):
        connection.sendall(request)


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("path", ["/v1/predictions", "/v1/events"])
def test_bodies_of_one_client_have_their_part_of_the_memory(
    roomy: Settings, learner: Any, framing: str, path: str
) -> None:
    if framing == "length":
        request = post(path, f"content-length: {BODY_BYTES}") + NEARLY_ALL
    else:
        request = post(path, "transfer-encoding: chunked") + b"%x\r\n%s\r\n" % (len(NEARLY_ALL), NEARLY_ALL)
    with serving(roomy, learner) as worker, ExitStack() as stack:
        ask(worker)
        before = peak_bytes(worker)
        held = [stack.enter_context(connect(worker)) for _ in range(N_BODIES)]
        for n_sent, connection in enumerate(held):
            send_unread(connection, request)
            if n_sent % 50 == 20:
                ask(worker, HONEST)
                ask(worker, HOSTILE)
        assert peak_bytes(worker) - before < 200_000_000
        n_refused = count_closed(worker)["memory"]
        assert N_BODIES - 8 <= n_refused <= N_BODIES  # eight of the largest are one client's part
        answers = [receive_now(connection) for connection in held]
        told = [answer for answer in answers if answer]
        assert len(told) > N_BODIES // 2  # a reset may overtake the answer
        for answer in told:
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"\r\nretry-after: 1" in head
            assert json.loads(body)["reason"] == "memory"


def receive_now(connection: socket.socket) -> bytes:
    """What is there already."""
    connection.setblocking(False)
    try:
        return connection.recv(65_536)
    except OSError:
        return b""


def test_a_body_that_goes_on_is_answered_though_others_fill_the_memory(roomy: Settings, learner: Any) -> None:
    body = b'{"instances": [{}]}' + b" " * (BODY_BYTES - 19)
    with serving(roomy, learner) as worker, ExitStack() as stack:
        for _ in range(3):
            for _ in range(20):
                send_unread(
                    stack.enter_context(connect(worker)),
                    post("/v1/events", f"content-length: {BODY_BYTES}") + NEARLY_ALL,
                )
            with connect(worker, HONEST) as honest:
                honest.sendall(post("/v1/predictions", f"content-length: {BODY_BYTES}") + body)
                assert honest.recv(15) == b"HTTP/1.1 200 OK"


def test_answers_that_are_not_read_have_their_part_of_the_memory(roomy: Settings, learner: Any) -> None:
    """Small questions with large answers, several at once, so that they are more than sockets hold."""
    learner.learn({"carrier": "UA"}, 1, times=3)
    instance = b'{"carrier": "UA"}'
    body = b'{"instances": [' + (instance + b",") * 9_999 + instance + b"]}"
    request = post("/v1/embeddings", f"content-length: {len(body)}") + body
    with serving(roomy, learner) as worker, ExitStack() as stack:
        ask(worker)
        before = peak_bytes(worker)
        for _ in range(40):
            connection = stack.enter_context(connect(worker))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            send_unread(connection, request * 3)
        ask(worker)
        with connect(worker, HONEST) as honest:
            honest.sendall(request.replace(b"host: x", b"connection: close"))
            answer = receive(honest)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.count(b"],[") == 9_999
        assert peak_bytes(worker) - before < 150_000_000


@pytest.mark.parametrize("path", ["/v1/predictions", "/v1/events"])
def test_many_small_things_in_many_bodies_are_taken_apart_one_body_at_a_time(
    roomy: Settings, learner: Any, path: str
) -> None:
    """Each of these bodies becomes 0.3 GB, while it is counted what is in it."""
    items = b"1," * (BODY_BYTES // 2 - 20) + b"1]"
    body = b"[" + items if path == "/v1/events" else b'{"instances": [' + items + b"}"
    with serving(roomy, learner) as worker, ExitStack() as stack:
        ask(worker)
        before = peak_bytes(worker)
        held = [stack.enter_context(connect(worker)) for _ in range(6)]
        for connection in held:
            connection.sendall(post(path, f"content-length: {len(body)}") + body[:-1])
        for connection in held:
            connection.sendall(body[-1:])
        for connection in held:
            assert connection.recv(12) == b"HTTP/1.1 413"
        assert peak_bytes(worker) - before < 500_000_000


def test_clients_are_told_apart_by_what_one_of_them_has() -> None:
    assert name_client("192.0.2.1") == name_client("::ffff:192.0.2.1") != name_client("192.0.2.2")
    assert name_client("2001:db8:1:2::3") == name_client("2001:db8:1:2:ffff::4") != name_client("2001:db8:1:3::3")
    assert name_client("fe80::1%eth0") == name_client("fe80::2%eth0")


def test_small_bodies_have_as_much_memory_as_four_megabytes_would() -> None:
    assert Doors(largest_bytes=1_000).max_bytes == 64_000_000
    assert Doors(largest_bytes=8_000_000).max_bytes == 128_000_000

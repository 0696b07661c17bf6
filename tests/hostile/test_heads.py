"""Heads without end, around bodies too, and trailers that would be headers."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from pydantic import SecretStr

from flexihash.service.connections import MAX_HEAD_BYTES, MAX_HEAD_FIELDS, MAX_PIPELINED
from tests.hostile.clients import HOSTILE, ask, connect, count_closed, flood, peak_bytes, post, receive, serving

PIECE_BYTES = 65_536
MOST_BYTES = 40_000_000  # joined piece by piece it would take minutes and gigabytes; sockets' buffers hold some of it
TAKEN_BYTES = 20_000_000
GET = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = "transfer-encoding: chunked"
A_CHUNK = b"2\r\n{}\r\n"

HEADS = {
    "an address": (b"GET /", b"a" * PIECE_BYTES),
    "a name": (b"GET / HTTP/1.1\r\n", b"a" * PIECE_BYTES),
    "a value": (b"GET / HTTP/1.1\r\na: ", b"a" * PIECE_BYTES),
    "fields": (b"GET / HTTP/1.1\r\n", b"a:\r\n" * (PIECE_BYTES // 4)),
    "empty lines": (b"", b"\r\n" * (PIECE_BYTES // 2)),
    "a value of a request that follows": (GET + b"GET / HTTP/1.1\r\na: ", b"a" * PIECE_BYTES),
    "an extension of a chunk": (post("/v1/predictions", CHUNKED) + b"2;a=", b"a" * PIECE_BYTES),
    "a trailer": (post("/v1/predictions", CHUNKED) + A_CHUNK + b"0\r\na: ", b"a" * PIECE_BYTES),
    "trailers": (post("/v1/predictions", CHUNKED) + A_CHUNK + b"0\r\n", b"a: b\r\n" * (PIECE_BYTES // 6)),
}


@pytest.mark.parametrize("kind", HEADS)
def test_what_has_no_end_is_refused_at_its_limit(settings: Any, learner: Any, kind: str) -> None:
    first, endless = HEADS[kind]
    with serving(settings, learner) as worker:
        ask(worker)
        before = peak_bytes(worker)
        with connect(worker) as connection:
            connection.sendall(first)
            assert flood(connection, endless, MOST_BYTES) < TAKEN_BYTES
            answer = receive(connection)
        ask(worker)
        assert peak_bytes(worker) - before < 10_000_000
        assert count_closed(worker)["head_too_large"] == 1
        if "follows" in kind:
            assert answer == b"" or answer.startswith(b"HTTP/1.1 200 ")
        else:  # a reset may overtake the answer
            assert answer == b"" or answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


def send_slowly(connection: socket.socket, data: bytes) -> None:
    """In pieces, each of which the server sees by itself, mostly."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for begin in range(0, len(data), 4_000):
        connection.sendall(data[begin : begin + 4_000])


def test_the_limit_is_where_it_is_said_to_be(settings: Any, learner: Any) -> None:
    def ask_with(*fields: bytes) -> bytes:
        return b"\r\n".join([b"GET /livez HTTP/1.1", b"host: x", b"connection: close", *fields, b"", b""])

    large = MAX_HEAD_BYTES - 200
    cases = [
        (ask_with(b"a: " + b"b" * large), b"200"),
        (ask_with(b"a: " + b"b" * MAX_HEAD_BYTES), b"431"),
        (ask_with(*[b"a: b"] * (MAX_HEAD_FIELDS - 2)), b"200"),
        (ask_with(*[b"a: b"] * (MAX_HEAD_FIELDS - 1)), b"431"),
    ]
    with serving(settings, learner) as worker:
        for head, status in cases:
            for send in (socket.socket.sendall, send_slowly):
                with connect(worker) as connection:
                    send(connection, head)
                    answer = receive(connection)
                    assert answer.startswith(b"HTTP/1.1 " + status), (len(head), status)
                    assert b"x-request-id: " in answer
                    assert (b'"reason":"head_too_large"' in answer) == (status == b"431")
        with connect(worker) as connection:  # a large body, and at once another request with a large head
            body = b"{}" + b" " * 80_000
            head = post("/v1/predictions", f"content-length: {len(body)}")
            connection.sendall(head + body + ask_with(b"a: " + b"b" * large))
            answers = receive(connection)
            assert answers.count(b"HTTP/1.1 422 ") == answers.count(b"HTTP/1.1 200 ") == 1


def test_requests_without_end_on_one_connection_are_answered_up_to_a_limit(settings: Any, learner: Any) -> None:
    with serving(settings, learner) as worker:
        ask(worker)
        before = peak_bytes(worker)
        for _ in range(10):
            with connect(worker) as connection:
                flood(connection, GET * 8_000, 2_000_000)
                answers = receive(connection)
                assert answers.count(b"HTTP/1.1 200 OK\r\n") <= MAX_PIPELINED + 1
        assert peak_bytes(worker) - before < 20_000_000
        assert count_closed(worker)["pipelined"] == 10
        with connect(worker) as connection:
            connection.sendall(GET * (MAX_PIPELINED - 1) + GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
            assert receive(connection).count(b"HTTP/1.1 200 OK\r\n") == MAX_PIPELINED


def test_a_trailer_is_no_header(settings: Any, learner: Any) -> None:
    token = "s3cret-token"
    chunked = A_CHUNK + b"0\r\n"

    def ask_with(fields: tuple[str, ...], *trailers: str) -> bytes:
        head = "\r\n".join(["POST /v1/predictions HTTP/1.1", "host: x", CHUNKED, *fields, "", ""]).encode()
        return head + chunked + "\r\n".join([*trailers, "", ""]).encode()

    authorization, media_type = f"authorization: Bearer {token}", "content-type: application/json"
    cases = [
        (ask_with((media_type,), authorization), b"401"),
        (ask_with((media_type, "trailer: authorization"), authorization), b"401"),
        (ask_with((authorization,), media_type), b"415"),
        (ask_with((authorization, media_type), "content-encoding: gzip"), b"422"),  # {} has no instances
    ]
    settings = settings.model_copy(update={"api_token": SecretStr(token)})
    settings.model_fields_set.add("api_token")
    with serving(settings, learner) as worker:
        for request, status in cases:
            with connect(worker, HOSTILE) as connection:
                connection.sendall(request + GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
                answers = receive(connection)
                assert answers.startswith(b"HTTP/1.1 " + status), answers
                assert b"HTTP/1.1 200 OK" in answers

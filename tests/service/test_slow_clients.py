"""Clients that are slow on purpose, against a real API process: none holds it up, and each is gone in the end."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from flexihash.service.settings import load_settings
from tests.service.worker import Worker

N_OF_EACH = 20
END_S = 60.0  # a bound for a loaded machine; what is waited for takes a second or two
LIMITS = "connections.HEAD_S = bodies.BODY_S = connections.DRAIN_S = 2.0"
LISTENING = "0A"  # as /proc/net/tcp has it
JSON = {"content-type": "application/json"}
BODY = b'{"instances": [{"carrier": "UA"}]}'


def head(content_length: int, path: str = "/v1/predictions") -> bytes:
    fields = f"host: x\r\ncontent-type: application/json\r\ncontent-length: {content_length}\r\n"
    return f"POST {path} HTTP/1.1\r\n{fields}\r\n".encode()


GET = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
KINDS = [  # what a client sends at once, what it then sends byte by byte, and what it is told
    (b"", b"", b""),
    (b"G", b"ET /livez HTTP/1.1\r\nx: ", b""),
    (b"", b"\r\n", b""),
    (GET, b"\r\n", b"HTTP/1.1 200 "),
    (GET, GET[:20], b"HTTP/1.1 200 "),
    (head(1_000_000), b" ", b"HTTP/1.1 413 "),
    (head(1_000), b" ", b"HTTP/1.1 408 "),
    (head(1_000, "/v1/events"), b" ", b"HTTP/1.1 408 "),
    (head(1_000, "/v1/checkpoints"), b" ", b"HTTP/1.1 408 "),
    (head(1_000, "/no/such/route"), b" ", b"HTTP/1.1 404 "),
    (b"nonsense\r\n\r\n", b"", b"HTTP/1.1 400 "),
]


@contextmanager
def serving(settings: Any, learner: Any, limits: str) -> Iterator[Worker]:
    worker = Worker(settings, limits)
    try:
        worker.wait_until_ready(learner)
        yield worker
    finally:
        worker.end()


class Slow:
    """One connection that sends `first`, then a byte of `then` now and again, until the server has enough."""

    def __init__(self, first: bytes, then: bytes) -> None:
        self.first = first
        self.then = then
        self.answer = b""

    async def run(self, address: tuple[str, int], connected: asyncio.Barrier | None = None) -> None:
        reader, writer = await asyncio.open_connection(*address)
        dribble = asyncio.create_task(self._send(writer))
        if connected is not None:
            await connected.wait()
        try:
            async with asyncio.timeout(END_S):
                while piece := await reader.read(65_536):
                    self.answer += piece
        except ConnectionError:
            pass
        finally:
            dribble.cancel()
            writer.transport.abort()

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        writer.write(self.first)
        for byte in self.then * 10_000:
            await asyncio.sleep(0.1)
            writer.write(bytes([byte]))


@asynccontextmanager
async def crowd(address: tuple[str, int], clients: list[Slow]) -> AsyncIterator[None]:
    """All of them connected in the block, and at its end gone: the server closed each."""
    connected = asyncio.Barrier(len(clients) + 1)
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run(address, connected))
        await connected.wait()
        yield


async def answer_others(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=END_S) as client:
        assert (await client.get("/livez")).status_code == 200
        answer = await client.post("/v1/predictions", content=BODY, headers=JSON)
        assert answer.status_code == 200


def count_connections(worker: Worker) -> int:
    """Those that the server has open."""
    host, port = worker.address
    local = f"{socket.inet_aton(host)[::-1].hex().upper()}:{port:04X}"
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return sum(fields[1] == local and fields[9] != "0" and fields[3] != LISTENING for fields in sockets)


def test_slow_clients_are_closed_and_others_answered_meanwhile(settings: Any, learner: Any) -> None:
    clients = [Slow(first, then) for first, then, _ in KINDS for _ in range(N_OF_EACH)]

    async def run(worker: Worker) -> None:
        async with crowd(worker.address, clients):
            await answer_others(worker.url)

    with serving(settings, learner, LIMITS) as worker:
        asyncio.run(run(worker))
    answers = [client.answer for client in clients]
    expected = [answer for _, _, answer in KINDS for _ in range(N_OF_EACH)]
    assert [answer[: len(start)] for answer, start in zip(answers, expected, strict=True)] == expected
    assert all(len(answer) == 0 for answer, start in zip(answers, expected, strict=True) if not start)
    problems = [answer for answer in answers if answer.startswith(b"HTTP/1.1 4")]
    assert all(b"content-type: application/problem+json\r\n" in answer for answer in problems)


def test_a_client_that_does_not_take_its_answer_is_closed(settings: Any, learner: Any) -> None:
    large = b'{"instances": [' + b"{}," * 299_999 + b"{}]}"  # the answer has 15 MB: more than sockets hold
    limits = {"max_instances": 300_000, "max_body_bytes": 1_000_000}
    with (
        serving(load_settings(**{**settings.model_dump(), **limits}), learner, LIMITS) as worker,
        socket.create_connection(worker.address, timeout=END_S) as connection,
    ):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(head(len(large), "/v1/embeddings") + large)
        assert connection.recv(8) == b"HTTP/1.1"
        assert count_connections(worker) == 1
        asyncio.run(answer_others(worker.url))
        wait_until(lambda: count_connections(worker) == 0)


def test_the_newest_of_too_many_connections_is_answered(settings: Any, learner: Any) -> None:
    with (
        serving(settings, learner, "connections.MAX_CONNECTIONS = 20; connections.HEAD_S = 1e6") as worker,
        ExitStack() as stack,
    ):
        busy = stack.enter_context(socket.create_connection(worker.address, timeout=END_S))
        busy.sendall(head(len(BODY)) + BODY[:5])
        idle = [stack.enter_context(socket.create_connection(worker.address, timeout=END_S)) for _ in range(30)]
        asyncio.run(answer_others(worker.url))
        assert [connection.recv(1) for connection in idle[:12]] == [b""] * 12  # closed: the first to come
        busy.sendall(BODY[5:])
        assert busy.recv(15) == b"HTTP/1.1 200 OK"
        idle[-1].sendall(GET)
        assert idle[-1].recv(15) == b"HTTP/1.1 200 OK"


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + END_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)

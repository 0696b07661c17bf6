"""Hostile clients of a real API process, from two addresses of this machine, and what they do to it."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.service.worker import Worker

HOSTILE, HONEST = "127.0.0.2", "127.0.0.1"
WAIT_S = 60.0  # a bound for a loaded machine
BODY = b'{"instances": [{"carrier": "UA"}]}'
JSON = {"content-type": "application/json"}
CAUSES = re.compile(r'^flexihash_http_closed_connections_total\{cause="(\w+)"\} (\S+)$', re.MULTILINE)


@contextmanager
def serving(settings: Any, learner: Any, limits: str = "") -> Iterator[Worker]:
    """A worker that answers; when it is stopped nothing is in its log that somebody would have to look at."""
    worker = Worker(settings, limits)
    try:
        worker.wait_until_ready(learner)
        yield worker
        assert worker.process.poll() is None
        worker.process.terminate()
        _, log = worker.process.communicate(timeout=WAIT_S)
        before_stop, stop, _ = log.partition("Shutting down")
        assert stop
        assert not re.search(r'"level": "(warning|error|critical)"|Traceback', before_stop), log
    finally:
        worker.end()


def connect(worker: Worker, host: str = HOSTILE) -> socket.socket:
    """A connection from this address."""
    return socket.create_connection(worker.address, timeout=WAIT_S, source_address=(host, 0))


def post(path: str, *fields: str) -> bytes:
    """The head of a request with a body of JSON."""
    lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


def receive(connection: socket.socket, n_bytes: int = 1 << 30) -> bytes:
    """What comes until the end, however it ends, but no more than so many bytes."""
    answer = b""
    try:
        while len(answer) < n_bytes and (piece := connection.recv(65_536)):
            answer += piece
    except ConnectionError:
        pass
    return answer


def flood(connection: socket.socket, piece: bytes, most: int) -> int:
    """Sends a piece again and again, until `most` bytes are sent or nobody takes them; returns how many were taken."""
    sent = 0
    try:
        while sent < most:
            connection.sendall(piece)
            sent += len(piece)
    except ConnectionError:
        pass
    return sent


def ask(worker: Worker, host: str = HONEST) -> None:
    """An honest client from this address gets its answers."""
    transport = httpx.HTTPTransport(local_address=host)
    with httpx.Client(base_url=worker.url, transport=transport, timeout=WAIT_S) as client:
        assert client.get("/livez").status_code == 200
        assert client.post("/v1/predictions", content=BODY, headers=JSON).status_code == 200


def count_closed(worker: Worker) -> dict[str, float]:
    """How many connections were closed, by cause."""
    found = CAUSES.findall(httpx.get(f"{worker.url}/metrics", timeout=WAIT_S).text)
    return {cause: float(count) for cause, count in found}


def peak_bytes(worker: Worker) -> int:
    """The most memory that the process ever had."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    return int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[0]) * 1024

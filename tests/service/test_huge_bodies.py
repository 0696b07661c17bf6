"""Bodies of a size or a depth that must cost next to nothing: refused at their limit, not read, not parsed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.worker import Worker

HUGE_BYTES = 100_000_000
PIECE = b" " * 65_536
ROUTES = ("/v1/predictions", "/v1/embeddings", "/v1/events", "/v1/checkpoints")
DEEP = 100_000


@pytest.fixture
def worker(settings: Any, learner: Any) -> Iterator[Worker]:
    worker = Worker(settings)
    worker.wait_until_ready(learner)
    yield worker
    worker.end()


def peak_bytes(worker: Worker) -> int:
    """The most memory that the process ever had."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def send(worker: Worker, path: str, framing: str) -> tuple[bytes, int]:
    """Sends 100 MB as fast as it is taken; returns the answer, and how many bytes were taken until then."""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{framing}\r\n\r\n"
    sent = 0
    with socket.create_connection(worker.address, timeout=30) as connection:
        connection.sendall(head.encode())
        try:
            while sent < HUGE_BYTES:
                piece = PIECE if "length" in framing else b"%x\r\n%s\r\n" % (len(PIECE), PIECE)
                connection.sendall(piece)
                sent += len(PIECE)
        except OSError:  # it hung up
            pass
        answer = b""
        try:
            while piece := connection.recv(65_536):
                answer += piece
        except OSError:
            pass
    return answer, sent


@pytest.mark.parametrize("framing", [f"content-length: {HUGE_BYTES}", "transfer-encoding: chunked"])
def test_a_hundred_megabytes_are_refused_after_their_limit(worker: Worker, settings: Any, framing: str) -> None:
    before = peak_bytes(worker)
    for path in ROUTES:
        answer, sent = send(worker, path, framing)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 413 "), path  # a reset may overtake the answer
        assert sent < HUGE_BYTES, path
    assert peak_bytes(worker) - before < 20 * settings.max_body_bytes + 2_000_000  # sockets' buffers, a log line
    assert httpx.get(f"{worker.url}/livez").is_success


def nest(opening: bytes, closing: bytes, prefix: bytes, suffix: bytes) -> bytes:
    return prefix + opening * DEEP + closing * DEEP + suffix


@pytest.mark.parametrize("path", ["/v1/predictions", "/v1/embeddings", "/v1/events"])
def test_a_deep_body_is_refused(settings: Any, learner: Any, path: str) -> None:
    settings = settings.model_copy(update={"max_body_bytes": 2_000_000})
    settings.model_fields_set.add("max_body_bytes")
    worker = Worker(settings)
    try:
        worker.wait_until_ready(learner)
        prefix, suffix = b'{"instances": [', b"]}"
        if path == "/v1/events":
            prefix, suffix = b'{"features": {"a": ', b'}, "label": 1}'
        before = peak_bytes(worker)
        for body in (
            nest(b"[", b"]", b"", b""),
            nest(b"[", b"]", prefix, suffix),
            nest(b'{"a":', b"}", b"", b"").replace(b'{"a":}', b'{"a":1}'),
            nest(b'{"a":', b"}", prefix, suffix).replace(b'{"a":}', b'{"a":1}'),
        ):
            learner.report()
            response = httpx.post(f"{worker.url}{path}", content=body, headers={"content-type": "application/json"})
            assert 400 <= response.status_code < 500, response.text
            assert response.headers["content-type"] == "application/problem+json"
        assert peak_bytes(worker) - before < 100_000_000
        assert httpx.get(f"{worker.url}/livez").is_success
    finally:
        worker.end()

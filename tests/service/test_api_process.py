"""`python -m flexihash.service.child api --fd N` as the supervisor runs it: a process on an inherited socket."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.worker import START_TIMEOUT_S, Worker


@pytest.fixture
def worker(settings: Any, learner: Any) -> Iterator[Worker]:
    worker = Worker(settings)
    yield worker
    worker.end()


def test_it_serves_and_on_sigterm_finishes_what_was_begun(worker: Worker, learner: Any) -> None:
    learner.learn({"carrier": "UA"}, 1, times=3)
    worker.wait_until_ready(learner)
    body = b'{"instances": [{"carrier": "UA"}]}'
    fields = f"host: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    head = f"POST /v1/predictions HTTP/1.1\r\n{fields}\r\n"
    with socket.create_connection(worker.address, timeout=30) as connection:
        connection.sendall(head.encode() + body[:10])
        time.sleep(0.2)  # so that the request is under way; were it not, the answer would be missing all the same
        worker.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        connection.sendall(body[10:])
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'"events":3' in answer
    _, logs = worker.process.communicate(timeout=30)
    assert worker.process.returncode == 0, logs
    assert "Traceback" not in logs
    assert '"event": "kernels ready"' in logs  # as JSON lines: stderr is no terminal


def test_a_client_that_sends_too_much_gets_its_answer(worker: Worker, learner: Any) -> None:
    worker.wait_until_ready(learner)

    def pieces() -> Iterator[bytes]:
        for _ in range(200):
            yield b" " * 10_000

    headers = {"content-type": "application/json"}
    for how in ({"content": b" " * 2_000_000}, {"content": pieces()}):
        response = httpx.post(f"{worker.url}/v1/predictions", headers=headers, timeout=30, **how)
        assert response.status_code == 413
        assert response.headers["content-type"] == "application/problem+json"


def test_a_wrong_setting_is_one_line_and_an_exit_code_that_says_not_to_restart(settings: Any) -> None:
    worker = Worker(settings, FLEXIHASH_N_ROWS="1000")
    _, logs = worker.process.communicate(timeout=START_TIMEOUT_S)
    assert worker.process.returncode == 2
    assert logs == "FLEXIHASH_N_ROWS=1000: must be a power of two, such as 1024\n"


def test_workers_add_up_their_requests(settings: Any, learner: Any, tmp_path: Path) -> None:
    folder = tmp_path / "prometheus"
    folder.mkdir()
    workers = [Worker(settings, PROMETHEUS_MULTIPROC_DIR=str(folder)) for _ in range(2)]
    try:
        for worker in workers:
            worker.wait_until_ready(learner)
            httpx.post(f"{worker.url}/v1/predictions", json={"instances": [{}]}).raise_for_status()
        metrics = httpx.get(f"{workers[0].url}/metrics").text
    finally:
        for worker in workers:
            worker.end()
    labels = 'method="POST",route="/v1/predictions",status="200"'
    assert f"flexihash_http_request_seconds_count{{{labels}}} 2.0\n" in metrics
    assert "flexihash_learner_up 1.0\n" in metrics

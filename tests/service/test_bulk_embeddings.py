"""Embeddings of many instances in one request: lines in; lines, a NumPy file or Arrow out; in bounded memory."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from flexihash.service import answer_forms
from flexihash.service.answer_forms import ARROW, NPY, WRITERS, choose_form
from flexihash.service.bodies import JSON, NDJSON
from flexihash.service.problems import Problem
from flexihash.service.routes.computing import CHUNK_INSTANCES
from flexihash.service.settings import Settings
from tests.service.worker import Worker

N_INSTANCES = 2 * CHUNK_INSTANCES + 3
N_BULK = 100_000


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"embeddings": True, "n_rows": 1 << 14})


@pytest.fixture
def instances(learner: Any) -> list[dict[str, Any]]:
    """Of which some are known."""
    for n in range(60):
        learner.learn({"city": f"c{n % 6}", "country": f"l{n % 3}"}, float("nan"))
    return [{"city": f"c{n % 9}", "country": f"l{n % 5}"} if n % 7 else {} for n in range(N_INSTANCES)]


def to_lines(instances: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(instance).encode() + b"\n" for instance in instances)


def send_lines(api: Any, body: bytes, accept: str = "*/*", query: str = "") -> httpx.Response:
    headers = {"content-type": NDJSON, "accept": accept}
    response: httpx.Response = api.post(f"/v1/embeddings{query}", content=body, headers=headers)
    return response


def ask(api: Any, instances: list[dict[str, Any]], **choice: Any) -> dict[str, Any]:
    body: dict[str, Any] = api.post("/v1/embeddings", json={"instances": instances, **choice}).json()
    return body


def read(answer: httpx.Response) -> tuple[Any, Any, Any]:
    """Vectors, known features and features of an answer in any form; the latter two None where it has none."""
    match answer.headers["content-type"]:
        case answer_forms.NDJSON:
            rows = [json.loads(line) for line in answer.content.splitlines()]
            return tuple([row[name] for row in rows] for name in ("embedding", "known_features", "features"))  # type: ignore[return-value]
        case answer_forms.NPY:
            return np.load(io.BytesIO(answer.content)).tolist(), None, None
        case answer_forms.ARROW:
            columns = pa.ipc.open_stream(answer.content).read_all().to_pydict()
            return columns["embedding"], columns["known_features"], columns["features"]
    raise AssertionError(answer.headers)


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("sent", [JSON, NDJSON])
def test_every_form_says_the_same(api: Any, instances: list[dict[str, Any]], form: str, sent: str) -> None:
    expected = ask(api, instances)
    if sent == NDJSON:
        answer = send_lines(api, to_lines(instances), form)
    else:
        answer = api.post("/v1/embeddings", json={"instances": instances}, headers={"accept": form})
    assert answer.status_code == 200, answer.text
    vectors, known, features = read(answer)
    assert vectors == expected["embeddings"]
    if form != NPY:
        assert (known, features) == (expected["known_features"], expected["features"])
    assert json.loads(answer.headers["x-flexihash-version"]) == expected["version"]


def test_a_version_of_many_partitions_is_short(api: Any, instances: list[dict[str, Any]], learner: Any) -> None:
    for partition in range(1, 1000):
        learner.model.advance(partition, partition)
    assert json.loads(send_lines(api, b"{}").headers["x-flexihash-version"]) == {"events": 0}


def test_arrow_has_the_version(api: Any, instances: list[dict[str, Any]]) -> None:
    schema = pa.ipc.open_stream(send_lines(api, to_lines(instances), ARROW).content).schema
    assert json.loads(schema.metadata[b"version"]) == ask(api, [])["version"]
    assert schema.field("embedding").type == pa.list_(pa.float32(), 16)


@pytest.mark.parametrize("query", ["?kind=task", "?pooling=max", "?normalize=true&pooling=mean&kind=context"])
def test_the_choice_stands_in_the_query(api: Any, instances: list[dict[str, Any]], query: str) -> None:
    choice: dict[str, Any] = dict(one.split("=") for one in query[1:].split("&"))
    choice = {name: value == "true" if name == "normalize" else value for name, value in choice.items()}
    expected = ask(api, instances, **choice)
    assert read(send_lines(api, to_lines(instances), query=query))[0] == expected["embeddings"]
    assert api.post(f"/v1/embeddings{query}", json={"instances": instances}).json() == expected


def test_empty_lines_are_none_and_the_last_needs_no_end(api: Any, instances: list[dict[str, Any]]) -> None:
    body = b"\n\r\n" + to_lines(instances).replace(b"\n", b"\n\n  \r\n").rstrip()
    assert read(send_lines(api, body))[0] == ask(api, instances)["embeddings"]


@pytest.mark.parametrize("form", WRITERS)
def test_no_instances_are_no_embeddings(api: Any, learner: Any, form: str) -> None:
    answer = api.post("/v1/embeddings", json={"instances": []}, headers={"accept": form})
    assert read(answer)[0] == []
    if form == NPY:
        assert np.load(io.BytesIO(answer.content)).shape == (0, 16)


@pytest.mark.parametrize("n_bytes", [1, 7, 1000])
def test_a_body_may_be_cut_anywhere(api: Any, instances: list[dict[str, Any]], n_bytes: int) -> None:
    body = to_lines(instances[:40])

    async def cut() -> Any:
        for begin in range(0, len(body), n_bytes):
            yield body[begin : begin + n_bytes]

    answer = api.post("/v1/embeddings", content=cut(), headers={"content-type": NDJSON})
    assert read(answer)[0] == ask(api, instances[:40])["embeddings"]


@pytest.mark.parametrize(
    ("body", "query", "status", "where", "reason", "said"),
    [
        (b"{}\n" * 300 + b'{"a": 1e999}\n', "", 422, "instances[300]", "non_finite_number", "not a finite number"),
        (b'{}\n{"a": \n', "", 422, "instances[1]", "not_json", ""),
        (b"{}\n" * 10_001, "", 413, None, "too_many", "10001 instances are more than 10 times max_instances, 10000"),
        (b'{"a": "' + b"x" * 100_000 + b'"}', "", 413, None, "too_large", "a line is more than max_body_bytes, 100000"),
        (b" " * 1_000_001, "", 413, None, "too_large", "more than 10 times max_body_bytes, 1000000"),
        (b"\n \n", "", 422, None, "shape", "there are no instances in the body"),
        (b"{}", "?pooling=average", 422, None, "shape", "Invalid enum value 'average'"),
        (b"{}", "?kind=null", 422, None, "shape", "Invalid enum value 'null'"),
        (b"{}", "?normalise=true", 422, None, "shape", "unknown field `normalise`"),
        (b"", "?kind=task&pooling=mean", 409, None, "choice", 'pooling "mean" is for the kind "context"'),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_answered_is_refused_whole(
    api: Any, learner: Any, body: bytes, query: str, status: int, where: str | None, reason: str, said: str
) -> None:
    problem = send_lines(api, body, query=query).json()
    assert (problem["status"], problem.get("where"), problem["reason"]) == (status, where, reason), problem
    assert said in problem["detail"]


@pytest.mark.parametrize(
    ("accept", "of_json", "of_lines"),
    [
        ("", JSON, NDJSON),
        ("*/*", JSON, NDJSON),
        ("application/json", JSON, None),
        ("application/x-npy", NPY, NPY),
        ("application/x-npy;q=0.5, application/x-ndjson", NDJSON, NDJSON),
        ("text/html, application/x-npy;q=0.9, */*;q=0.1", NPY, NPY),
        ("application/x-npy;q=0, */*", JSON, NDJSON),
        ("text/html", JSON, None),
        (f"{ARROW}, application/x-npy;q=0.2", ARROW, ARROW),
    ],
)
def test_the_form_is_what_is_liked_best(accept: str, of_json: str, of_lines: str | None) -> None:
    assert choose_form(accept, JSON) == of_json
    if of_lines is None:
        with pytest.raises(Problem, match="names nothing that can be given here") as refused:
            choose_form(accept, NDJSON)
        assert refused.value.status == 406
    else:
        assert choose_form(accept, NDJSON) == of_lines


def test_without_pyarrow_the_answer_says_how_to_have_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_forms, "find_spec", lambda name: None)
    assert choose_form(f"{ARROW}, {NPY};q=0.2", JSON) == NPY
    for sent in (JSON, NDJSON):
        with pytest.raises(Problem, match=r"pip install 'flexihash\[arrow\]'"):
            choose_form(ARROW, sent)


# --- over a socket --------------------------------------------------------------------------------------------------


@pytest.fixture
def worker(settings: Settings, learner: Any) -> Iterator[Worker]:
    large = settings.model_copy(update={"max_instances": N_BULK // 10, "max_body_bytes": 8_000_000})
    worker = Worker(large)
    worker.wait_until_ready(learner)
    yield worker
    worker.end()


def peak_bytes(worker: Worker) -> int:
    """The most memory that the process ever had."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1])


def test_a_hundred_thousand_instances_take_little_memory(worker: Worker) -> None:
    """Eighteen megabytes in, thirty-five out, by a client that reads nothing until it has sent all."""
    line = '{"number": "%d", "text": "' + "x" * 140 + '"}\n'
    httpx.post(f"{worker.url}/v1/embeddings", content=line % 0, headers={"content-type": NDJSON})
    before = peak_bytes(worker)
    body = (line.encode() % n for n in range(N_BULK))
    answer = httpx.post(f"{worker.url}/v1/embeddings", content=body, headers={"content-type": NDJSON}, timeout=120)
    assert answer.status_code == 200, answer.text[:1000]
    assert answer.content.count(b"\n") == N_BULK
    assert len(answer.content) > 10_000_000
    assert peak_bytes(worker) - before < 20_000_000


def test_who_does_not_take_answers_gives_way_to_others(settings: Settings, learner: Any) -> None:
    """Twelve answers of 0.8 MB before they are written out: at most 6.4 MB of them are one client's."""
    worker = Worker(settings, "doors.LEAST_LARGEST_BYTES = 1")
    clients = []
    try:
        worker.wait_until_ready(learner)
        body = b'{"a": "b"}\n' * 10_000
        head = f"POST /v1/embeddings?kind=task HTTP/1.1\r\nhost: x\r\ncontent-type: {NDJSON}\r\n"
        for _ in range(12):
            client = socket.socket()
            client.settimeout(30)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # else the kernel takes most of an answer
            client.connect(worker.address)
            client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            assert client.recv(15) == b"HTTP/1.1 200 OK"
            clients.append(client)
        closed = 'flexihash_http_closed_connections_total{cause="memory"}'
        deadline = time.monotonic() + 30
        while f"{closed} 0.0" in (shown := httpx.get(f"{worker.url}/metrics").text) and time.monotonic() < deadline:
            time.sleep(0.1)
        (n_closed,) = (float(line.split()[-1]) for line in shown.splitlines() if line.startswith(closed))
        assert 4 <= n_closed <= 6
    finally:
        for client in clients:
            client.close()
        worker.end()

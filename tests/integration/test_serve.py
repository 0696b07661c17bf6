"""`flexihash serve` as a user runs it: real processes, a real broker, real HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
import torch

from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.formats.file_source import FileSource
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.source import KafkaSource
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.lesson import Lesson, Letters
from flexihash.consumer.loop import LearnLoop
from flexihash.consumer.publisher import Publisher
from flexihash.consumer.records import Record
from flexihash.consumer.standing import Standing
from flexihash.consumer.status import LearnerStatus
from flexihash.consumer.wire import EventFormat
from flexihash.model.checkpoint.store import CheckpointStore
from flexihash.model.checkpoint.tensors import read
from flexihash.model.config import ModelConfig
from flexihash.model.online import OnlineModel
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task
from flexihash.producer import synthetic
from flexihash.producer.events import encode
from flexihash.producer.pacing import replay
from tests.integration.served import N_ROWS, READY_S, Launch, Service


@pytest.fixture
def service(broker: KafkaConnection, topic: str, launch: Launch) -> Service:
    return launch(broker, topic)


@pytest.fixture
def publisher(broker: KafkaConnection, topic: str) -> Iterator[Publisher]:
    publisher = Publisher(Topic(broker, topic))
    yield publisher
    publisher.close()


LATE = b'{"features": {"carrier": "UA", "distance": 1400.0}, "label": 1}'
INSTANCES = {"instances": [{"carrier": "UA", "distance": 1400.0}]}


def test_what_is_published_moves_the_answer(service: Service, publisher: Publisher) -> None:
    service.start().wait_ready()
    before = service.post("/v1/predictions", INSTANCES)
    assert before["version"]["events"] == 0
    publisher.publish([LATE] * 7, timeout_s=30)
    service.wait_position(7)
    after = service.post("/v1/predictions", INSTANCES)
    assert after["version"]["events"] == 7
    assert list(after["version"]["positions"].values()) == [7]
    assert after["predictions"][0]["value"] > before["predictions"][0]["value"] + 0.1
    # and through HTTP
    posted = service.post("/v1/events", [msgspec.json.decode(LATE)] * 3)
    assert list(posted["positions"].values()) == [10]
    service.wait_position(10)
    later = service.post("/v1/predictions", INSTANCES)
    assert later["version"]["events"] == 10
    assert later["predictions"][0]["value"] > after["predictions"][0]["value"]
    assert service.stop() == 0


def test_malformed_events_become_dead_letters(
    service: Service, publisher: Publisher, broker: KafkaConnection, topic: str
) -> None:
    publisher.publish([b"not json", LATE, b'{"features": {}, "label": "yes"}', b"[]"], timeout_s=30)
    service.start().wait_ready()
    service.wait_position(4)
    saved = service.post("/v1/checkpoints", None)
    assert saved["events"] == 1
    assert service.status().rejected == {"not_json": 1, "bad_label": 1, "not_an_object": 1}
    letters = KafkaSource(Topic(broker, f"{topic}.dlq"))
    letters.start({})
    found: list[Record] = []
    deadline = time.monotonic() + 30
    while len(found) < 3 and time.monotonic() < deadline:
        found += [fetch.record(index) for fetch in letters.poll(0.5) for index in range(len(fetch))]
    letters.close()
    assert [letter.value for letter in found] == [b"not json", b'{"features": {}, "label": "yes"}', b"[]"]
    headers = [dict(letter.headers) for letter in found]
    assert [h["__flexihash.errors.offset"] for h in headers] == [b"0", b"2", b"3"]
    assert [h["__flexihash.errors.reason"] for h in headers] == [b"not_json", b"bad_label", b"not_an_object"]
    assert service.stop() == 0


class NoLetters(Letters):
    """The uninterrupted run's dead letters: the service has sent them already."""


def learn_uninterrupted(connection: KafkaConnection, topic: str, position: int) -> OnlineModel:
    model = OnlineModel(Tables.create(ModelConfig(n_rows=N_ROWS, embeddings=True)))
    source = KafkaSource(Topic(connection, topic))
    loop = LearnLoop(
        Lesson(model, EventDecoder(EventFormat(), Task.BINARY, N_ROWS, needs_label=False), NoLetters()),
        Standing(model, source),
    )
    loop.start()
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    deadline = time.monotonic() + READY_S
    while model.tables.positions().get(0) != position and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    thread.join()
    source.close()
    return model


def is_ingesting(status: LearnerStatus, begin: float) -> bool:
    """Whether a learner started after `begin` is in the midst of learning."""
    return status.started_at > begin and status.state == "learning" and status.events_per_second > 0


@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
def test_stopped_and_started_again_is_as_if_never_stopped(
    launch: Launch, publisher: Publisher, broker: KafkaConnection, topic: str, client: str
) -> None:
    """Three SIGTERMs in the midst of ingest: all tensors are bit for bit the uninterrupted run's."""
    service = launch(broker, topic, FLEXIHASH_KAFKA_CLIENT=client)
    n_events = 60_000
    events = (b"{" if number % 1000 == 7 else event for number, event in enumerate(encode(synthetic(n_events))))
    feeder = threading.Thread(target=replay, args=(events, publisher.send, 2_500.0))  # events come all the while
    feeder.start()
    for number in range(3):
        begin = time.time()
        service.start()
        service.wait(lambda begin=begin: is_ingesting(service.status(), begin), f"ingest {number}")  # type: ignore[misc]
        assert service.stop() == 0, service.log
        assert service.status().state == "stopped"
    stopped_at = service.status().events
    feeder.join()
    publisher.flush()
    assert 0 < stopped_at < n_events - n_events // 1000  # or nothing was left for the last start
    service.start().wait_position(n_events)
    assert service.stop() == 0, service.log
    newest = CheckpointStore(service.folder / "checkpoints", 3).list()[0]
    tensors, manifest = read(newest.path)
    assert manifest.positions == {f"{topic}:0": n_events}
    assert manifest.metrics["rejected"] == {"not_json": n_events // 1000}
    expected = learn_uninterrupted(broker, topic, n_events).tables.tensors
    assert manifest.events == n_events - n_events // 1000
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensors[name], tensor), name


def test_an_absent_topic_is_one_line_and_exit_code_2(tansu: KafkaConnection, topic_name: str, launch: Launch) -> None:
    service = launch(tansu, topic_name).start()
    assert service.process is not None
    assert service.process.wait(READY_S) == 2
    assert f"topic '{topic_name}' does not exist on {tansu.bootstrap_servers}" in service.log
    assert "Traceback" not in service.log


def test_an_unreachable_broker_is_retried_while_the_api_answers(launch: Launch) -> None:
    service = launch(KafkaConnection("127.0.0.1:9"), "events").start()
    service.wait(lambda: "127.0.0.1:9" in service.http.get("/readyz").text, "a reason")
    assert service.http.get("/readyz").status_code == 503
    assert service.http.get("/livez").status_code == 200
    answer = service.post("/v1/predictions", INSTANCES)
    assert answer["version"] == {"events": 0, "positions": {}}
    assert service.stop() == 0
    assert "Traceback" not in service.log


def test_several_workers_answer_and_add_up_their_requests(
    tansu: KafkaConnection, topic_name: str, launch: Launch
) -> None:
    service = launch(tansu, topic_name, FLEXIHASH_CREATE_TOPIC="true", FLEXIHASH_WORKERS="2")
    url = f"http://127.0.0.1:{service.port}"

    def are_all_ready() -> bool:  # a connection each, so that either worker may get it
        return all(httpx.get(f"{url}/readyz", timeout=30).is_success for _ in range(20))

    service.start().wait(are_all_ready, "both workers")
    for _ in range(20):
        httpx.post(f"{url}/v1/predictions", json=INSTANCES, timeout=30).raise_for_status()
    labels = 'method="POST",route="/v1/predictions",status="200"'
    assert f"flexihash_http_request_seconds_count{{{labels}}} 20.0\n" in service.http.get("/metrics").text
    assert service.stop() == 0


def test_programs_are_told_the_address_in_one_line(tansu: KafkaConnection, topic_name: str, launch: Launch) -> None:
    service = launch(tansu, topic_name, FLEXIHASH_CREATE_TOPIC="true")
    command = [sys.executable, "-P", "-m", "flexihash", "serve", "--json"]
    with (service.folder / "log").open("ab") as log:
        service.process = subprocess.Popen(command, env=service.environment, stdout=subprocess.PIPE, stderr=log)
    with service.process.stdout as out:  # type: ignore[union-attr]
        url = f"http://127.0.0.1:{service.port}"
        assert json.loads(out.readline()) == {"url": url, "topic": topic_name, "pid": service.process.pid}
        service.wait_ready()
        assert service.stop() == 0
        assert out.read() == b""


def test_a_checkpoint_of_other_settings_is_refused(tansu: KafkaConnection, topic_name: str, launch: Launch) -> None:
    service = launch(tansu, topic_name, FLEXIHASH_CREATE_TOPIC="true").start().wait_ready()
    service.post("/v1/checkpoints", None)
    assert service.stop() == 0
    service.environment["FLEXIHASH_N_ROWS"] = "1024"
    assert service.start().process.wait(READY_S) == 2  # type: ignore[union-attr]
    assert "n_rows = 4096, but 1024 is asked for" in service.log


def test_a_file_is_the_same_stream(tmp_path: Path) -> None:
    """A file source hands out every line once, whatever the blank lines, and goes on where it stopped."""
    path = tmp_path / "events.ndjson"
    lines = list(encode(synthetic(10)))
    path.write_bytes(b"\n\n".join(lines))
    source = FileSource(path)
    source.start({})
    (fetch,) = source.poll(0.0)
    assert [value.strip() for value in fetch.values if value] == [line.strip() for line in lines]
    again = FileSource(path)
    again.start({0: fetch.offsets[3] + 1})
    assert again.poll(0.0)[0].values == fetch.values[4:]
    source.close()
    again.close()

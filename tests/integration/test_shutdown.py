"""The end of `flexihash serve`: at any moment, however often it is asked for, nothing is lost and nothing is left."""

from __future__ import annotations

import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.publisher import Publisher
from flexihash.model.checkpoint.manifest import verify
from flexihash.model.checkpoint.store import CheckpointStore
from flexihash.producer import synthetic
from flexihash.producer.events import encode
from flexihash.producer.pacing import replay
from tests.integration.served import Launch, Service

GRACE_S = 30  # until a container's engine kills; docker-compose.yml gives a minute


@pytest.fixture
def service(tansu: KafkaConnection, topic_name: str, launch: Launch) -> Service:
    Topic(tansu, topic_name).create()
    return launch(tansu, topic_name)


def list_children(service: Service) -> list[Path]:
    """Their folders in /proc, which vanish with them."""
    assert service.process is not None
    pid = service.process.pid
    return [Path("/proc", child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def catches_sigterm(service: Service) -> bool:
    """Whether Python itself has started: before, the signal ends the process as it would any other."""
    assert service.process is not None
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def end(service: Service, *signals: int) -> int:
    """Sends signals one after the other, and waits for the exit code."""
    assert service.process is not None
    for number in signals:
        service.process.send_signal(number)
        time.sleep(0.05)
    return service.process.wait(GRACE_S)


def count_checkpointed(service: Service) -> int:
    """Events in the newest checkpoint, every byte of which is looked at."""
    return verify(CheckpointStore(service.folder / "checkpoints", 3).list()[0].path).events


@pytest.mark.parametrize("signals", [[signal.SIGTERM] * 3, [signal.SIGINT], [signal.SIGINT, signal.SIGTERM]])
def test_an_end_in_the_midst_of_ingest_saves_all_that_was_learned(
    service: Service, tansu: KafkaConnection, topic_name: str, signals: list[int]
) -> None:
    stop = threading.Event()
    with Publisher(Topic(tansu, topic_name)) as publisher:
        service.start()
        events = encode(synthetic(1_000_000))
        arguments = {"args": (events, publisher.send, 2_000.0), "kwargs": {"stop": stop}}
        feeder = threading.Thread(target=replay, **arguments)  # type: ignore[arg-type]
        feeder.start()
        try:
            service.wait_ready().wait(lambda: service.status().events > 1_000, "ingest")
            children = list_children(service)
            assert len(children) == 2
            assert end(service, *signals) == 0, service.log
        finally:
            stop.set()
            feeder.join()
    assert not [child for child in children if child.exists()]
    assert service.status().state == "stopped"
    assert count_checkpointed(service) == service.status().events > 1_000
    assert "Traceback" not in service.log
    assert "killing it" not in service.log


def test_a_request_under_way_is_answered(service: Service) -> None:
    service.start().wait_ready()
    body = b'{"instances": [{"carrier": "UA"}]}'
    head = f"POST /v1/predictions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body[:10])
        time.sleep(0.2)  # so that it is under way; were it not, the answer would be missing all the same
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        connection.sendall(body[10:])
        answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert service.process.wait(GRACE_S) == 0, service.log
    assert service.status().state == "stopped"


@pytest.mark.parametrize("after_s", [0.0, 0.5, 2.5])
def test_an_end_while_starting(service: Service, after_s: float) -> None:
    service.start().wait(lambda: catches_sigterm(service), "its first lines")
    time.sleep(after_s)
    children = list_children(service)
    assert end(service, signal.SIGTERM) == 0, service.log
    assert not [child for child in children if child.exists()]
    assert "Traceback" not in service.log
    folder = service.folder / "checkpoints"
    assert not folder.exists() or not [path for path in folder.iterdir() if path.name.startswith(".")]
    service.start().wait_ready()  # nothing that was left is in the way
    assert service.stop() == 0

"""A broker for a benchmark, and topics filled fast."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from flexihash.consumer.consumer_errors import BrokerUnavailable
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.publisher import Publisher
from flexihash.service.embedded_broker import EmbeddedBroker

HOST = "127.0.0.1"
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
FLUSH_TIMEOUT_S = 120.0
HAS_CONFLUENT = find_spec("confluent_kafka") is not None
NO_CONFLUENT = "confluent-kafka is not installed: pip install -c constraints.txt 'flexihash[bench]'"


@contextmanager
def broker() -> Iterator[str]:
    """Servers of Apache Kafka, where KAFKA_HOME names a folder with `bin/kafka-server PORT FOLDER`, or of Tansu."""
    home = os.environ.get("KAFKA_HOME")
    if not home:
        with EmbeddedBroker() as embedded:
            yield embedded.bootstrap_servers
        return
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        command = [Path(home) / "bin" / "kafka-server", str(port), Path(folder) / "data"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        try:
            _wait_until_up(process, f"{HOST}:{port}")
            yield f"{HOST}:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def fill(servers: str, topic: str, messages: Iterable[bytes]) -> None:
    """Creates the topic if need be, and publishes everything; by the faster client where it is installed."""
    filled = Topic(KafkaConnection(servers), topic)
    filled.create()
    if HAS_CONFLUENT:
        _fill_by_confluent(servers, topic, messages)
        return
    with Publisher(filled) as publisher:
        for message in messages:
            publisher.send(message)
        publisher.flush()


def _fill_by_confluent(servers: str, topic: str, messages: Iterable[bytes]) -> None:
    from confluent_kafka import Producer

    settings = {"bootstrap.servers": servers, "linger.ms": 5, "batch.size": 1 << 18, "enable.idempotence": False}
    producer = Producer({**settings, "max.in.flight.requests.per.connection": 1})
    for message in messages:
        while True:
            try:
                producer.produce(topic, message)
                break
            except BufferError:  # its queue is full
                producer.poll(0.05)
    left = producer.flush(FLUSH_TIMEOUT_S)
    if left:
        raise SystemExit(f"{left:,} messages were not acknowledged in {FLUSH_TIMEOUT_S:.0f} s")


def _wait_until_up(process: subprocess.Popen[bytes], servers: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"Apache Kafka ended with {process.returncode}; is KAFKA_HOME right?")
        with contextlib.suppress(BrokerUnavailable):
            Topic(KafkaConnection(servers), "any").exists()
            return
        time.sleep(0.1)
    raise SystemExit(f"Apache Kafka is not up after {START_TIMEOUT_S:.0f} s")


def _free_port() -> int:
    """A port whose next is free too: the controller takes that."""
    while True:
        with socket.socket() as first, socket.socket() as second, contextlib.suppress(OSError, OverflowError):
            first.bind((HOST, 0))
            port: int = first.getsockname()[1]
            second.bind((HOST, port + 1))
            return port

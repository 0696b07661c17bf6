"""A broker for a benchmark, and topics filled fast."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.publisher import Publisher
from rig.broker import open_broker

FLUSH_TIMEOUT_S = 120.0
HAS_CONFLUENT = find_spec("confluent_kafka") is not None
NO_CONFLUENT = "confluent-kafka is not installed: pip install -c constraints.txt 'flexihash[bench]'"


@contextmanager
def broker() -> Iterator[str]:
    """Servers of Apache Kafka, where KAFKA_HOME names a folder with `bin/kafka-server PORT FOLDER`, or of Tansu."""
    with tempfile.TemporaryDirectory() as folder, open_broker(Path(folder, "kafka")) as found:
        yield found.bootstrap_servers


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

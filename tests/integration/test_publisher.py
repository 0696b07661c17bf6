"""Publishing to real brokers: true positions, and no failure without a word."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest

from flexihash.consumer.consumer_errors import BrokerUnavailable, PublishError, PublishRefused, TopicNotFound
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.source import KafkaSource
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.publisher import Publisher
from flexihash.service.embedded_broker import EmbeddedBroker
from tests.integration.brokers import ApacheKafka

PATIENCE_S = 60.0

OpenPublisher = Callable[[KafkaConnection, str], Publisher]


@pytest.fixture
def open_publisher() -> Iterator[OpenPublisher]:
    """Builds publishers, and closes them at the end."""
    opened: list[Publisher] = []

    def build(connection: KafkaConnection, topic: str) -> Publisher:
        opened.append(Publisher(Topic(connection, topic)))
        return opened[-1]

    yield build
    for publisher in opened:
        publisher.close()


def read_all(connection: KafkaConnection, topic: str, n: int) -> dict[tuple[int, int], bytes | None]:
    """The topic's values by partition and offset; at least n."""
    source = KafkaSource(Topic(connection, topic))
    source.start({})
    found: dict[tuple[int, int], bytes | None] = {}
    deadline = monotonic() + PATIENCE_S
    while len(found) < n:
        assert monotonic() < deadline, f"{len(found)} of {n} events came"
        for fetch in source.poll(0.5):
            found |= {(fetch.partition, o): v for o, v in zip(fetch.offsets, fetch.values, strict=True)}
    source.close()
    return found


def test_positions_are_true(broker: KafkaConnection, topic_name: str, open_publisher: OpenPublisher) -> None:
    Topic(broker, topic_name).create(n_partitions=3)
    publisher = open_publisher(broker, topic_name)
    values = [b"event %d" % i for i in range(600)]
    positions = [position for i in range(0, 600, 100) for position in publisher.publish(values[i : i + 100])]
    assert dict(zip(positions, values, strict=True)) == read_all(broker, topic_name, 600)


def test_nothing_to_publish(broker: KafkaConnection, topic: str, open_publisher: OpenPublisher) -> None:
    assert open_publisher(broker, topic).publish([]) == []


def test_events_of_one_key_stay_in_one_partition_and_in_order(
    broker: KafkaConnection, topic_name: str, open_publisher: OpenPublisher
) -> None:
    Topic(broker, topic_name).create(n_partitions=4)
    publisher = open_publisher(broker, topic_name)
    keys = [b"user %d" % (i % 7) for i in range(140)]
    positions = publisher.publish([b"x"] * 140, keys)
    for key in set(keys):
        own = [position for position, k in zip(positions, keys, strict=True) if k == key]
        assert len({partition for partition, _ in own}) == 1
        assert own == sorted(own)
    assert len({partition for partition, _ in positions}) > 1


def test_keys_must_be_as_many_as_values(broker: KafkaConnection, topic: str, open_publisher: OpenPublisher) -> None:
    with pytest.raises(ValueError, match="shorter"):
        open_publisher(broker, topic).publish([b"a", b"b"], [b"k"])


def test_stream_arrives_once_and_in_order(broker: KafkaConnection, topic: str, open_publisher: OpenPublisher) -> None:
    publisher = open_publisher(broker, topic)
    for i in range(20_000):
        publisher.send(b"%d" % i)
    publisher.flush()
    assert list(read_all(broker, topic, 20_000).items()) == [((0, i), b"%d" % i) for i in range(20_000)]


def test_threads_share_a_publisher(broker: KafkaConnection, topic: str, open_publisher: OpenPublisher) -> None:
    publisher = open_publisher(broker, topic)
    gate = threading.Barrier(4)

    def publish(thread: int) -> dict[tuple[int, int], bytes]:
        gate.wait()
        found: dict[tuple[int, int], bytes] = {}
        for i in range(20):
            values = [b"%d %d %d" % (thread, i, j) for j in range(10)]
            found |= dict(zip(publisher.publish(values), values, strict=True))
        return found

    with ThreadPoolExecutor(4) as pool:
        published = {position: value for found in pool.map(publish, range(4)) for position, value in found.items()}
    assert len(published) == 800
    assert published == read_all(broker, topic, 800)


def test_absent_topic_is_named_and_not_created(
    broker: KafkaConnection, topic_name: str, open_publisher: OpenPublisher
) -> None:
    publisher = open_publisher(broker, topic_name)
    with pytest.raises(TopicNotFound, match=topic_name):
        publisher.publish([b"x"])
    with pytest.raises(TopicNotFound, match=topic_name):
        publisher.send(b"x")
    assert not Topic(broker, topic_name).exists()
    assert publisher.topic.create(n_partitions=2)
    assert not publisher.topic.create()


def test_works_once_the_broker_is_there(topic_name: str, open_publisher: OpenPublisher) -> None:
    with EmbeddedBroker() as gone:
        port = gone.port
    connection = KafkaConnection(f"127.0.0.1:{port}")
    publisher = open_publisher(connection, topic_name)
    with pytest.raises(BrokerUnavailable, match=str(port)) as caught:
        publisher.publish([b"x"])
    assert caught.value.retriable
    with EmbeddedBroker(port):
        Topic(connection, topic_name).create()
        deadline = monotonic() + PATIENCE_S
        while True:
            try:
                assert publisher.publish([b"x"]) == [(0, 0)]
            except BrokerUnavailable:  # for a second, callers are told what the last attempt said
                assert monotonic() < deadline
            else:
                break
        publisher.close()


@pytest.mark.kafka
def test_event_too_large_for_the_topic_is_refused(apache_kafka: ApacheKafka, topic_name: str) -> None:
    connection = apache_kafka.connection
    Topic(connection, topic_name).create(settings={"max.message.bytes": "2000"})
    with Publisher(Topic(connection, topic_name)) as publisher:
        with pytest.raises(PublishRefused, match=topic_name) as caught:
            publisher.publish([os.urandom(5000)])
        assert not caught.value.retriable
        with pytest.raises(PublishRefused, match="1 of 1"):
            publisher.send(os.urandom(5000))
            publisher.flush()
        publisher.flush()  # told once
        assert publisher.publish([b"small"]) == [(0, 0)]
    with Publisher(Topic(connection, topic_name)) as publisher, pytest.raises(PublishRefused, match="2000000 bytes"):
        publisher.send(bytes(2_000_000))


@pytest.mark.kafka
def test_killed_broker_costs_no_event_and_doubles_none(
    apache_kafka: ApacheKafka, topic_name: str, open_publisher: OpenPublisher
) -> None:
    Topic(apache_kafka.connection, topic_name).create()
    publisher = open_publisher(apache_kafka.connection, topic_name)
    for i in range(2000):
        publisher.send(b"%d" % i)
    apache_kafka.kill()
    try:
        with pytest.raises(PublishError, match="1 of 1") as caught:
            publisher.publish([b"2000"], timeout_s=0.5)
        assert caught.value.retriable
        for i in range(2001, 4000):
            publisher.send(b"%d" % i)
    finally:
        apache_kafka.start()
    publisher.flush()
    assert publisher.publish([b"4000"], timeout_s=PATIENCE_S) == [(0, 4000)]
    assert list(read_all(apache_kafka.connection, topic_name, 4001).values()) == [b"%d" % i for i in range(4001)]

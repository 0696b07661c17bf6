"""Single records by their offsets, on real brokers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flexihash.consumer.kafka.confluent import ConfluentSource
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.source import KafkaSource
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.publisher import Publisher
from tests.integration.brokers import ApacheKafka, delete_records

N_EVENTS = 50
VALUES = [b"event %d" % number for number in range(N_EVENTS)]


def publish(connection: KafkaConnection, topic: str) -> None:
    with Publisher(Topic(connection, topic)) as publisher:
        publisher.publish(VALUES, [b"key"] * N_EVENTS, timeout_s=60)


@pytest.mark.parametrize("open_source", [KafkaSource, ConfluentSource])
def test_a_record_is_found_as_it_was_read(
    broker: KafkaConnection, topic: str, open_source: Callable[[Topic], KafkaSource]
) -> None:
    publish(broker, topic)
    source = open_source(Topic(broker, topic))
    source.start({})
    digests: dict[int, int] = {}
    while len(digests) < N_EVENTS:
        for fetch in source.poll(0.5):
            digests |= {offset: fetch.record(index).digest() for index, offset in enumerate(fetch.offsets)}
    for offset in (0, 1, N_EVENTS // 2, N_EVENTS - 1):
        (record,) = source.read({0: offset}).values()
        assert (record.offset, record.key, record.value) == (offset, b"key", VALUES[offset])
        assert record.digest() == digests[offset]
    assert len(set(digests.values())) == N_EVENTS
    source.close()


def test_what_lies_beyond_the_end_is_not_there(broker: KafkaConnection, topic: str) -> None:
    publish(broker, topic)
    for offset in (N_EVENTS, N_EVENTS + 1, 10**9):
        assert KafkaSource(Topic(broker, topic)).read({0: offset}) == {}


@pytest.mark.kafka
def test_what_was_removed_is_not_there_and_hides_no_other(apache_kafka: ApacheKafka, topic_name: str) -> None:
    connection = apache_kafka.connection
    topic = Topic(connection, topic_name)
    topic.create(3)
    with Publisher(topic) as publisher:
        keys: list[bytes | None] = [b"%d" % number for number in range(N_EVENTS)]
        publisher.publish(VALUES, keys, timeout_s=60)
    delete_records(connection, topic_name, 5)
    found = KafkaSource(topic).read({0: 4, 1: 3, 2: 10**9})
    assert {partition: record.offset for partition, record in found.items()} == {1: 3}
    assert KafkaSource(topic).read({0: 5})[0].offset == 5


@pytest.mark.kafka
def test_the_mark_of_a_transaction_is_no_record(apache_kafka: ApacheKafka, topic_name: str) -> None:
    topic = Topic(apache_kafka.connection, topic_name)
    topic.create()
    producer = topic.open_producer(transactional_id=topic_name)
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(topic_name, b"x")
    producer.commit_transaction()
    producer.close()
    assert KafkaSource(topic).read({0: 0})[0].value == b"x"
    assert KafkaSource(topic).read({0: 1}) == {}

"""Dead letters on real brokers: byte for byte, acknowledged or complained about, never lost."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from time import monotonic, time

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from flexihash.consumer.consumer_errors import DeadLetterError, DeadLetterRefused
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.source import KafkaSource
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.letter_box import DeadLetters
from flexihash.consumer.letters import HEADER_PREFIX, NULL_HEADERS
from flexihash.consumer.records import Record
from flexihash.service.embedded_broker import EmbeddedBroker
from tests.integration.brokers import ApacheKafka

PATIENCE_S = 60.0
NOW_MS = int(time() * 1000)

OpenLetters = Callable[[KafkaConnection, str], DeadLetters]


@pytest.fixture
def open_letters() -> Iterator[OpenLetters]:
    """Builds dead letters, and closes them at the end."""
    opened: list[DeadLetters] = []

    def build(connection: KafkaConnection, topic: str) -> DeadLetters:
        opened.append(DeadLetters(Topic(connection, topic)))
        return opened[-1]

    yield build
    for letters in opened:
        letters.close()


def read_all(connection: KafkaConnection, topic: str, n: int) -> list[Record]:
    source = KafkaSource(Topic(connection, topic))
    source.start({})
    records: list[Record] = []
    deadline = monotonic() + PATIENCE_S
    while len(records) < n:
        assert monotonic() < deadline, f"{len(records)} of {n} letters came"
        records += [fetch.record(i) for fetch in source.poll(0.5) for i in range(len(fetch))]
    source.close()
    return records


def record(offset: int, value: bytes | None, timestamp_ms: int = NOW_MS) -> Record:
    return Record("events", 2, offset, timestamp_ms, b"key", value, ())


def facts(letter: Record) -> dict[str, str]:
    named = {name: value for name, value in letter.headers if name.startswith(HEADER_PREFIX)}
    return {name.removeprefix(HEADER_PREFIX): (value or b"").decode() for name, value in named.items()}


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (b"\x00k\xff", b"\xff\xfe not json \x00", (("h", b"\x01"), ("h", b"\x02"), ("é", b"\xc3"))),
        (None, b"{}", ()),
        (b"key", None, (("empty", b""),)),
        (None, None, ()),
        (b"", b"", ()),
    ],
)
def test_letter_is_the_record_byte_for_byte(
    broker: KafkaConnection,
    topic_name: str,
    open_letters: OpenLetters,
    key: bytes | None,
    value: bytes | None,
    headers: tuple[tuple[str, bytes], ...],
) -> None:
    letters = open_letters(broker, topic_name)
    letters.send(Record(topic_name, 3, 41, NOW_MS - 5000, key, value, headers), "decode", "not_json", "größer als 1")
    letters.flush(PATIENCE_S)
    (letter,) = read_all(broker, f"{topic_name}.dlq", 1)
    assert (letter.key, letter.value, letter.timestamp_ms) == (key, value, NOW_MS - 5000)
    assert letter.headers[: len(headers)] == headers
    name, id = letter.headers[len(headers)]
    assert name == "__flexihash.errors.id"
    assert re.fullmatch(rb"[0-9a-f]{12}/1", id or b"")
    assert letter.headers[len(headers) + 1 :] == (
        ("__flexihash.errors.topic", topic_name.encode()),
        ("__flexihash.errors.partition", b"3"),
        ("__flexihash.errors.offset", b"41"),
        ("__flexihash.errors.timestamp", str(NOW_MS - 5000).encode()),
        ("__flexihash.errors.stage", b"decode"),
        ("__flexihash.errors.reason", b"not_json"),
        ("__flexihash.errors.message", "größer als 1".encode()),
    )


def test_headers_that_were_null_are_named(broker: KafkaConnection, topic_name: str, open_letters: OpenLetters) -> None:
    letters = open_letters(broker, topic_name)
    headers = (("a", None), ("b", b""), ("c", None))
    letters.send(Record(topic_name, 0, 0, NOW_MS, None, b"x", headers), "decode", "r", "m")
    letters.flush(PATIENCE_S)
    (letter,) = read_all(broker, f"{topic_name}.dlq", 1)
    assert letter.headers[:3] == (("a", b""), ("b", b""), ("c", b""))
    assert letter.headers[-1] == (NULL_HEADERS, b"0,2")


def test_topic_is_created_once_it_is_needed(
    broker: KafkaConnection, topic_name: str, open_letters: OpenLetters
) -> None:
    letters = open_letters(broker, topic_name)
    letters.flush(PATIENCE_S)  # nothing to do
    assert not letters.topic.exists()
    letters.send(record(0, b"x"), "decode", "r", "m")
    letters.flush(PATIENCE_S)
    assert letters.topic.exists()
    again = open_letters(broker, topic_name)
    again.send(record(1, b"y"), "decode", "r", "m")
    again.flush(PATIENCE_S)
    assert [facts(letter)["offset"] for letter in read_all(broker, letters.topic.name, 2)] == ["0", "1"]


def test_many_letters_all_arrive(broker: KafkaConnection, topic_name: str, open_letters: OpenLetters) -> None:
    letters = open_letters(broker, topic_name)
    for offset in range(3000):
        letters.send(record(offset, b"v%d" % offset), "decode", "r", "m")
    letters.flush(PATIENCE_S)
    found = read_all(broker, letters.topic.name, 3000)
    assert [(letter.value, facts(letter)["offset"]) for letter in found] == [(b"v%d" % i, str(i)) for i in range(3000)]


def test_letter_without_a_timestamp_gets_the_brokers(
    broker: KafkaConnection, topic_name: str, open_letters: OpenLetters
) -> None:
    letters = open_letters(broker, topic_name)
    letters.send(record(0, b"x", timestamp_ms=-1), "decode", "r", "m")
    letters.flush(PATIENCE_S)
    (letter,) = read_all(broker, letters.topic.name, 1)
    assert letter.timestamp_ms >= NOW_MS - 1000
    assert facts(letter)["timestamp"] == "-1"


def test_letters_wait_until_the_broker_is_there(topic_name: str, open_letters: OpenLetters) -> None:
    with EmbeddedBroker() as gone:
        port = gone.port
    connection = KafkaConnection(f"127.0.0.1:{port}")
    letters = open_letters(connection, topic_name)
    letters.send(record(0, b"first"), "decode", "r", "m")
    letters.send(record(1, b"second"), "decode", "r", "m")
    with pytest.raises(DeadLetterError, match="2 dead letters") as caught:
        letters.flush(0.5)
    assert caught.value.retriable
    with EmbeddedBroker(port):
        letters.flush(PATIENCE_S)
        assert [letter.value for letter in read_all(connection, letters.topic.name, 2)] == [b"first", b"second"]
        letters.close()


@pytest.mark.kafka
def test_large_letter_fits_a_topic_that_was_created_for_it(
    apache_kafka: ApacheKafka, topic_name: str, open_letters: OpenLetters
) -> None:
    letters = open_letters(apache_kafka.connection, topic_name)
    value = os.urandom(3_000_000)  # three times what a topic takes by default
    letters.send(record(0, value), "decode", "too_large", "m")
    letters.flush(PATIENCE_S)
    (letter,) = read_all(apache_kafka.connection, letters.topic.name, 1)
    assert letter.value == value


@pytest.mark.kafka
def test_letter_too_large_for_its_topic_is_told_and_kept(
    apache_kafka: ApacheKafka, topic_name: str, open_letters: OpenLetters
) -> None:
    connection = apache_kafka.connection
    Topic(connection, f"{topic_name}.dlq").create(settings={"max.message.bytes": "2000"})
    letters = open_letters(connection, topic_name)
    value = os.urandom(5000)
    letters.send(record(0, b"small"), "decode", "r", "m")
    letters.send(record(7, value), "decode", "r", "m")
    for _ in range(2):
        with pytest.raises(DeadLetterRefused, match=r"1 dead letters .*events\[2\]@7.*max.message.bytes") as caught:
            letters.flush(PATIENCE_S)
        assert not caught.value.retriable
    admin = KafkaAdminClient(**connection.client_settings())
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, letters.topic.name, {"max.message.bytes": "100000"})])
    admin.close()
    letters.flush(PATIENCE_S)
    assert [letter.value for letter in read_all(connection, letters.topic.name, 2)] == [b"small", value]


@pytest.mark.kafka
def test_timestamp_that_the_broker_refuses_stays_in_the_header(
    apache_kafka: ApacheKafka, topic_name: str, open_letters: OpenLetters
) -> None:
    letters = open_letters(apache_kafka.connection, topic_name)
    next_week_ms = NOW_MS + 7 * 86_400_000
    letters.send(record(0, b"from the future", timestamp_ms=next_week_ms), "decode", "r", "m")
    letters.flush(PATIENCE_S)
    (letter,) = read_all(apache_kafka.connection, letters.topic.name, 1)
    assert letter.value == b"from the future"
    assert letter.timestamp_ms < next_week_ms
    assert facts(letter)["timestamp"] == str(next_week_ms)


@pytest.mark.kafka
def test_letters_outlive_a_killed_broker(apache_kafka: ApacheKafka, topic_name: str, open_letters: OpenLetters) -> None:
    letters = open_letters(apache_kafka.connection, topic_name)
    letters.send(record(0, b"before"), "decode", "r", "m")
    letters.flush(PATIENCE_S)
    apache_kafka.kill()
    try:
        letters.send(record(1, b"meanwhile"), "decode", "r", "m")
        with pytest.raises(DeadLetterError) as caught:
            letters.flush(0.2)
        assert caught.value.retriable
    finally:
        apache_kafka.start()
    letters.flush(PATIENCE_S)
    found = read_all(apache_kafka.connection, letters.topic.name, 2)
    assert [letter.value for letter in found] == [b"before", b"meanwhile"]

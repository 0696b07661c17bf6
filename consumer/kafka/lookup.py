"""Single records of a topic, looked up by their offsets."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any

from kafka.errors import OffsetOutOfRangeError

from flexihash.consumer.consumer_errors import BrokerUnavailable
from flexihash.consumer.kafka.client import close_client, open_consumer
from flexihash.consumer.kafka.connection import REQUEST_TIMEOUT_MS
from flexihash.consumer.kafka.failures import translate
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.records import Record

LOOKUP_S = 5.0  # for all of them: a fetch is answered at once, or after 0.5 s where nothing is there
MAX_FETCH_BYTES = 1  # of a partition: the one batch that a broker sends in any case


def look_up(topic: Topic, offsets: Mapping[int, int]) -> dict[int, Record]:
    """The records at these offsets, one per partition, where the log holds one.

    Raises:
        ConsumerError: the broker does not answer, or refuses.
    """
    consumer = open_consumer(topic.connection, MAX_FETCH_BYTES)
    try:
        places = {topic.partition(partition): offset for partition, offset in offsets.items()}
        starts = consumer.beginning_offsets(list(places), timeout_ms=REQUEST_TIMEOUT_MS)
        return _fetch(topic, consumer, {at: offset for at, offset in places.items() if offset >= starts[at]})
    except OffsetOutOfRangeError as error:  # beyond the log's end
        beyond = {at.partition for at in error.args[0]}
        return look_up(topic, {partition: offset for partition, offset in offsets.items() if partition not in beyond})
    except Exception as error:
        raise translate(error, topic.connection) from error
    finally:
        close_client(consumer)


def _fetch(topic: Topic, consumer: Any, places: Mapping[Any, int]) -> dict[int, Record]:
    consumer.assign(list(places))
    for at, offset in places.items():
        consumer.seek(at, offset)
    found: dict[int, Record] = {}
    waiting = set(places)
    deadline = monotonic() + LOOKUP_S
    while waiting:
        if monotonic() > deadline:
            servers = topic.connection.bootstrap_servers
            raise BrokerUnavailable(f"Kafka at {servers} does not tell what {topic} holds")
        for at, records in consumer.poll(timeout_ms=100).items():
            found |= {r.partition: build_record(r) for r in records if r.offset == places[at]}
        waiting = {at for at in waiting if not _is_past(consumer, at, places[at])}
    return found


def build_record(r: Any) -> Record:
    """A record of kafka-python as ours."""
    return Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))


def _is_past(consumer: Any, at: Any, offset: int) -> bool:
    """Whether all was handed out up to an offset, or the log ends before it."""
    end = consumer.highwater(at)
    return consumer.position(at) > offset or (end is not None and end <= offset)

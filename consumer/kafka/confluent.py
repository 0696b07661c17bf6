"""The source by confluent-kafka (librdkafka), which reads several times faster than kafka-python.

Only reading is its own: `KafkaSource` chooses positions, asks for ids and commits as ever. librdkafka reconnects by
itself and says nothing; that nobody answers, `KafkaSource.refresh` finds out. librdkafka 2.16.1 dies of what Tansu says
of a topic that was deleted; what Apache Kafka says it reads.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaError
from kafka import TopicPartition
from kafka.errors import (
    CorruptRecordError,
    KafkaConnectionError,
    OffsetOutOfRangeError,
    SaslAuthenticationFailedError,
    for_code,
)

from flexihash.consumer.kafka.client import MAX_FETCH_BYTES
from flexihash.consumer.kafka.connection import MAX_RECONNECT_BACKOFF_MS, REQUEST_TIMEOUT_MS, KafkaConnection
from flexihash.consumer.kafka.source import KafkaSource
from flexihash.consumer.records import Fetch, Record

QUEUE_BACKOFF_MS = 10  # once 100,000 records wait here, before more are asked for; librdkafka's own is 1 s
UNREADABLE = (KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION, KafkaError._NOT_IMPLEMENTED)

log = logging.getLogger(__name__)


class ConfluentSource(KafkaSource):
    """`KafkaSource`, read by librdkafka."""

    POLL_RECORDS = 1024  # a millisecond of work here too: librdkafka parses on threads of its own

    def _open_consumer(self) -> Any:
        return _Consumer(self._topic.connection)

    def _to_fetches(self, batches: Mapping[Any, Sequence[Any]]) -> list[Fetch]:
        return [_fetch(at.partition, messages) for at, messages in batches.items()]


def _fetch(partition: int, messages: Sequence[Any]) -> Fetch:
    def build_record(index: int) -> Record:
        m = messages[index]
        kind, timestamp_ms = m.timestamp()
        if kind == confluent_kafka.TIMESTAMP_NOT_AVAILABLE:
            timestamp_ms = -1
        return Record(m.topic(), partition, m.offset(), timestamp_ms, m.key(), m.value(), tuple(m.headers() or ()))

    return Fetch(partition, [m.offset() for m in messages], [m.value() for m in messages], build_record)


class _Consumer:
    """As much of a KafkaConsumer as `KafkaSource` uses; raises the errors that one would raise."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._consumer = confluent_kafka.Consumer(_settings(connection), logger=log)
        self._to_assign: dict[Any, int] = {}
        self._failure: Exception | None = None  # behind the records that were handed out last

    def assign(self, partitions: Sequence[Any]) -> None:
        self._to_assign = dict.fromkeys(partitions, confluent_kafka.OFFSET_BEGINNING)

    def seek(self, at: Any, position: int) -> None:
        """To come after `assign` and before `poll`."""
        self._to_assign[at] = position

    def poll(self, timeout_ms: int, max_records: int = 500) -> dict[Any, list[Any]]:
        """Waits for the first record only, and then takes what is there.

        What comes behind an error is dropped: after it, whoever reads begins anew behind what was handed out.
        """
        if self._failure is not None:
            raise self._failure
        if self._to_assign:
            self._consumer.assign([_place(at, position) for at, position in self._to_assign.items()])
            self._to_assign = {}
        batches: dict[Any, list[Any]] = defaultdict(list)
        first = self._consumer.poll(timeout_ms / 1000)
        if first is None:
            return batches
        for message in (first, *self._consumer.consume(max_records - 1, timeout=0.0)):
            if message.error() is None:
                batches[TopicPartition(message.topic(), message.partition())].append(message)
            elif not batches:
                raise self._translate(message)
            else:
                self._failure = self._translate(message)
                break
        return batches

    def highwater(self, at: Any) -> int | None:
        """The log's end as the last fetch heard it."""
        _, end = self._consumer.get_watermark_offsets(_place(at), cached=True)
        return None if end < 0 else int(end)

    def position(self, at: Any) -> int:
        """The next offset to be handed out."""
        position = self._consumer.position([_place(at)])[0].offset
        return int(self._to_assign.get(at, position))

    def beginning_offsets(self, partitions: Sequence[Any], timeout_ms: int) -> dict[Any, int]:
        return {at: low for at, (low, _) in self._watermarks(partitions, timeout_ms).items()}

    def end_offsets(self, partitions: Sequence[Any], timeout_ms: int) -> dict[Any, int]:
        return {at: high for at, (_, high) in self._watermarks(partitions, timeout_ms).items()}

    def close(self) -> None:
        self._consumer.close()

    def _watermarks(self, partitions: Sequence[Any], timeout_ms: int) -> dict[Any, tuple[int, int]]:
        timeout_s = timeout_ms / 1000
        try:
            for topic in {at.topic for at in partitions}:
                self._consumer.list_topics(topic, timeout_s)  # or a partition may be too new for it
            return {at: self._consumer.get_watermark_offsets(_place(at), timeout=timeout_s) for at in partitions}
        except confluent_kafka.KafkaException as failure:
            raise _translate(failure.args[0]) from failure

    def _translate(self, message: Any) -> Any:
        error = message.error()
        at = TopicPartition(message.topic(), message.partition())
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            return OffsetOutOfRangeError({at: message.offset()})
        return _translate(error)


def _translate(error: Any) -> Any:
    code = error.code()
    if code in UNREADABLE:
        return CorruptRecordError(error.str())
    if code == KafkaError._AUTHENTICATION:
        return SaslAuthenticationFailedError(error.str())
    return KafkaConnectionError(error.str()) if code < 0 else for_code(code)(error.str())


def _place(at: Any, position: int = confluent_kafka.OFFSET_INVALID) -> Any:
    return confluent_kafka.TopicPartition(at.topic, at.partition, position)


def _settings(connection: KafkaConnection) -> dict[str, Any]:
    settings = {
        "bootstrap.servers": connection.bootstrap_servers,
        "security.protocol": connection.security_protocol,
        "sasl.mechanism": connection.sasl_mechanism,
        "sasl.username": connection.username,
        "sasl.password": connection.password,
        "ssl.ca.location": connection.ssl_cafile,
        "ssl.certificate.location": connection.ssl_certfile,
        "ssl.key.location": connection.ssl_keyfile,
        "client.id": "flexihash",
        "group.id": "flexihash",  # there must be one; nothing joins it, as partitions are assigned
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "check.crcs": True,
        "max.partition.fetch.bytes": MAX_FETCH_BYTES,
        "fetch.queue.backoff.ms": QUEUE_BACKOFF_MS,
        "reconnect.backoff.max.ms": MAX_RECONNECT_BACKOFF_MS,
        "socket.timeout.ms": REQUEST_TIMEOUT_MS,
        "log_level": 2,  # critical: every attempt to reconnect would be an error
    }
    return {name: value for name, value in settings.items() if value is not None}

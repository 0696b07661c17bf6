"""Dead letters: records that could not be learned from, kept as they were, with the reason, in ``<topic>.dlq``."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from time import monotonic
from typing import Any

from kafka.errors import (
    AuthorizationError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
)
from kafka.serializer import Serializer

from consumer.errors import ConsumerError, DeadLetterError, DeadLetterRefused
from consumer.kafka import KafkaConnection, close_producer, create_topic, open_producer, topic_exists
from consumer.source import Record

log = logging.getLogger(__name__)

TOPIC_SUFFIX = ".dlq"
HEADER_PREFIX = "__flexihash.errors."
NULL_HEADERS = HEADER_PREFIX + "null_headers"
MAX_WAITING = 10_000  # letters in memory; more than that and the broker has to catch up first
FLUSH_TIMEOUT_S = 30.0  # of the flush that MAX_WAITING forces
MAX_LETTER_BYTES = 100 * 1024 * 1024  # what a broker takes in one request at most: its own limits decide, not ours
TOPIC_MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # of a topic made here: what is too large to learn from must fit
REFUSALS = (
    AuthorizationError,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
)


@dataclass(slots=True, eq=False)
class _Letter:
    where: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    timestamp_ms: int | None
    future: Any = None  # of the attempt under way; None: to be sent
    error: Exception | None = None  # why the last attempt failed


class DeadLetters:
    """Sends rejected records of `topic` to ``<topic>.dlq``, which is created if it is absent. For one thread.

    A letter has the record's key, value, headers and timestamp, byte for byte, and the headers
    ``__flexihash.errors.`` + ``topic``, ``partition``, ``offset``, ``timestamp`` (ms), ``stage``, ``reason`` and
    ``message``, as UTF-8 text. kafka-python cannot write a header with a null value: it is written empty, and
    ``__flexihash.errors.null_headers`` lists the places of such headers (``0,2``).
    """

    def __init__(self, connection: KafkaConnection, topic: str) -> None:
        self.topic = topic + TOPIC_SUFFIX
        self._connection = connection
        self._producer: Any = None
        self._waiting: deque[_Letter] = deque()

    def send(self, record: Record, stage: str, reason: str, message: str) -> None:
        """Send a letter, without waiting for the broker.

        Args:
            stage: what failed, such as ``decode``.
            reason: a slug, for counting.
            message: for people.

        Raises:
            DeadLetterError: MAX_WAITING letters wait already, and a flush failed. The letter is kept all the same.
        """
        letter = _write(record, stage, reason, message)
        self._waiting.append(letter)
        while self._waiting[0].future is not None and self._waiting[0].future.succeeded():
            self._waiting.popleft()
        if self._producer is None and len(self._waiting) == 1:
            self._try_to_connect()
        if self._producer is not None and letter.future is None:
            self._post(letter)
        if len(self._waiting) >= MAX_WAITING:
            self.flush(FLUSH_TIMEOUT_S)

    def flush(self, timeout_s: float) -> None:
        """Wait until every letter is acknowledged. Letters that failed before are sent again.

        Raises:
            DeadLetterError: some are not, within `timeout_s`; the next flush goes on with them.
            DeadLetterRefused: the broker will not take one of them, now or later.
        """
        if not self._waiting:
            return
        deadline = monotonic() + timeout_s
        try:
            self._connect()
        except ConsumerError as error:
            refusal = DeadLetterError if error.retriable else DeadLetterRefused
            raise refusal(f"{len(self._waiting)} dead letters wait for {self.topic}: {error}") from error
        for _ in range(2):  # the second time with what the broker minded taken away, and for those beside it in a batch
            for letter in self._waiting:
                if letter.future is None:
                    self._post(letter)
            for letter in self._waiting:
                self._await(letter, deadline)
            self._waiting = deque(letter for letter in self._waiting if not _is_acknowledged(letter))
            if all(letter.future is not None for letter in self._waiting):
                break
        if self._waiting:
            self._complain()

    def close(self) -> None:
        """Let go of the connection; letters that are not acknowledged by then are lost to this object. Flush first."""
        producer, self._producer = self._producer, None
        if producer is not None:
            close_producer(producer, timeout_s=1.0)

    def _connect(self) -> None:
        if self._producer is not None:
            return
        if not topic_exists(self._connection, self.topic):
            settings = {"max.message.bytes": str(TOPIC_MAX_MESSAGE_BYTES)}
            if create_topic(self._connection, self.topic, settings=settings):
                log.info("created topic %s for dead letters", self.topic)
        self._producer = open_producer(
            self._connection,
            self.topic,
            # An idempotent producer never works again once the broker refused one batch: it fails what comes after.
            # A letter that is doubled by a retry does less harm.
            enable_idempotence=False,
            max_in_flight_requests_per_connection=1,  # keeps the order all the same
            linger_ms=5,
            compression_type="lz4",  # records that fitted only because their producer had compressed them fit again
            max_request_size=MAX_LETTER_BYTES,
            max_block_ms=5_000,
            value_serializer=_NullableBytes(),
        )

    def _try_to_connect(self) -> None:
        try:
            self._connect()
        except ConsumerError as error:
            log.warning("dead letters wait in memory until %s can be reached: %s", self.topic, error)

    def _post(self, letter: _Letter) -> None:
        value = _NULL if letter.value is None else letter.value
        try:
            letter.future = self._producer.send(
                self.topic, value, key=letter.key, headers=letter.headers, timestamp_ms=letter.timestamp_ms
            )
        except KafkaError as error:
            letter.error = error

    def _await(self, letter: _Letter, deadline: float) -> None:
        if letter.future is None:
            return
        try:
            letter.future.get(timeout=max(0.0, deadline - monotonic()))
        except KafkaError as error:
            letter.error = error
            if letter.future.is_done:
                letter.future = None
            if isinstance(error, InvalidTimestampError):
                letter.timestamp_ms = None  # the broker sets its own; the record's is among the headers

    def _complain(self) -> None:
        """Raise for the letters that wait."""
        worst = next((letter for letter in self._waiting if isinstance(letter.error, REFUSALS)), self._waiting[0])
        text = f"{len(self._waiting)} dead letters are not acknowledged by {self.topic}: {worst.where}: {worst.error}"
        if isinstance(worst.error, REFUSALS):
            raise DeadLetterRefused(f"{text}; change the topic's settings (max.message.bytes?) or rights")
        raise DeadLetterError(text)


class _NullableBytes(Serializer):  # type: ignore[misc]
    """Lets a record through whose key and value are both null, which the producer takes for a mistake."""

    def serialize(self, topic: str, headers: list[tuple[str, bytes]], data: object) -> object:
        return None if data is _NULL else data


_NULL = object()


def _is_acknowledged(letter: _Letter) -> bool:
    return letter.future is not None and bool(letter.future.succeeded())


def _write(record: Record, stage: str, reason: str, message: str) -> _Letter:
    facts = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        "stage": stage,
        "reason": reason,
        "message": message,
    }
    headers = [(name, value or b"") for name, value in record.headers]
    headers += [(HEADER_PREFIX + name, str(fact).encode(errors="replace")) for name, fact in facts.items()]
    nulls = [str(i) for i, (_, value) in enumerate(record.headers) if value is None]
    if nulls:
        headers.append((NULL_HEADERS, ",".join(nulls).encode()))
    return _Letter(
        where=f"{record.topic}[{record.partition}]@{record.offset}",
        key=record.key,
        value=record.value,
        headers=headers,
        timestamp_ms=record.timestamp_ms if record.timestamp_ms >= 0 else None,
    )

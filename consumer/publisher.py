"""Puts events into a topic: a few that want to know where they went, or a stream that wants to be fast."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from time import monotonic
from types import TracebackType
from typing import Any, Self

from kafka.errors import (
    AuthorizationError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
)

from flexihash.consumer.consumer_errors import BrokerUnavailable, ConsumerError, PublishError, PublishRefused
from flexihash.consumer.kafka.client import close_producer
from flexihash.consumer.kafka.topic import Topic

MAX_IN_FLIGHT = 50_000  # events that `send` is ahead of the broker by; the client itself has no bound
SEND_TIMEOUT_S = 60.0  # for the oldest of them to be acknowledged: longer than a broker takes to restart
REST_S = 1.0  # after a failed attempt to connect: callers until then are told at once
MAX_EVENT_BYTES = 1024 * 1024  # what a topic takes by default: refused here, it does not cost others their producer
REFUSALS = (AuthorizationError, MessageSizeTooLargeError, PolicyViolationError, RecordListTooLargeError)


class Publisher:
    """Publishes to one topic, which must exist. Thread-safe; connects when first used, and anew after a failure."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self._lock = threading.Lock()
        self._producer: Any = None
        self._failure: tuple[float, ConsumerError] | None = None
        self._sent: deque[Any] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def publish(
        self, values: Sequence[bytes], keys: Sequence[bytes | None] | None = None, timeout_s: float = 10.0
    ) -> list[tuple[int, int]]:
        """Publish events and wait until all replicas have them.

        Args:
            keys: one per value; events of one key go to one partition. Without, the client spreads batches.

        Returns:
            Partition and offset of each event, in order.

        Raises:
            BrokerUnavailable: nobody answers.
            TopicNotFound: the topic does not exist.
            PublishError: not all were acknowledged in time. Some may be in the log, or still get there.
            PublishRefused: an event is too large, or may not be written.
        """
        deadline = monotonic() + timeout_s
        producer = self._connected()
        futures = [self._post(producer, *event) for event in zip(values, keys or [None] * len(values), strict=True)]
        results = [self._await(future, deadline) for future in futures]
        errors = [result for result in results if isinstance(result, Exception)]
        if errors:
            raise self._complaint(errors, len(results), producer)
        return [(metadata.partition, metadata.offset) for metadata in results]

    def send(self, value: bytes, key: bytes | None = None) -> None:
        """Send one event of a stream; waits only when MAX_IN_FLIGHT are ahead of the broker.

        Raises:
            ConsumerError: as `publish`, for this event or for one that was sent before.
        """
        producer = self._producer or self._connected()
        future = self._post(producer, value, key)
        with self._lock:
            self._sent.append(future)
            crowded = len(self._sent) >= MAX_IN_FLIGHT
            settled = [self._sent.popleft()] if crowded or self._sent[0].is_done else []
            while self._sent and self._sent[0].is_done:
                settled.append(self._sent.popleft())
        self._check(settled, monotonic() + SEND_TIMEOUT_S, producer)

    def flush(self, timeout_s: float = SEND_TIMEOUT_S) -> None:
        """Wait until everything sent by `send` is acknowledged.

        Raises:
            PublishError: something is not. It is forgotten then, and not sent again.
        """
        with self._lock:
            sent, self._sent = list(self._sent), deque()
        self._check(sent, monotonic() + timeout_s, self._producer)

    def close(self, timeout_s: float = 5.0) -> None:
        """Let go of the connection, after what was sent is out or `timeout_s` is over. Call `flush` to know which."""
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            close_producer(producer, timeout_s)

    def _connected(self) -> Any:
        with self._lock:
            if self._producer is not None:
                return self._producer
            if self._failure is not None and monotonic() < self._failure[0]:
                raise self._failure[1]
            try:
                self._producer = self._open_producer()
            except ConsumerError as error:
                self._failure = (monotonic() + REST_S, error)
                raise
            self._failure = None
            return self._producer

    def _open_producer(self) -> Any:
        return self.topic.open_producer(
            linger_ms=5,
            batch_size=256 * 1024,
            compression_type="lz4",
            max_request_size=MAX_EVENT_BYTES,
            max_block_ms=5_000,
        )

    def _post(self, producer: Any, value: bytes, key: bytes | None) -> Any:
        try:
            return producer.send(self.topic.name, value, key=key)
        except REFUSALS as error:
            raise PublishRefused(f"{self.topic} does not take an event of {len(value)} bytes: {error}") from error
        except KafkaError as error:
            raise BrokerUnavailable(f"cannot publish to {self.topic}: {error}") from error

    def _await(self, future: Any, deadline: float) -> Any:
        """The record's metadata, or the exception that it failed with."""
        try:
            return future.get(timeout=max(0.0, deadline - monotonic()))
        except KafkaError as error:
            return error

    def _check(self, futures: Sequence[Any], deadline: float, producer: Any) -> None:
        results = (self._await(future, deadline) for future in futures)
        errors = [result for result in results if isinstance(result, Exception)]
        if errors:
            raise self._complaint(errors, len(futures), producer)

    def _complaint(self, errors: Sequence[Exception], n_sent: int, producer: Any) -> PublishError:
        refusals = [error for error in errors if isinstance(error, REFUSALS)]
        if not all(isinstance(error, KafkaTimeoutError) for error in errors):
            self._drop(producer)
        text = f"{len(errors)} of {n_sent} events are not acknowledged by {self.topic}: {(refusals or errors)[0]}"
        return PublishRefused(text) if refusals else PublishError(text)

    def _drop(self, producer: Any) -> None:
        """Replace a producer at its next use: once the broker refused a batch, an idempotent one never works again."""
        with self._lock:
            current = self._producer is not None and self._producer is producer
            if current:
                self._producer = None
        if current:
            close_producer(producer, timeout_s=1.0)

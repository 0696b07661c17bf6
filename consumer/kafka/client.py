"""Clients of kafka-python: how they are opened, asked and closed.

What shaped this, all of it read in kafka-python 3.0.12 or seen by experiment:

- `allow_auto_create_topics=False` is not passed on to where it counts, so that a consumer's or producer's refresh of
  its metadata brings a deleted topic back; `open_client` sets it there.
- A client that fails to connect in its constructor leaves its thread and sockets behind; `open_client` closes them.
- A poll hands out up to so many records, however large: `open_consumer` ends it after POLL_BYTES as well.
- What a broker says last, before it hangs up, is thrown away where both are there at once: such as why a login failed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import islice
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer
from kafka.consumer.fetcher import Fetcher
from kafka.errors import KafkaTimeoutError

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.failures import find_tls_failure, translate

log = logging.getLogger(__name__)

POLL_BYTES = (
    8 * 1024 * 1024
)  # handed out by a poll: 256 events of 32 KiB; a compressed batch may have many of megabytes
MAX_FETCH_BYTES = 4 * 1024 * 1024  # of one partition in one answer; 1 MiB leaves the parser waiting between answers


def open_client(client_class: Any, connection: KafkaConnection, **settings: Any) -> Any:
    """A connected kafka-python client.

    Raises:
        ConsumerError: it could not connect; nothing of it is left behind.
    """
    connection.check_files()
    _quieten_client_log()
    attempts = _Attempts(client_class)
    try:
        client = client_class(**connection.client_settings(), kafka_client=attempts.open_network, **settings)
    except Exception as error:
        attempts.close()
        raise translate(attempts.find_cause(error, connection), connection) from error
    attempts.forget()
    return client


def open_consumer(connection: KafkaConnection, max_fetch_bytes: int = MAX_FETCH_BYTES) -> Any:
    """A KafkaConsumer that reads what is assigned to it from where it is told to, and nothing of aborted transactions.

    It has no group: with one, each poll first waits for the group's coordinator, even if records are buffered.

    Args:
        max_fetch_bytes: of one partition in one answer, which holds one batch at least.
    """
    consumer = open_client(
        KafkaConsumer,
        connection,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        max_partition_fetch_bytes=max_fetch_bytes,
        metrics_enabled=False,
    )
    consumer._fetcher.__class__ = _BoundedFetcher
    return consumer


def close_client(client: Any) -> None:
    """Let go of a client, whatever state it is in."""
    try:
        client.close()
    except Exception as error:  # of a client that is broken already: nothing is lost by it
        log.debug("closing %s failed: %s", type(client).__name__, error)


def close_producer(producer: Any, timeout_s: float) -> None:
    """Send what waits for at most `timeout_s`, then close; what is left by then fails, and its futures say so."""
    try:
        producer.close(timeout=timeout_s)
    except KafkaTimeoutError:
        # close() gives up before it has closed anything when its flush does; only the sender can fail what waits.
        producer._sender.force_close()
        producer.close(timeout=timeout_s)


class Admin:
    """An admin client, opened when it is first asked, and kept while it works."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._client: Any = None

    def ask(self, question: Callable[[Any], Any], *expected: type[Exception]) -> Any:
        """What `question` gives, which is handed the client.

        Args:
            expected: errors that are answers too, and come as they are.

        Raises:
            ConsumerError: the broker does not answer, or refuses.
        """
        if self._client is None:
            self._client = open_client(KafkaAdminClient, self._connection)
        try:
            return question(self._client)
        except expected:
            raise
        except Exception as error:
            self.close()
            raise translate(error, self._connection) from error

    def close(self) -> None:
        """Let go of the client. May be called twice."""
        client, self._client = self._client, None
        if client is not None:
            close_client(client)


class _BoundedFetcher(Fetcher):  # type: ignore[misc]
    """A fetcher that hands out no further record after POLL_BYTES of them."""

    class PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
        """The records of one partition in one answer of a broker."""

        def take(self, n: int | None = None) -> list[Any]:
            """The next records; an error after some of them comes at the next call."""
            self._maybe_raise_next_inline_exception()
            records = []
            end = self.bytes_read + POLL_BYTES
            try:
                for record in islice(self.record_iterator, n):
                    records.append(record)
                    if self.bytes_read >= end:
                        break
            except Exception as error:
                if not records:
                    raise
                self._next_inline_exception = error
            return records

    def fetched_records(self, max_records: int | None = None, update_offsets: bool = True) -> Any:
        self._n_bytes = 0
        return super().fetched_records(max_records, update_offsets)

    def _append(self, drained: Any, part: Any, max_records: int, update_offsets: bool) -> int:
        before = part.bytes_read
        n_records: int = super()._append(drained, part, max_records, update_offsets)
        self._n_bytes += part.bytes_read - before
        return max_records if self._n_bytes >= POLL_BYTES else n_records


class _Attempts:
    """What a client's constructor does to connect, and why it failed.

    A constructor that gives up says no more than that: a wrong password and a broker that is down look the same. Why
    an attempt failed, only its connection knows.
    """

    def __init__(self, client_class: Any) -> None:
        self._client_class = client_class
        self._networks: list[Any] = []
        self._failures: list[Exception] = []

    def open_network(self, **settings: Any) -> Any:
        """What the constructor is to call for its network client."""
        network = self._client_class.DEFAULT_CONFIG["kafka_client"](**settings)
        network.cluster.config["allow_auto_create_topics"] = False
        self._networks.append(network)
        self._watch(network._manager)
        return network

    def find_cause(self, error: Exception, connection: KafkaConnection) -> Exception:
        """The failure of an attempt that says most, where the constructor only says that it gave up."""
        failures = self._failures
        if not isinstance(error, KafkaTimeoutError) or not failures:
            return error
        lasting = [failure for failure in failures if not translate(failure, connection).retriable]
        in_tls = [failure for failure in failures if find_tls_failure(failure) is not None]
        return (lasting or in_tls or failures)[-1]

    def close(self) -> None:
        """Ends what a constructor that failed has left behind."""
        for network in self._networks:
            network.close()

    def forget(self) -> None:
        """Watches no more: the client is open."""
        for network in self._networks:
            del network._manager.get_connection  # back to the class's own

    def _watch(self, manager: Any) -> None:
        get_connection = manager.get_connection

        def get_watched_connection(*args: Any, **kwargs: Any) -> Any:
            connection = get_connection(*args, **kwargs)
            connection.init_future.add_errback(self._failures.append)
            connection.connection_made = lambda transport: _make_connection(connection, transport)
            return connection

        manager.get_connection = get_watched_connection


def _make_connection(connection: Any, transport: Any) -> None:
    """Has the transport hand on what it received before it tells that the broker hung up."""
    receive = transport._sock_recv

    def receive_first() -> tuple[bytes, Exception | None]:
        received, error = receive()
        return (received, None) if received else (received, error)

    transport._sock_recv = receive_first
    type(connection).connection_made(connection, transport)


def _quieten_client_log() -> None:
    # The client logs every attempt to reconnect as an error, several a second. What matters is raised anyhow. Whoever
    # wants to see it sets a level of their own first.
    client_log = logging.getLogger("kafka")
    if client_log.level == logging.NOTSET:
        client_log.setLevel(logging.CRITICAL)

"""Kafka by kafka-python: connections, topics, and the source that the learner reads from.

What shaped this, all of it read in kafka-python 3.0.12 or seen by experiment:

- A deserializer that raises makes the next `poll` spin for ever, so there are none, and after any exception the
  consumer is closed and built again where it stood.
- The consumer has no group: with one, each poll first waits for the group's coordinator, even if records are buffered.
  Offsets are committed through the admin client instead.
- `allow_auto_create_topics=False` is not passed on to where it counts, so that a consumer's or producer's refresh of
  its metadata brings a deleted topic back; `open_client` sets it there.
- A client that fails to connect in its constructor leaves its thread and sockets behind; `open_client` closes them.
- What a broker says last, before it hangs up, is thrown away where both are there at once: such as why a login failed.
- Lists of end offsets may come back too low (Tansu gives the last batch's first offset plus one), while the high
  watermark of a fetch is right. And an offset beyond the end is silence on Tansu, an error on Apache Kafka.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import (
    AuthorizationError,
    CorruptRecordError,
    IllegalSaslStateError,
    IllegalStateError,
    InvalidReceiveError,
    KafkaConfigurationError,
    KafkaError,
    KafkaTimeoutError,
    LogTruncationError,
    OffsetOutOfRangeError,
    SaslAuthenticationFailedError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    UnsupportedCodecError,
    UnsupportedSaslMechanismError,
    for_code,
)
from kafka.structs import OffsetAndMetadata

from flexihash.consumer.consumer_errors import (
    AccessDenied,
    BrokerRefused,
    BrokerUnavailable,
    BrokerUntrusted,
    ClientFailed,
    ConnectionSettingsError,
    ConsumerError,
    IdentityChanged,
    PositionOutOfRange,
    RecordUnreadable,
    TopicNotFound,
)
from flexihash.consumer.records import Fetch, Identity, OnLost, Record, StartAt
from flexihash.consumer.tls import NO_PASSPHRASE, check_certificates, check_identity

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_MS = 3_000  # for a client's first answer: short, since a stop signal waits for it
REQUEST_TIMEOUT_MS = 10_000  # for one answer of a broker that is connected
MAX_RECONNECT_BACKOFF_MS = 1_000  # the client's own 30 s would outlast a broker's restart
MAX_POLL_S = 0.5  # a poll cannot be woken, and a stop signal must not wait long
SILENCE_S = 30.0  # of a broker that has records left to send
PROBE_S = 5.0  # for a log's end: a fetch at the end is answered after 0.5 s
MAX_FETCH_BYTES = 4 * 1024 * 1024  # of one partition in one answer; 1 MiB leaves the parser waiting between answers
SECURITY_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
TLS_ALERT = 0x150303  # the first three bytes of what a TLS port answers to a client that speaks none


@dataclass(frozen=True)
class KafkaConnection:
    """How to reach a cluster.

    Args:
        bootstrap_servers: ``host:port``, or several with commas between.
        security_protocol: one of SECURITY_PROTOCOLS.
        sasl_mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, with `username` and `password`.
        ssl_cafile: PEM file of the authority that signed the brokers' certificates; None trusts the system's.
        ssl_certfile, ssl_keyfile: PEM files of this client's own certificate and its key, for brokers that ask for one.

    Raises:
        ConnectionSettingsError: an unknown protocol, SASL without mechanism, name and password, or a certificate
            without its key.
    """

    bootstrap_servers: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None

    def __post_init__(self) -> None:
        if self.security_protocol not in SECURITY_PROTOCOLS:
            known = ", ".join(SECURITY_PROTOCOLS)
            raise ConnectionSettingsError(f"security protocol {self.security_protocol!r} is not one of {known}")
        if self.security_protocol.startswith("SASL") and not (self.sasl_mechanism and self.username and self.password):
            raise ConnectionSettingsError(f"{self.security_protocol} needs a SASL mechanism, a username and a password")
        if bool(self.ssl_certfile) != bool(self.ssl_keyfile):
            raise ConnectionSettingsError("a client certificate needs its key, and a key its certificate")

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS is spoken."""
        return self.security_protocol.endswith("SSL")

    def check_files(self) -> None:
        """Returns where the files of TLS can be used, if TLS is spoken.

        Raises:
            ConnectionSettingsError: one cannot; named.
        """
        if self.is_encrypted and self.ssl_cafile:
            check_certificates(Path(self.ssl_cafile))
        if self.is_encrypted and self.ssl_certfile and self.ssl_keyfile:
            check_identity(Path(self.ssl_certfile), Path(self.ssl_keyfile))

    def client_settings(self) -> dict[str, Any]:
        """The keyword arguments that every kafka-python client takes; names that are not set are left out."""
        settings = {
            "bootstrap_servers": self.bootstrap_servers,
            "security_protocol": self.security_protocol,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.username,
            "sasl_plain_password": self.password,
            "ssl_cafile": self.ssl_cafile,
            "ssl_certfile": self.ssl_certfile,
            "ssl_keyfile": self.ssl_keyfile,
            "ssl_password": NO_PASSPHRASE,
            "client_id": "flexihash",
            "bootstrap_timeout_ms": CONNECT_TIMEOUT_MS,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "reconnect_backoff_max_ms": MAX_RECONNECT_BACKOFF_MS,
        }
        return {name: value for name, value in settings.items() if value is not None}

    def translate(self, error: Exception) -> ConsumerError:
        """What a failure of kafka-python means, as one of our errors."""
        servers = self.bootstrap_servers
        text = str(error) or type(error).__name__
        match error:
            case ConsumerError():
                return error
            case SaslAuthenticationFailedError():
                reason = text.rpartition(f"{type(error).__name__}: ")[2]
                return AccessDenied(
                    f"Kafka at {servers} denies user {self.username!r} access by {self.sasl_mechanism}: {reason}; check"
                    " FLEXIHASH_SASL_USERNAME and FLEXIHASH_SASL_PASSWORD"
                )
            case UnsupportedSaslMechanismError():
                return AccessDenied(
                    f"Kafka at {servers} denies access: it takes no login by {self.sasl_mechanism}; check"
                    " FLEXIHASH_SASL_MECHANISM"
                )
            case AuthorizationError():
                return AccessDenied(
                    f"Kafka at {servers} denies access: {text}; grant user {self.username!r} the rights that"
                    " docs/operations.md lists"
                )
            case IllegalSaslStateError():
                return ConnectionSettingsError(
                    f"Kafka at {servers} takes no login there: set FLEXIHASH_SECURITY_PROTOCOL to"
                    f" {self.security_protocol.removeprefix('SASL_')}, or name another port"
                )
            case InvalidReceiveError() if not self.is_encrypted and _is_tls_alert(text):
                return ConnectionSettingsError(
                    f"Kafka at {servers} speaks TLS there: set FLEXIHASH_SECURITY_PROTOCOL to SSL or SASL_SSL, or name"
                    " another port"
                )
            case _ if (failure := _tls_failure(error)) is not None:
                return self._translate_tls(failure)
            case CorruptRecordError() | UnsupportedCodecError():
                return RecordUnreadable(f"Kafka at {servers} holds a record that cannot be read: {text}")
            case KafkaTimeoutError():
                return BrokerUnavailable(
                    f"Kafka at {servers} does not answer ({text}): is the address right, is it up, does it speak"
                    f" {self.security_protocol} there?"
                )
            case KafkaConfigurationError() | ValueError() | TypeError() | FileNotFoundError():
                return ConnectionSettingsError(f"cannot connect to Kafka at {servers!r}: {text}")
            case KafkaError(retriable=True) | OSError():
                return BrokerUnavailable(f"Kafka at {servers} is not available: {text}")
            case KafkaError() if not isinstance(error, IllegalStateError):
                return BrokerRefused(f"Kafka at {servers} refuses: {text}")
        return ClientFailed(f"the client of Kafka at {servers} failed: {type(error).__name__}: {text}")

    def _translate_tls(self, failure: ssl.SSLError) -> ConsumerError:
        servers = self.bootstrap_servers
        if isinstance(failure, ssl.SSLCertVerificationError):
            reason = failure.verify_message.rstrip(".")
            return BrokerUntrusted(
                f"the certificate of Kafka at {servers} is not trusted: {reason}; check the host names in"
                " FLEXIHASH_BOOTSTRAP_SERVERS, and that FLEXIHASH_SSL_CAFILE is of the authority that signed it"
            )
        if "_ALERT_" in (failure.reason or ""):
            return AccessDenied(
                f"Kafka at {servers} refuses TLS with this client: {failure.reason}; check FLEXIHASH_SSL_CERTFILE and"
                " FLEXIHASH_SSL_KEYFILE"
            )
        return BrokerUnavailable(
            f"Kafka at {servers} ended the TLS handshake ({failure.reason}): is it up, and does it speak"
            f" {self.security_protocol} there? See FLEXIHASH_SECURITY_PROTOCOL"
        )


def _is_tls_alert(text: str) -> bool:
    """Whether the client took a TLS alert for the length of an answer: ``Invalid frame length: 352518912``."""
    number = text.rpartition(" ")[2]
    return number.isdecimal() and int(number) >> 8 == TLS_ALERT


def _tls_failure(error: Exception) -> ssl.SSLError | None:
    """What went wrong in TLS; the client wraps it in an error of its own, or raises that while it handles it."""
    found = (cause for cause in (*error.args, error.__context__) if isinstance(cause, ssl.SSLError))
    return next(found, None)


def topic_exists(connection: KafkaConnection, topic: str) -> bool:
    """Whether the topic is there; never creates it.

    Raises:
        ConsumerError: the broker does not answer, or refuses to tell.
    """
    try:
        describe_topic(connection, topic)
    except TopicNotFound:
        return False
    return True


def describe_topic(connection: KafkaConnection, topic: str) -> dict[str, Any]:
    """A topic's metadata, as `KafkaAdminClient.describe_topics` gives it.

    Raises:
        TopicNotFound: there is none.
    """
    with open_client(KafkaAdminClient, connection) as admin:
        return _describe(admin, connection, topic)


def create_topic(
    connection: KafkaConnection, topic: str, n_partitions: int = 1, settings: Mapping[str, str] | None = None
) -> bool:
    """Create a topic, replicated as the broker does by default, and wait until it can be used.

    Args:
        settings: the topic's own, such as ``max.message.bytes``.

    Returns:
        False when it was there already; its partitions and settings are then what they were.
    """
    wanted = {"num_partitions": n_partitions, "replication_factor": -1, "configs": dict(settings or {})}
    with open_client(KafkaAdminClient, connection) as admin:
        try:
            admin.create_topics({topic: wanted}, timeout_ms=REQUEST_TIMEOUT_MS, wait_for_metadata=True)
        except TopicAlreadyExistsError:
            return False
        except Exception as error:
            raise connection.translate(error) from error
    return True


def open_producer(connection: KafkaConnection, topic: str, **settings: Any) -> Any:
    """A KafkaProducer that waits for all replicas, for a topic that exists.

    Idempotent, as the client is by default: a retry after a lost answer does not double a record.

    Raises:
        TopicNotFound: there is no such topic.
    """
    describe_topic(connection, topic)
    return open_client(KafkaProducer, connection, acks="all", metrics_enabled=False, **settings)


def close_producer(producer: Any, timeout_s: float) -> None:
    """Send what waits for at most `timeout_s`, then close; what is left by then fails, and its futures say so."""
    try:
        producer.close(timeout=timeout_s)
    except KafkaTimeoutError:
        # close() gives up before it has closed anything when its flush does; only the sender can fail what waits.
        producer._sender.force_close()
        producer.close(timeout=timeout_s)


class KafkaSource:
    """One topic of a Kafka cluster as a `Source`.

    Positions are the caller's; this only remembers what it has handed out, so as to go on there after it had to build
    its consumer anew. Records of aborted transactions are left out.

    Args:
        group_id: commit offsets under this name; None commits none.
        start_at: where a cold start begins.
        on_lost: what `start` does with a position that the log does not hold: raise (stop), or begin at the log's first
            record (earliest) or its end (latest).
        max_poll_records: of one `poll`; None for `POLL_RECORDS`.
    """

    POLL_RECORDS: ClassVar[int] = 256  # a millisecond of parsing, after which others may get the core

    def __init__(
        self,
        connection: KafkaConnection,
        topic: str,
        group_id: str | None = None,
        start_at: StartAt = "earliest",
        on_lost: OnLost = "stop",
        max_poll_records: int | None = None,
    ) -> None:
        self.topic = topic
        self._connection = connection
        self._group_id = group_id
        self._start_at = start_at
        self._on_lost = on_lost
        self._max_poll_records = max_poll_records or self.POLL_RECORDS
        self._consumer: Any = None
        self._admin: Any = None
        self._topic_id: str | None = None
        self._positions: dict[int, int] = {}
        self._ends: dict[int, int] = {}

    def identity(self) -> Identity:
        """The ids of the cluster and of the topic as they are now."""
        cluster = self._ask(lambda admin: admin.describe_cluster())
        return Identity(cluster.get("cluster_id"), _topic_id(self._describe()))

    def start(self, positions: Mapping[int, int]) -> dict[int, int]:
        """Begin to read all partitions; see `Source.start`."""
        self.close()
        description = self._describe()
        self._topic_id = _topic_id(description)
        self._consumer = self._open_consumer()
        try:
            self._positions = self._first_positions(_partitions(description), positions)
            self._seek(self._positions)
        except Exception as error:
            raise self._abandon(error) from error
        return dict(self._positions)

    def poll(self, timeout_s: float) -> list[Fetch]:
        """The next records; see `Source.poll`."""
        if self._consumer is None:
            self._resume()
        try:
            batches = self._consumer.poll(
                timeout_ms=int(min(timeout_s, MAX_POLL_S) * 1000), max_records=self._max_poll_records
            )
        except Exception as error:
            raise self._abandon(error) from error
        fetches = self._to_fetches(batches)
        for fetch in fetches:
            self._positions[fetch.partition] = fetch.position
        return fetches

    def end_positions(self) -> dict[int, int]:
        """The log's end per partition, as far as this source has heard; see `Source.end_positions`."""
        for partition, position in self._positions.items():
            heard = self._consumer.highwater(self._at(partition)) if self._consumer is not None else None
            self._ends[partition] = max(self._ends.get(partition, 0), position, heard or 0)
        # Before the very end there may be only marks of transactions, which nobody sees: then nothing is left.
        return {p: self._positions[p] if self.has_read({p: end}) else end for p, end in self._ends.items()}

    def has_read(self, ends: Mapping[int, int]) -> bool:
        """Whether nothing is left before these offsets; the marks of transactions, which nobody sees, among it."""
        consumer = self._consumer
        return consumer is not None and all(consumer.position(self._at(p)) >= end for p, end in ends.items())

    def commit(self, positions: Mapping[int, int]) -> None:
        """Commit for lag tools; a failure is logged, not raised."""
        if self._group_id is None or not positions:
            return
        offsets = {self._at(p): OffsetAndMetadata(position, "", -1) for p, position in positions.items()}
        try:
            results = self._ask(lambda admin: admin.alter_group_offsets(self._group_id, offsets))
        except ConsumerError as error:
            # A new cluster has no coordinator until somebody has asked for it: the next commit finds one.
            level = logging.INFO if error.retriable else logging.WARNING
            log.log(level, "offsets are not committed to group %s (the checkpoint has them): %s", self._group_id, error)
            return
        for at, outcome in results.items():
            if outcome.errno:
                log.warning("offset of %s[%d] is not committed: %s", at.topic, at.partition, outcome.__name__)

    def refresh(self) -> dict[int, int]:
        """Begin to read new partitions; see `Source.refresh`."""
        description = self._describe()
        found = _topic_id(description)
        if self._topic_id and found and found != self._topic_id:
            raise IdentityChanged("topic", self.topic, self._topic_id, found)
        added = sorted(set(_partitions(description)) - set(self._positions))
        if not added:
            return {}
        if self._consumer is None:
            self._resume()
        try:
            begins = self._log_starts(added)
            self._positions |= begins
            self._seek(self._positions)
        except Exception as error:
            raise self._abandon(error) from error
        log.info("new partitions of %s: %s", self.topic, begins)
        return begins

    def close(self) -> None:
        """Let go of connections. May be called twice."""
        self._close_consumer()
        self._close_admin()

    def _open_consumer(self) -> Any:
        return open_client(
            KafkaConsumer,
            self._connection,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_partition_fetch_bytes=MAX_FETCH_BYTES,
            metrics_enabled=False,
        )

    def _to_fetches(self, batches: Mapping[Any, Sequence[Any]]) -> list[Fetch]:
        return [_fetch(at.partition, records) for at, records in batches.items()]

    def _resume(self) -> None:
        self._consumer = self._open_consumer()
        try:
            self._seek(self._positions)
        except Exception as error:
            raise self._abandon(error) from error

    def _seek(self, positions: Mapping[int, int]) -> None:
        self._consumer.assign([self._at(partition) for partition in positions])
        for partition, position in positions.items():
            self._consumer.seek(self._at(partition), position)

    def _first_positions(self, partitions: Sequence[int], wanted: Mapping[int, int]) -> dict[int, int]:
        if self._on_lost == "stop":
            for partition in set(wanted) - set(partitions):
                raise PositionOutOfRange(self.topic, partition, wanted[partition], None, None)
        starts = self._log_starts(partitions)
        listed = self._consumer.end_offsets([self._at(p) for p in partitions], timeout_ms=REQUEST_TIMEOUT_MS)
        ends = {at.partition: end for at, end in listed.items()}
        # Listed ends may be too low, so where one matters the watermark of a fetch has the last word.
        is_latest = "latest" in (self._on_lost, self._start_at)
        ends |= self._probe_ends({p: ends[p] for p in partitions if is_latest or wanted.get(p, 0) > ends[p]})
        self._ends = ends
        cold = ends if not wanted and self._start_at == "latest" else starts
        return {p: self._choose(p, wanted.get(p, cold[p]), starts[p], ends[p]) for p in partitions}

    def _choose(self, partition: int, position: int, log_start: int, log_end: int) -> int:
        """Where to begin a partition whose log holds offsets from `log_start` to `log_end`."""
        if log_start <= position <= log_end:
            return position
        if self._on_lost == "stop":
            raise PositionOutOfRange(self.topic, partition, position, log_start, log_end)
        return log_start if self._on_lost == "earliest" else log_end

    def _log_starts(self, partitions: Sequence[int]) -> dict[int, int]:
        asked = [self._at(p) for p in partitions]
        starts = self._consumer.beginning_offsets(asked, timeout_ms=REQUEST_TIMEOUT_MS)
        return {at.partition: start for at, start in starts.items()}

    def _probe_ends(self, positions: Mapping[int, int]) -> dict[int, int]:
        """The high watermarks, learned by fetching at `positions`; what is fetched is thrown away."""
        if not positions:
            return {}
        self._seek(positions)
        deadline = monotonic() + PROBE_S
        waiting = set(positions)
        while waiting:
            if monotonic() > deadline:
                servers = self._connection.bootstrap_servers
                raise BrokerUnavailable(f"Kafka at {servers} does not tell where {self.topic} ends")
            self._consumer.poll(timeout_ms=100)
            waiting = {p for p in waiting if self._consumer.highwater(self._at(p)) is None}
        return {p: self._consumer.highwater(self._at(p)) for p in positions}

    def _abandon(self, error: Exception) -> ConsumerError:
        """Close the consumer after a failure; the next poll builds it anew. Returns what to raise."""
        translated = self._explain(error)
        self._close_consumer()
        return translated

    def _explain(self, error: Exception) -> ConsumerError:
        match error:
            case OffsetOutOfRangeError():
                (at, position), *_ = error.args[0].items()
            case LogTruncationError():
                at, *_ = error.divergent_offsets
                position = self._positions[at.partition]
            case CorruptRecordError() | UnsupportedCodecError():
                where = ", ".join(f"{self.topic}[{p}]@{position}" for p, position in self._positions.items())
                return RecordUnreadable(f"a record at or soon after {where} cannot be read: {error}")
            case _:
                return self._connection.translate(error)
        start, end = self._log_bounds(at)
        return PositionOutOfRange(self.topic, at.partition, position, start, end)

    def _log_bounds(self, at: Any) -> tuple[int | None, int | None]:
        try:
            starts = self._consumer.beginning_offsets([at], timeout_ms=REQUEST_TIMEOUT_MS)
            ends = self._consumer.end_offsets([at], timeout_ms=REQUEST_TIMEOUT_MS)
        except KafkaError as error:
            log.debug("bounds of %s are not known: %s", at, error)
            return None, None
        return starts[at], ends[at]

    def _describe(self) -> dict[str, Any]:
        description: dict[str, Any] = self._ask(lambda admin: _describe(admin, self._connection, self.topic))
        return description

    def _ask(self, question: Callable[[Any], Any]) -> Any:
        """Ask the cluster through the admin client, which is kept while it works."""
        if self._admin is None:
            self._admin = open_client(KafkaAdminClient, self._connection)
        try:
            return question(self._admin)
        except TopicNotFound:
            raise
        except Exception as error:
            self._close_admin()
            raise self._connection.translate(error) from error

    def _at(self, partition: int) -> Any:
        return TopicPartition(self.topic, partition)

    def _close_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            close_client(consumer)

    def _close_admin(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            close_client(admin)


def read_topic(connection: KafkaConnection, topic: str) -> Iterator[Record]:
    """All records that a topic holds now, in order within a partition.

    Raises:
        TopicNotFound, BrokerUnavailable...: see `consumer_errors`; among them that no record came for SILENCE_S.
    """
    latest, source = KafkaSource(connection, topic, start_at="latest"), KafkaSource(connection, topic)
    try:
        ends = latest.start({})
        source.start({})
        deadline = monotonic() + SILENCE_S
        while not source.has_read(ends):
            for fetch in source.poll(MAX_POLL_S):
                records = (fetch.record(index) for index in range(len(fetch)))
                yield from (record for record in records if record.offset < ends[fetch.partition])
                deadline = monotonic() + SILENCE_S
            if monotonic() > deadline:
                raise BrokerUnavailable(f"Kafka at {connection.bootstrap_servers} stopped sending {topic}: is it up?")
    finally:
        latest.close()
        source.close()


def _fetch(partition: int, records: Sequence[Any]) -> Fetch:
    def build_record(index: int) -> Record:
        r = records[index]
        return Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))

    return Fetch(partition, [r.offset for r in records], [r.value for r in records], build_record)


def _describe(admin: Any, connection: KafkaConnection, topic: str) -> dict[str, Any]:
    try:
        description: dict[str, Any] = admin.describe_topics([topic])[0]
        if description["error_code"]:
            raise for_code(description["error_code"])(topic)
    except UnknownTopicOrPartitionError as error:
        raise TopicNotFound(topic, connection.bootstrap_servers) from error
    except Exception as error:
        raise connection.translate(error) from error
    return description


def _partitions(description: Mapping[str, Any]) -> list[int]:
    return sorted(partition["partition_index"] for partition in description["partitions"])


def _topic_id(description: Mapping[str, Any]) -> str | None:
    topic_id = description.get("topic_id")
    return None if topic_id is None else str(topic_id)


def open_client(client_class: Any, connection: KafkaConnection, **settings: Any) -> Any:
    """A connected kafka-python client.

    Raises:
        ConsumerError: it could not connect; nothing of it is left behind.
    """
    connection.check_files()
    _quieten_client_log()
    opened: list[Any] = []
    failures: list[Exception] = []

    def open_network(**network_settings: Any) -> Any:
        network = client_class.DEFAULT_CONFIG["kafka_client"](**network_settings)
        network.cluster.config["allow_auto_create_topics"] = False
        opened.append(network)
        _remember_failures(network._manager, failures)
        return network

    try:
        client = client_class(**connection.client_settings(), kafka_client=open_network, **settings)
    except Exception as error:
        for network in opened:
            network.close()
        raise connection.translate(_cause(connection, error, failures)) from error
    for network in opened:
        del network._manager.get_connection  # back to the class's own
    return client


def _cause(connection: KafkaConnection, error: Exception, failures: Sequence[Exception]) -> Exception:
    if not isinstance(error, KafkaTimeoutError) or not failures:
        return error
    lasting = [failure for failure in failures if not connection.translate(failure).retriable]
    in_tls = [failure for failure in failures if _tls_failure(failure) is not None]
    return (lasting or in_tls or failures)[-1]


def _remember_failures(manager: Any, failures: list[Exception]) -> None:
    # A constructor that gives up says no more than that: a wrong password and a broker that is down look the same. Why
    # an attempt failed, only its connection knows.
    get_connection = manager.get_connection

    def get_watched_connection(*args: Any, **kwargs: Any) -> Any:
        connection = get_connection(*args, **kwargs)
        connection.init_future.add_errback(failures.append)
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


def close_client(client: Any) -> None:
    try:
        client.close()
    except Exception as error:  # of a client that is broken already: nothing is lost by it
        log.debug("closing %s failed: %s", type(client).__name__, error)


def _quieten_client_log() -> None:
    # The client logs every attempt to reconnect as an error, several a second. What matters is raised anyhow. Whoever
    # wants to see it sets a level of their own first.
    client_log = logging.getLogger("kafka")
    if client_log.level == logging.NOTSET:
        client_log.setLevel(logging.CRITICAL)

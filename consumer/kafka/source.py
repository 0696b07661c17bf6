"""The source that the learner reads from, by kafka-python.

What shaped this, all of it read in kafka-python 3.0.12 or seen by experiment:

- A deserializer that raises makes the next `poll` spin for ever, so there are none, and after any exception the
  consumer is closed and built again where it stood.
- The consumer has no group, so offsets are committed through the admin client instead.
- Lists of end offsets may come back too low (Tansu gives the last batch's first offset plus one), while the high
  watermark of a fetch is right. And an offset beyond the end is silence on Tansu, an error on Apache Kafka.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from time import monotonic
from typing import Any, ClassVar

from kafka.errors import (
    CorruptRecordError,
    KafkaError,
    LogTruncationError,
    OffsetOutOfRangeError,
    UnsupportedCodecError,
)
from kafka.structs import OffsetAndMetadata

from flexihash.consumer.consumer_errors import (
    BrokerUnavailable,
    ConsumerError,
    Describe,
    IdentityChanged,
    PositionOutOfRange,
    RecordUnreadable,
    TopicNotFound,
)
from flexihash.consumer.kafka.client import Admin, close_client, open_consumer
from flexihash.consumer.kafka.connection import REQUEST_TIMEOUT_MS
from flexihash.consumer.kafka.failures import translate
from flexihash.consumer.kafka.lookup import build_record, look_up
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.records import Fetch, Identity, OnLost, Record, StartAt

log = logging.getLogger(__name__)

MAX_POLL_S = 0.5  # a poll cannot be woken, and a stop signal must not wait long
SILENCE_S = 30.0  # of a broker that has records left to send
PROBE_S = 5.0  # for a log's end: a fetch at the end is answered after 0.5 s


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
        describe: words for an error that is logged, not raised.
    """

    POLL_RECORDS: ClassVar[int] = 256  # a millisecond of parsing, after which others may get the core

    def __init__(
        self,
        topic: Topic,
        group_id: str | None = None,
        start_at: StartAt = "earliest",
        on_lost: OnLost = "stop",
        max_poll_records: int | None = None,
        describe: Describe = str,
    ) -> None:
        self.topic = topic.name
        self._topic = topic
        self._at = topic.partition
        self._describe_error = describe
        self._group_id = group_id
        self._start_at = start_at
        self._on_lost = on_lost
        self._max_poll_records = max_poll_records or self.POLL_RECORDS
        self._admin = Admin(topic.connection)
        self._consumer: Any = None
        self._topic_id: str | None = None
        self._positions: dict[int, int] = {}
        self._ends: dict[int, int] = {}

    def identity(self) -> Identity:
        """The ids of the cluster and of the topic as they are now."""
        cluster = self._admin.ask(lambda admin: admin.describe_cluster())
        return Identity(cluster.get("cluster_id"), _topic_id(self._describe()))

    def read(self, offsets: Mapping[int, int]) -> dict[int, Record]:
        """The records at these offsets, where the log holds one; see `Source.read`."""
        return look_up(self._topic, offsets)

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
            results = self._admin.ask(lambda admin: admin.alter_group_offsets(self._group_id, offsets))
        except ConsumerError as error:
            self._tell_not_committed(error)
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
        return self._add(added) if added else {}

    def close(self) -> None:
        """Let go of connections. May be called twice."""
        self._close_consumer()
        self._admin.close()

    def _open_consumer(self) -> Any:
        return open_consumer(self._topic.connection)

    def _to_fetches(self, batches: Mapping[Any, Sequence[Any]]) -> list[Fetch]:
        return [_fetch(at.partition, records) for at, records in batches.items()]

    def _resume(self) -> None:
        self._consumer = self._open_consumer()
        try:
            self._seek(self._positions)
        except Exception as error:
            raise self._abandon(error) from error

    def _add(self, partitions: Sequence[int]) -> dict[int, int]:
        if self._consumer is None:
            self._resume()
        try:
            begins = self._log_starts(partitions)
            self._positions |= begins
            self._seek(self._positions)
        except Exception as error:
            raise self._abandon(error) from error
        log.info("new partitions of %s: %s", self.topic, begins)
        return begins

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
                servers = self._topic.connection.bootstrap_servers
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
                return translate(error, self._topic.connection)
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
        description: dict[str, Any] = self._admin.ask(self._topic.describe_by, TopicNotFound)
        return description

    def _tell_not_committed(self, error: ConsumerError) -> None:
        # A new cluster has no coordinator until somebody has asked for it: the next commit finds one.
        level = logging.INFO if error.retriable else logging.WARNING
        text = self._describe_error(error)
        log.log(level, "offsets are not committed to group %s (the checkpoint has them): %s", self._group_id, text)

    def _close_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            close_client(consumer)


def read_topic(topic: Topic) -> Iterator[Record]:
    """All records that a topic holds now, in order within a partition.

    Raises:
        TopicNotFound, BrokerUnavailable...: see `consumer_errors`; among them that no record came for SILENCE_S.
    """
    latest, source = KafkaSource(topic, start_at="latest"), KafkaSource(topic)
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
                servers = topic.connection.bootstrap_servers
                raise BrokerUnavailable(f"Kafka at {servers} stopped sending {topic}: is it up?")
    finally:
        latest.close()
        source.close()


def _fetch(partition: int, records: Sequence[Any]) -> Fetch:
    def build(index: int) -> Record:
        return build_record(records[index])

    return Fetch(partition, [r.offset for r in records], [r.value for r in records], build)


def _partitions(description: Mapping[str, Any]) -> list[int]:
    return sorted(partition["partition_index"] for partition in description["partitions"])


def _topic_id(description: Mapping[str, Any]) -> str | None:
    topic_id = description.get("topic_id")
    return None if topic_id is None else str(topic_id)

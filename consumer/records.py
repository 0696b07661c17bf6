"""Where records come from: the interface between the learn loop and a log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, NamedTuple, Protocol

from flexihash.consumer.consumer_errors import EventRejected

StartAt = Literal["earliest", "latest"]
OnLost = Literal["stop", "earliest", "latest"]
LOST = -1  # a position that no log holds


class Record(NamedTuple):
    """One record as the log holds it.

    Args:
        timestamp_ms: Unix time, -1 where the record has none.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    def digest(self) -> int:
        """64 bits, not all 0, that tell this record from another one at its offset: by time, key and value."""
        key, value = self.key or b"", self.value or b""
        head = b"%d %d %d " % (self.offset, self.timestamp_ms, len(key))
        hasher = blake2b(head, digest_size=8)
        hasher.update(key)  # not joined to the value: either may be large
        hasher.update(value)
        return int.from_bytes(hasher.digest(), "little", signed=True) or 1


class Identity(NamedTuple):
    """Which cluster and which topic positions belong to; None where a broker gives no id."""

    cluster_id: str | None
    topic_id: str | None


@dataclass(frozen=True, slots=True)
class Fetch:
    """N >= 1 records of one partition, in order, as columns: the loop looks at values, and seldom at a whole record.

    Args:
        offsets: (N,) rising, not always by one: compaction and transactions leave gaps.
        values: (N,) None for a record with a null value.
        build_record: makes the record at an index.
        faults: by offset, what is wrong with records that are none in their file; their values are None.
    """

    partition: int
    offsets: list[int]
    values: list[bytes | None]
    build_record: Callable[[int], Record]
    faults: Mapping[int, EventRejected] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def position(self) -> int:
        """The next offset to read after these records."""
        return self.offsets[-1] + 1

    def cut(self, begin: int, end: int) -> Fetch:
        """The records from `begin` up to, not including, `end`, of which there must be one at least."""
        offsets, values = self.offsets[begin:end], self.values[begin:end]
        return Fetch(self.partition, offsets, values, lambda index: self.build_record(begin + index), self.faults)

    def record(self, index: int) -> Record:
        """The whole record at `index` among the N."""
        return self.build_record(index)

    def fault(self, index: int, found: EventRejected) -> EventRejected:
        """What is wrong with the record at `index`: what its source knows, else what was `found` in its value."""
        return self.faults.get(self.offsets[index], found)


class Source(Protocol):
    """Reads one topic from given positions. For one thread; `start` comes before everything but `identity`."""

    @property
    def topic(self) -> str:
        """The topic's name."""

    def identity(self) -> Identity:
        """The ids of the cluster and of the topic as they are now."""

    def read(self, offsets: Mapping[int, int]) -> dict[int, Record]:
        """The records at these offsets, one per partition, as the log holds them now; may come before `start`.

        Returns:
            Those that are there: not what retention removed, nor what is beyond the log's end.

        Raises:
            ConsumerError: a `retriable` one may be tried again.
        """

    def start(self, positions: Mapping[int, int]) -> dict[int, int]:
        """Begin to read all partitions.

        Args:
            positions: next offset per partition. Empty: a cold start, from where the source's `start_at` says. A
                partition that is missing among others is new, and is read from its beginning.

        Returns:
            The positions actually started from, one per partition.

        Raises:
            TopicNotFound, PositionOutOfRange, BrokerUnavailable...: see `consumer.consumer_errors`.
        """

    def poll(self, timeout_s: float) -> list[Fetch]:
        """The next records, each exactly once and in order within a partition.

        Returns:
            Nothing when none came within `timeout_s` (at most 0.5 s is waited).

        Raises:
            ConsumerError: after a `retriable` one just poll again: nothing is lost or repeated.
        """

    def end_positions(self) -> dict[int, int]:
        """The log's end per partition, as far as this source has heard: for the lag. Asks nobody."""

    def commit(self, positions: Mapping[int, int]) -> None:
        """Tell the log how far we are, for lag tools only; a failure is logged, not raised."""

    def refresh(self) -> dict[int, int]:
        """Look for new partitions and begin to read them; call it every few seconds.

        Returns:
            Where each new partition starts; empty when there is none.

        Raises:
            BrokerUnavailable: nobody answers (`poll` alone does not tell that from silence).
            TopicNotFound, IdentityChanged: the topic that was being read is gone.
        """

    def close(self) -> None:
        """Stop reading and let go of connections. May be called twice."""

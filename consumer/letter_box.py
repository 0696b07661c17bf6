"""Dead letters: records that could not be learned from, kept as they were, with the reason, in ``<topic>.dlq``.

Where the broker does not take a letter, it goes to the local disk (`consumer.spill`), and from there to the broker
later, by itself. So a flush ends in bounded time with every letter in one of the two places, and learning goes on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from kafka.errors import AuthorizationError, InvalidTimestampError, KafkaError, KafkaTimeoutError
from kafka.serializer import Serializer

from flexihash.consumer.consumer_errors import ConsumerError, DeadLetterError, DeadLetterRefused
from flexihash.consumer.kafka import KafkaConnection, close_producer, create_topic, open_producer, topic_exists
from flexihash.consumer.lesson import Letters
from flexihash.consumer.letters import TOPIC_SUFFIX, Letter, make_letter, write_headers
from flexihash.consumer.records import Record
from flexihash.consumer.spill import Spill
from flexihash.consumer.status import DeadLettersStatus

log = logging.getLogger(__name__)

MAX_WAITING = 10_000  # letters in memory; with more than that no further fetch is learned from before a flush
MAX_WAITING_BYTES = 64 * 1024 * 1024  # the same for their bytes: letters may be large
MAX_LETTER_BYTES = 100 * 1024 * 1024  # what a broker takes in one request at most: its own limits decide, not ours
TOPIC_MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # of a topic made here: what is too large to learn from must fit
REST_S = 10.0  # between two attempts at a broker that did not take letters, each of which may hold up learning
PROBE_S = 2.0  # for its answer in such an attempt, where letters cannot go to the disk
CLOSE_S = 0.2  # for what is on its way when a connection is given up
DELIVERY_TIMEOUT_MS = 15_000  # after which the client gives a letter up; more than the timeout of one request


@dataclass(slots=True, eq=False)
class _Parcel:
    """A letter on its way."""

    letter: Letter
    timestamp_ms: int | None
    future: Any = None  # of the attempt under way; None: to be sent
    error: Exception | None = None  # why the last attempt failed

    @property
    def is_acknowledged(self) -> bool:
        return self.future is not None and bool(self.future.succeeded())

    @property
    def is_under_way(self) -> bool:
        return self.future is not None and not self.future.is_done


@dataclass(slots=True)
class _Replay:
    """One segment of the spill on its way: each line, and its parcel where it holds a letter."""

    segment: Path
    lines: list[tuple[bytes, _Parcel | None]]
    deadline: float  # for a client that neither delivers nor gives up
    is_second: bool = False  # attempt

    @property
    def parcels(self) -> list[_Parcel]:
        return [parcel for _, parcel in self.lines if parcel is not None]


class DeadLetters(Letters):
    """Sends rejected records of `topic` to ``<topic>.dlq``, which is created if it is absent. For one thread.

    A letter has the record's key, value, headers and timestamp, byte for byte, and the headers
    ``__flexihash.errors.`` + ``topic``, ``partition``, ``offset``, ``timestamp`` (ms), ``stage``, ``reason`` and
    ``message``, as UTF-8 text. kafka-python cannot write a header with a null value: it is written empty, and
    ``__flexihash.errors.null_headers`` lists the places of such headers (``0,2``).

    Args:
        spill_folder: where letters are kept that the broker does not take, in a folder named like their topic; None
            keeps them in memory only.

    Raises:
        SpillUnreadable: there are letters in the folder, and they cannot be read.
    """

    def __init__(self, connection: KafkaConnection, topic: str, spill_folder: Path | None = None) -> None:
        self.topic = topic + TOPIC_SUFFIX
        self._connection = connection
        self._producer: Any = None
        self._waiting: deque[_Parcel] = deque()
        self._waiting_bytes = 0
        self._spill = Spill(spill_folder / self.topic) if spill_folder is not None else None
        self._replay: _Replay | None = None
        self._tried: Path | None = None  # the segment that was sent last
        self._is_taking = True  # whether the topic took letters when it was last tried
        self._rest_until = 0.0  # no attempt at a topic that takes none, and no replay, before this time
        self._failure: Exception | None = None
        self._error: str | None = None  # the same in words, and where
        self._disk_failure: OSError | None = None

    @property
    def status(self) -> DeadLettersStatus:
        """Letters in memory and on the disk, and why the last one was not taken; None once all were."""
        return DeadLettersStatus(waiting=len(self._waiting), spilled=self._n_spilled, error=self._error)

    def has_room(self) -> bool:
        """Whether fewer letters wait in memory than may."""
        return len(self._waiting) < MAX_WAITING and self._waiting_bytes < MAX_WAITING_BYTES

    def send(self, record: Record, stage: str, reason: str, message: str) -> None:
        """Send a letter, without waiting for the broker's answer. Never raises; look at `has_room` now and then.

        Args:
            stage: what failed, such as ``decode``.
            reason: a slug, for counting.
            message: for people.
        """
        letter = make_letter(record, stage, reason, message)
        parcel = _pack(letter)
        self._waiting.append(parcel)
        self._waiting_bytes += letter.size_bytes
        self._forget_acknowledged()
        if self._is_taking and (self._producer is not None or self._try_to_connect()):
            self._post(parcel)

    def flush(self, timeout_s: float) -> None:
        """Wait until every letter is safe: acknowledged by the broker or, where it is not within `timeout_s`, on disk.

        While the topic takes none, letters go to the disk at once.

        Raises:
            DeadLetterError: some are neither; the next flush goes on with them.
            DeadLetterRefused: there is no folder for letters, and the broker will not take one, now or later.
        """
        if self._spill is None:
            self._deliver(monotonic() + timeout_s)
        elif self._is_taking:
            self._deliver(monotonic() + timeout_s)
            self._store(self._spill)
        elif not self._store(self._spill) and monotonic() >= self._rest_until:
            self._deliver(monotonic() + min(timeout_s, PROBE_S))
        if self._waiting:
            self._complain()

    def tend(self) -> None:
        """Send what is on the disk, one segment after another, without waiting for the broker's answers.

        Where the broker does not answer this takes as long as an attempt to connect, once in REST_S.
        """
        self._forget_acknowledged()
        if self._spill is None:
            return
        if self._replay is not None and any(parcel.is_under_way for parcel in self._replay.parcels):
            if monotonic() > self._replay.deadline:
                self._disconnect()
        elif monotonic() >= self._rest_until:
            if self._replay is not None:
                self._go_on_with_replay(self._spill, self._replay)
            elif len(self._spill):
                self._begin_replay(self._spill)

    def close(self) -> None:
        """Let go of the connection; letters that are not safe by then are lost to this object. Flush first."""
        self._disconnect()
        if self._spill is not None and self._replay is not None:
            self._end_replay(self._spill, self._replay)

    def _forget_acknowledged(self) -> None:
        """Those in front, which is all of them where the topic has one partition, as is usual."""
        while self._waiting and self._waiting[0].is_acknowledged:
            self._waiting_bytes -= self._waiting.popleft().letter.size_bytes

    @property
    def _n_spilled(self) -> int:
        return len(self._spill) if self._spill is not None else 0

    # --- to the broker -----------------------------------------------------------------------------------------------

    def _deliver(self, deadline: float) -> None:
        """Have the broker take what waits; what it does not take stays, with the reason.

        Twice: the second time without what the broker minded. Where there was no answer, on a new connection then; but
        letters that may go to the disk go there, and the replay connects anew.
        """
        for share in (1, 1) if self._spill is not None else (2, 1):
            if not self._waiting:
                break
            if self._producer is None and not self._try_to_connect():
                return
            self._post_all(parcel for parcel in self._waiting if parcel.future is None)
            until = monotonic() + (deadline - monotonic()) / share
            for parcel in self._waiting:
                self._await(parcel, until)
            is_broken = any(parcel.is_under_way or _is_of_topic(parcel.error) for parcel in self._waiting)
            if is_broken:
                self._disconnect()
            self._keep(parcel for parcel in self._waiting if not parcel.is_acknowledged)
            if is_broken and self._spill is not None:
                break
        self._judge(self._waiting)

    def _judge(self, parcels: Iterable[_Parcel]) -> None:
        """Note what the outcome of an attempt says about the topic."""
        failed = [parcel for parcel in parcels if parcel.error is not None and not parcel.is_acknowledged]
        of_topic = [parcel for parcel in failed if _is_of_topic(parcel.error)]
        self._is_taking = not of_topic
        if of_topic:
            self._rest_until = monotonic() + REST_S
        if failed:
            worst = (of_topic or failed)[0]
            self._note(worst.error, worst.letter.origin)
        elif not self._n_spilled:
            self._failure = self._error = None

    def _rest(self, failure: Exception, where: str = "") -> None:
        """Leave the topic alone for a while: it takes no letter."""
        self._is_taking = False
        self._rest_until = monotonic() + REST_S
        self._note(failure, where)

    def _note(self, failure: Exception | None, where: str = "") -> None:
        self._failure = failure
        self._error = f"{where}: {failure}" if where else str(failure)

    def _connect(self) -> None:
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
            delivery_timeout_ms=DELIVERY_TIMEOUT_MS,
            value_serializer=NullableBytes(),
        )

    def _try_to_connect(self) -> bool:
        try:
            self._connect()
        except ConsumerError as error:
            if str(error) != self._error:
                log.warning("dead letters wait until %s can be reached: %s", self.topic, error)
            self._rest(error)
            return False
        return True

    def _disconnect(self) -> None:
        """Let go of the producer; what was under way is acknowledged or failed after that."""
        producer, self._producer = self._producer, None
        if producer is not None:
            close_producer(producer, CLOSE_S)
        for parcel in self._waiting:
            if not parcel.is_acknowledged:
                parcel.future = None

    def _post_all(self, parcels: Iterable[_Parcel]) -> None:
        for parcel in parcels:
            if not self._post(parcel):
                break

    def _post(self, parcel: _Parcel) -> bool:
        """Give one letter to the client; False where it would take no other one."""
        value = NULL if parcel.letter.value is None else parcel.letter.value
        headers = write_headers(parcel.letter)
        try:
            parcel.future = self._producer.send(
                self.topic, value, key=parcel.letter.key, headers=headers, timestamp_ms=parcel.timestamp_ms
            )
        except (KafkaError, ValueError) as error:  # ValueError: the topic vanished between two looks at it
            parcel.error = error
            if _is_of_topic(error):  # it may have come after a wait for the topic, and would for each letter
                self._rest(error, parcel.letter.origin)
                return False
        return True

    def _await(self, parcel: _Parcel, deadline: float) -> None:
        if parcel.future is None:
            return
        try:
            parcel.future.get(timeout=max(0.0, deadline - monotonic()))
            parcel.error = None
        except KafkaError as error:
            if parcel.is_under_way:
                parcel.error = KafkaTimeoutError("no answer from the broker in time")
                return
            parcel.future, parcel.error = None, error
            if isinstance(error, InvalidTimestampError):
                parcel.timestamp_ms = None  # the broker sets its own; the record's is among the headers

    # --- to the disk and back ----------------------------------------------------------------------------------------

    def _store(self, spill: Spill) -> bool:
        """Move what waits to the disk; False where that does not go."""
        if any(parcel.is_under_way for parcel in self._waiting):
            self._disconnect()
        self._keep(parcel for parcel in self._waiting if not parcel.is_acknowledged)
        n_letters = len(self._waiting)
        try:
            while self._waiting:
                for _ in range(spill.append(parcel.letter for parcel in self._waiting)):
                    self._waiting_bytes -= self._waiting.popleft().letter.size_bytes
        except OSError as error:
            self._disk_failure = error
            return False
        if n_letters:
            log.warning(
                "%d dead letters are kept in %s until %s takes them: %s",
                n_letters, spill.folder, self.topic, self._error,
            )  # fmt: skip
        return True

    def _keep(self, parcels: Iterable[_Parcel]) -> None:
        self._waiting = deque(parcels)
        self._waiting_bytes = sum(parcel.letter.size_bytes for parcel in self._waiting)

    def _begin_replay(self, spill: Spill) -> None:
        segment = spill.next_segment(self._tried)
        if segment is None:  # all have been tried: once more from the oldest on
            self._tried, self._rest_until = None, monotonic() + REST_S
            return
        if self._producer is None and not self._try_to_connect():
            return
        self._tried = segment
        try:
            lines = spill.read(segment)
        except OSError as error:
            log.error("the dead letters in %s cannot be read: %s", segment, error)
            self._rest_until = monotonic() + REST_S
            return
        parcels = [(line, _pack(letter) if letter else None) for line, letter in lines]
        self._replay = _Replay(segment, parcels, monotonic() + 2 * DELIVERY_TIMEOUT_MS / 1000)
        self._post_all(self._replay.parcels)

    def _go_on_with_replay(self, spill: Spill, replay: _Replay) -> None:
        """Once more without what the broker minded, and for those that were beside it in a batch; then the end."""
        for parcel in replay.parcels:
            self._await(parcel, 0.0)
        refused = [parcel for parcel in replay.parcels if parcel.error and not _is_of_topic(parcel.error)]
        if refused and not replay.is_second and self._producer is not None:
            replay.is_second = True
            self._post_all(refused)
        else:
            self._end_replay(spill, replay)

    def _end_replay(self, spill: Spill, replay: _Replay) -> None:
        """Take the letters that were acknowledged off the disk; where that fails it is tried again, not they."""
        lines = [line for line, parcel in replay.lines if parcel is None or not parcel.is_acknowledged]
        n_taken = len(replay.lines) - len(lines)
        try:
            if n_taken or not lines:
                spill.replace(replay.segment, lines)
        except OSError as error:
            log.error("%s cannot be written: %s; %d letters in it were sent", replay.segment, error, n_taken)
            self._rest_until = monotonic() + REST_S
            return
        self._replay = None
        self._judge(replay.parcels)
        if not self._is_taking:
            self._disconnect()
            self._tried = None
        elif lines:
            self._rest_until = monotonic() + REST_S
        log.info("%s took %d dead letters that were kept in %s; %d stay", self.topic, n_taken, spill.folder, len(spill))

    def _complain(self) -> None:
        """Raise for the letters that wait."""
        text = f"{len(self._waiting)} dead letters are not acknowledged by {self.topic}: {self._error}"
        if self._spill is not None:
            raise DeadLetterError(
                f"{text}; nor can they be kept in {self._spill.folder}: {self._disk_failure}; make room"
            )
        if getattr(self._failure, "retriable", True):
            raise DeadLetterError(text)
        raise DeadLetterRefused(f"{text}; change the topic's settings (max.message.bytes?) or rights")


class NullableBytes(Serializer):  # type: ignore[misc]
    """Lets a record through whose key and value are both null, which the producer takes for a mistake."""

    def serialize(self, topic: str, headers: list[tuple[str, bytes]], data: object) -> object:
        return None if data is NULL else data


NULL = object()


def _pack(letter: Letter) -> _Parcel:
    return _Parcel(letter, letter.timestamp if letter.timestamp >= 0 else None)


def _is_of_topic(error: Exception | None) -> bool:
    """Whether a failure says something about the topic or the broker, not about the one letter."""
    return isinstance(error, AuthorizationError | ValueError) or bool(getattr(error, "retriable", False))

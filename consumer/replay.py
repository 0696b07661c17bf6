"""Dead letters read back from their topic: what they say, and publishing them again after a fix.

What was replayed is noted in the dead-letter topic itself, so that the note lives exactly as long as the letters: a
record without a value, with the header REPLAYED, which holds for each reason the offset up to which the letters in the
same partition were replayed, as JSON. It is written in one transaction with the letters' records.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from threading import Event as StopSignal
from typing import Any

import msgspec
from kafka.errors import InvalidProducerEpochError, KafkaError, ProducerFencedError

from flexihash.consumer.consumer_errors import PublishError, PublishRefused
from flexihash.consumer.courier import MAX_REQUEST_BYTES, NULL, NullableBytes
from flexihash.consumer.kafka.client import close_producer
from flexihash.consumer.kafka.failures import translate
from flexihash.consumer.kafka.source import read_topic
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.letters import Letter, read_letter
from flexihash.consumer.records import Record

IsDue = Callable[[Letter], bool]

REPLAYED = "__flexihash.replayed"
BATCH_LETTERS = 500  # of one transaction; readers of the topic wait until it ends
BATCH_BYTES = 8 * 1024 * 1024
ACKNOWLEDGE_S = 30.0  # for a batch
TRANSACTION_TIMEOUT_MS = 10_000  # after which the broker ends the transaction of a command that was killed


class LetterBox:
    """What the dead-letter topic of `topic` holds now, gathered by reading all of it.

    Attributes:
        samples: the last letters of each reason, at most `n_samples`.
        n_foreign: records that are no letters from `topic`.

    Args:
        is_due: whether a letter is to be replayed, unless it was; others are counted apart, see `count_left_out`.
    """

    def __init__(self, topic: str, n_samples: int = 0, is_due: IsDue = lambda letter: True) -> None:
        self.topic = topic
        self.samples: dict[str, list[Letter]] = defaultdict(list)
        self.n_foreign = 0
        self._n_samples = n_samples
        self._offsets: dict[tuple[str, int], array[int]] = defaultdict(_make_offsets)
        self._replayed: dict[tuple[str, int], int] = {}
        self._left_out: dict[tuple[str, int], array[int]] = defaultdict(_make_offsets)
        self._cut: Counter[str] = Counter()
        self._is_due = is_due

    def add(self, record: Record) -> None:
        """Take in one record of the dead-letter topic."""
        letter = read_letter(record)
        if letter is None and (marks := _read_marks(record)) is not None:
            for reason, position in marks.items():
                at = (reason, record.partition)
                self._replayed[at] = max(position, self._replayed.get(at, 0))
            return
        if letter is None or letter.topic != self.topic:
            self.n_foreign += 1
            return
        if letter.cut:
            self._cut[letter.reason] += 1
        else:
            offsets = self._offsets if self._is_due(letter) else self._left_out
            offsets[letter.reason, record.partition].append(record.offset)
        samples = self.samples[letter.reason]
        samples.append(letter)
        del samples[: max(0, len(samples) - self._n_samples)]

    def count(self, reason: str | None = None) -> int:
        """Letters of one reason, or all of them."""
        return sum(len(offsets) for _, offsets in self._select(reason)) + self.count_cut(reason)

    def count_cut(self, reason: str | None = None) -> int:
        """Those of them that have the head of their record only, and cannot be published again."""
        return sum(n for one, n in self._cut.items() if reason in (None, one))

    def count_replayed(self, reason: str | None = None) -> int:
        """Those of them that were published again."""
        return sum(bisect_left(offsets, self._replayed.get(at, 0)) for at, offsets in self._select(reason))

    def count_left_out(self, reason: str | None = None) -> int:
        """Letters that are not to be replayed, and were not."""
        return sum(
            sum(offset >= self._replayed.get(at, 0) for offset in offsets)
            for at, offsets in self._left_out.items()
            if reason in (None, at[0])
        )

    def is_wanted(self, letter: Letter, record: Record) -> bool:
        """Whether a letter, which is that of a record of the topic, is to be published again, and was not."""
        is_replayed = record.offset < self._replayed.get((letter.reason, record.partition), 0)
        return not is_replayed and not letter.cut and self._is_due(letter)

    @property
    def reasons(self) -> list[str]:
        """All reasons, the most frequent first."""
        return sorted(
            {*self._cut, *(reason for reason, _ in self._offsets)}, key=lambda reason: (-self.count(reason), reason)
        )

    def _select(self, reason: str | None) -> Iterator[tuple[tuple[str, int], array[int]]]:
        return ((at, offsets) for at, offsets in self._offsets.items() if reason in (None, at[0]))


def _make_offsets() -> array[int]:
    return array("q")  # 8 bytes each: there may be millions


def read_box(topic: Topic, n_samples: int = 0, is_due: IsDue = lambda letter: True) -> LetterBox:
    """Read all dead letters of `topic`.

    Raises:
        TopicNotFound: it has no dead-letter topic.
        ConsumerError: the broker does not answer, or refuses.
    """
    box = LetterBox(topic.name, n_samples, is_due)
    for record in read_topic(topic.dead_letters):
        box.add(record)
    return box


def replay(
    topic: Topic,
    reason: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    stop: StopSignal | None = None,
    is_due: IsDue = lambda letter: True,
    on_left_out: Callable[[int, int], None] = lambda n_not_due, n_cut: None,
) -> int:
    """Publish the records of dead letters to `topic` again, each once, whatever happens meanwhile.

    They go to the end of the partition that they came from, with key, value and headers as they were.

    Args:
        reason: of the letters; None: all.
        on_progress: is told how many letters are done, of how many.
        stop: ends it early, between two batches.
        is_due: whether a letter is to be published; others are left out.
        on_left_out: is told how many are, and how many for having only the head of their record.

    Returns:
        How many were published.

    Raises:
        TopicNotFound: there is no such topic, or it has no dead-letter topic.
        PublishRefused: the topic does not take a record, or another replay has begun meanwhile. The batch that it was
            in is not published, those before are.
        ConsumerError: the broker does not answer, or refuses.
    """
    producer = _open_producer(topic)  # before the first look: from here on nobody else can replay
    try:
        box = read_box(topic, is_due=is_due)
        on_left_out(box.count_left_out(reason), box.count_cut(reason))
        return _replay(producer, topic, box, reason, on_progress, stop or StopSignal())
    except KafkaError as error:
        raise translate(error, topic.connection) from error
    finally:
        close_producer(producer, timeout_s=1.0)


def _replay(
    producer: Any,
    topic: Topic,
    box: LetterBox,
    reason: str | None,
    on_progress: Callable[[int, int], None],
    stop: StopSignal,
) -> int:
    total = box.count(reason) - box.count_cut(reason) - box.count_replayed(reason)
    n_done = 0
    on_progress(n_done, total)
    for batch in _batches(_find(topic, box, reason)):
        if stop.is_set():
            break
        _publish(producer, topic, batch)
        n_done += len(batch)
        on_progress(n_done, total)
    return n_done


def _open_producer(topic: Topic) -> Any:
    producer = topic.open_producer(
        transactional_id=f"flexihash.replay.{topic}",
        transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        compression_type="lz4",
        max_request_size=MAX_REQUEST_BYTES,
        max_block_ms=10_000,
        value_serializer=NullableBytes(),
    )
    try:
        producer.init_transactions()
    except KafkaError as error:
        close_producer(producer, timeout_s=1.0)
        raise translate(error, topic.connection) from error
    return producer


def _find(topic: Topic, box: LetterBox, reason: str | None) -> Iterator[tuple[Letter, Record]]:
    """The letters that are to be replayed, and their records in the dead-letter topic."""
    for record in read_topic(topic.dead_letters):
        letter = read_letter(record)
        if letter is None or letter.topic != topic.name or reason not in (None, letter.reason):
            continue
        if box.is_wanted(letter, record):
            yield letter, record


def _batches(found: Iterator[tuple[Letter, Record]]) -> Iterator[list[tuple[Letter, Record]]]:
    batch: list[tuple[Letter, Record]] = []
    n_bytes = 0
    for letter, record in found:
        batch.append((letter, record))
        n_bytes += letter.size_bytes
        if len(batch) >= BATCH_LETTERS or n_bytes >= BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch


def _publish(producer: Any, topic: Topic, batch: list[tuple[Letter, Record]]) -> None:
    """One transaction: the letters' records, and the notes that they were replayed."""
    partitions = producer.partitions_for(topic.name) or set()
    producer.begin_transaction()
    try:
        sent = [(letter, _send(producer, topic, letter, partitions)) for letter, _ in batch]
        sent += [(batch[-1][0], mark) for mark in _send_marks(producer, topic, batch)]
        producer.flush(timeout=ACKNOWLEDGE_S)
        for letter, future in sent:
            _check(letter, topic, future)
        producer.commit_transaction()
    except PublishError:
        producer.abort_transaction()
        raise
    except KafkaError as error:
        if _is_fenced(error):
            raise PublishRefused(f"another replay of {topic} has begun, so this one ends") from error
        raise


def _send(producer: Any, topic: Topic, letter: Letter, partitions: set[int]) -> Any:
    value = NULL if letter.value is None else letter.value
    headers = [(name, content or b"") for name, content in letter.headers]
    partition = letter.partition if letter.partition in partitions else None  # the topic may have been made anew
    return producer.send(topic.name, value, key=letter.key, headers=headers, partition=partition)


def _send_marks(producer: Any, topic: Topic, batch: list[tuple[Letter, Record]]) -> list[Any]:
    """The notes, each in the partition that its letters are in."""
    return [
        producer.send(
            topic.dead_letters.name, NULL, headers=[(REPLAYED, msgspec.json.encode(marks))], partition=partition
        )
        for partition, marks in _marks(batch).items()
    ]


def _check(letter: Letter, topic: Topic, future: Any) -> None:
    try:
        future.get(timeout=0.0)
    except KafkaError as error:
        if _is_fenced(error):
            raise
        kind = PublishError if error.retriable else PublishRefused
        raise kind(
            f"{topic} does not take the record of {letter.origin}: {error}; its batch is not published"
        ) from error


def _is_fenced(error: KafkaError) -> bool:
    """Whether another producer has taken the transactional id over; the client wraps that in other errors at times."""
    causes = (error, *error.args)
    return any(isinstance(cause, ProducerFencedError | InvalidProducerEpochError) for cause in causes)


def _marks(batch: list[tuple[Letter, Record]]) -> dict[int, dict[str, int]]:
    marks: dict[int, dict[str, int]] = defaultdict(dict)
    for letter, record in batch:
        marks[record.partition][letter.reason] = record.offset + 1
    return marks


def _read_marks(record: Record) -> dict[str, int] | None:
    for name, value in record.headers:
        if name == REPLAYED and record.value is None and value is not None:
            try:
                return msgspec.json.decode(value, type=dict[str, int])
            except (msgspec.DecodeError, UnicodeDecodeError):
                return None
    return None

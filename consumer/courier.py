"""The way of dead letters to their topic: whether it takes letters just now, and what became of each."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from kafka.errors import AuthorizationError, InvalidTimestampError, KafkaError, KafkaTimeoutError
from kafka.serializer import Serializer

from flexihash.consumer.consumer_errors import ConsumerError, Describe
from flexihash.consumer.kafka.client import close_producer
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.letters import MAX_LETTER_BYTES, Letter, shorten, write_headers

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 100 * 1024 * 1024  # what a broker takes in one at most: its own limits decide, not ours
TOPIC_MAX_MESSAGE_BYTES = (
    MAX_LETTER_BYTES + 1024 * 1024
)  # of a topic made here: every letter fits, hard to compress or not
REST_S = 10.0  # between two attempts at a broker that did not take letters, each of which may hold up learning
CLOSE_S = 0.2  # for what is on its way when a connection is given up
DELIVERY_TIMEOUT_MS = 15_000  # after which the client gives a letter up; more than the timeout of one request


@dataclass(slots=True, eq=False)
class Parcel:
    """A letter on its way."""

    letter: Letter
    timestamp_ms: int | None
    future: Any = None  # of the attempt under way; None: to be sent
    error: Exception | None = None  # why the last attempt failed

    @property
    def is_acknowledged(self) -> bool:
        """Whether the broker has it."""
        return self.future is not None and bool(self.future.succeeded())

    @property
    def is_under_way(self) -> bool:
        """Whether the broker may yet answer."""
        return self.future is not None and not self.future.is_done


def pack(letter: Letter) -> Parcel:
    """A letter that is to be sent, shortened where it is too large."""
    letter = shorten(letter)
    return Parcel(letter, letter.timestamp if letter.timestamp >= 0 else None)


class Courier:
    """Brings letters to one topic, which is created if it is absent. For one thread.

    Attributes:
        is_taking: whether the topic took letters when it was last tried.
        failure: why the last letter was not taken; None once all were.
        error: the same in words, and where.
    """

    def __init__(self, topic: Topic, describe: Describe = str) -> None:
        self.topic = topic
        self.is_taking = True
        self.failure: Exception | None = None
        self.error: str | None = None
        self._describe = describe
        self._producer: Any = None
        self._rest_until = 0.0

    @property
    def is_connected(self) -> bool:
        """Whether letters can be posted."""
        return self._producer is not None

    @property
    def is_resting(self) -> bool:
        """Whether it is too early for another attempt."""
        return monotonic() < self._rest_until

    def rest(self) -> None:
        """Leave the topic alone for REST_S."""
        self._rest_until = monotonic() + REST_S

    def connect(self) -> bool:
        """Whether letters can be posted, after an attempt to connect where there is no connection."""
        if self._producer is not None:
            return True
        try:
            self._create_topic()
            self._producer = self._open_producer()
        except ConsumerError as error:
            if (text := self._describe(error)) != self.error:
                log.warning("dead letters wait until %s can be reached: %s", self.topic, text)
            self._give_up(error)
            return False
        return True

    def disconnect(self) -> None:
        """Let go of the connection; what was under way is acknowledged or failed after that."""
        producer, self._producer = self._producer, None
        if producer is not None:
            close_producer(producer, CLOSE_S)

    def post_all(self, parcels: Iterable[Parcel]) -> None:
        """Give letters to the client, without waiting for an answer, up to one after which it would take no other."""
        for parcel in parcels:
            if not self.post(parcel):
                break

    def post(self, parcel: Parcel) -> bool:
        """Give one letter to the client; False where it would take no other one."""
        value = NULL if parcel.letter.value is None else parcel.letter.value
        headers = write_headers(parcel.letter)
        try:
            parcel.future = self._producer.send(
                self.topic.name, value, key=parcel.letter.key, headers=headers, timestamp_ms=parcel.timestamp_ms
            )
        except (KafkaError, ValueError) as error:  # ValueError: the topic vanished between two looks at it
            parcel.error = error
            if is_of_topic(error):  # it may have come after a wait for the topic, and would for each letter
                self._give_up(error, parcel.letter.origin)
                return False
        return True

    def judge(self, parcels: Iterable[Parcel], n_others: int) -> None:
        """Note what the outcome of an attempt says about the topic.

        Args:
            n_others: letters beside these that it did not take yet.
        """
        failed = [parcel for parcel in parcels if parcel.error is not None and not parcel.is_acknowledged]
        of_topic = [parcel for parcel in failed if is_of_topic(parcel.error)]
        self.is_taking = not of_topic
        if of_topic:
            self.rest()
        if failed:
            worst = (of_topic or failed)[0]
            self._note(worst.error, worst.letter.origin)
        elif not n_others:
            self.failure = self.error = None

    def _give_up(self, failure: Exception, where: str = "") -> None:
        """The topic takes no letter."""
        self.is_taking = False
        self.rest()
        self._note(failure, where)

    def _note(self, failure: Exception | None, where: str = "") -> None:
        self.failure = failure
        text = self._describe(failure)
        self.error = f"{where}: {text}" if where else text

    def _create_topic(self) -> None:
        settings = {"max.message.bytes": str(TOPIC_MAX_MESSAGE_BYTES)}
        if not self.topic.exists() and self.topic.create(settings=settings):
            log.info("created topic %s for dead letters", self.topic)

    def _open_producer(self) -> Any:
        return self.topic.open_producer(
            # An idempotent producer never works again once the broker refused one batch: it fails what comes after.
            # A letter that is doubled by a retry does less harm.
            enable_idempotence=False,
            max_in_flight_requests_per_connection=1,  # keeps the order all the same
            linger_ms=5,
            compression_type="lz4",  # records that fitted only because their producer had compressed them fit again
            max_request_size=MAX_REQUEST_BYTES,
            max_block_ms=5_000,
            delivery_timeout_ms=DELIVERY_TIMEOUT_MS,
            value_serializer=NullableBytes(),
        )


class NullableBytes(Serializer):  # type: ignore[misc]
    """Lets a record through whose key and value are both null, which the producer takes for a mistake."""

    def serialize(self, topic: str, headers: list[tuple[str, bytes]], data: object) -> object:
        return None if data is NULL else data


NULL = object()


def await_answer(parcel: Parcel, deadline: float) -> None:
    """Wait for the broker's answer, and note it in the parcel; one that was refused is to be sent again then."""
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


def is_of_topic(error: Exception | None) -> bool:
    """Whether a failure says something about the topic or the broker, not about the one letter."""
    return isinstance(error, AuthorizationError | ValueError) or bool(getattr(error, "retriable", False))

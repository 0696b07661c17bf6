"""One learner per topic and group, on however many machines: a transactional id that only its newest holder owns.

Kafka counts an epoch per transactional id. Whoever initializes the id raises it, and can read it at any later time: a
higher one means that somebody else has come. Whether that one is still there, `consumer.lease` tells. The epoch is
read, not tested by a transaction, because kafka-python 3.0.12 waits for ever in a transaction whose broker was
restarted.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress

from kafka import KafkaProducer
from kafka.errors import IncompatibleBrokerVersion, TransactionalIdNotFoundError

from flexihash.consumer.consumer_errors import ConsumerError, Fenced
from flexihash.consumer.kafka.client import Admin, close_client, open_client
from flexihash.consumer.kafka.failures import translate
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.lease import Lease

log = logging.getLogger(__name__)

MAX_BLOCK_MS = 10_000  # a predecessor that died inside a transaction holds the id up for some seconds


class Fence:
    """Shuts earlier learners out, and tells when a later one has done so. Thread-safe.

    Args:
        topic, group_id: what there may be one learner of.
    """

    def __init__(self, topic: Topic, group_id: str) -> None:
        self.transactional_id = f"flexihash.{group_id}.{topic.name}"
        self._connection = topic.connection
        self._epoch: tuple[int, int] | None = None  # producer id and epoch
        self._admin = Admin(topic.connection)
        self._lease = Lease(topic, group_id)
        self._lock = threading.Lock()
        self._is_fenced = False
        self._is_blind = False

    def acquire(self) -> None:
        """Shuts out every learner that has acquired this fence before; does nothing where this one holds it already.

        Raises:
            Fenced: another one has come since this one acquired it.
            ConsumerError: the broker does not answer, or denies access to the transactional id.
        """
        self._epoch = self._epoch or self._begin_epoch()
        self.check()

    def check(self) -> None:
        """Returns where this learner is still the newest, as far as the broker can tell.

        Raises:
            Fenced: it is not; once so, always so until `reset`.
            ConsumerError: the broker does not answer.
        """
        with self._lock:
            if not self._is_fenced and self._epoch is not None:
                found = self._read_epoch()
                self._is_fenced = found is not None and found != self._epoch
            if self._is_fenced:
                raise Fenced(self.transactional_id)

    def renew(self, position: int) -> None:
        """Tells who was shut out that this learner is at work, to be called every few seconds; see `Lease.renew`."""
        if not self._is_blind:
            self._lease.renew(position)

    def is_free(self) -> bool:
        """Whether the learner that shut this one out has ended. For one that is fenced, now and then."""
        return self._lease.is_free()

    def reset(self) -> None:
        """Has the next `acquire` shut out whoever holds this fence."""
        with self._lock:
            self._epoch, self._is_fenced = None, False

    def release(self) -> None:
        """Tells who was shut out that this learner has ended, where it is still the newest and that can be told."""
        if self._epoch is not None and not self._is_blind:
            with suppress(ConsumerError):
                self.check()
                self._lease.release()

    def close(self) -> None:
        """Lets go of the connections."""
        with self._lock:
            self._admin.close()
            self._lease.close()

    def _begin_epoch(self) -> tuple[int, int]:
        producer = open_client(
            KafkaProducer,
            self._connection,
            transactional_id=self.transactional_id,
            max_block_ms=MAX_BLOCK_MS,
            metrics_enabled=False,
        )
        try:
            producer.init_transactions()
            mine = producer._transaction_manager.producer_id_and_epoch
            return mine.producer_id, mine.epoch
        except Exception as error:
            raise translate(error, self._connection) from error
        finally:
            close_client(producer)

    def _read_epoch(self) -> tuple[int, int] | None:
        try:
            found = self._admin.ask(
                lambda admin: admin.describe_transactions([self.transactional_id])[self.transactional_id],
                IncompatibleBrokerVersion,
                TransactionalIdNotFoundError,
            )
        except IncompatibleBrokerVersion:
            if not self._is_blind:
                log.info("this broker cannot tell of a second learner on another machine: see that there is none")
            self._is_blind = True
            return None
        except TransactionalIdNotFoundError:  # forgotten after days without use: nobody else has come
            return None
        return found.producer_id, found.producer_epoch

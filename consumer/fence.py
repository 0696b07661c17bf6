"""One learner per topic and group, on however many machines: a transactional id that only its newest holder owns.

Kafka counts an epoch per transactional id. Whoever initializes the id raises it, and can read it at any later time: a
higher one means that somebody else has come. The epoch is read, not tested by a transaction, because kafka-python
3.0.12 waits for ever in a transaction whose broker was restarted.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import IncompatibleBrokerVersion, TransactionalIdNotFoundError

from flexihash.consumer.consumer_errors import Fenced
from flexihash.consumer.kafka import KafkaConnection, close_client, open_client

log = logging.getLogger(__name__)

MAX_BLOCK_MS = 10_000  # a predecessor that died inside a transaction holds the id up for some seconds


class Fence:
    """Shuts earlier learners out, and tells when a later one has done so. Thread-safe.

    Args:
        topic, group_id: what there may be one learner of.
    """

    def __init__(self, connection: KafkaConnection, topic: str, group_id: str) -> None:
        self.transactional_id = f"flexihash.{group_id}.{topic}"
        self._connection = connection
        self._epoch: tuple[int, int] | None = None  # producer id and epoch
        self._admin: Any = None
        self._lock = threading.Lock()
        self._is_fenced = False
        self._is_blind = False

    def acquire(self) -> None:
        """Shuts out every learner that has acquired this fence before; does nothing where this one holds it already.

        Raises:
            Fenced: another one has come since this one acquired it.
            ConsumerError: the broker does not answer, or denies access to the transactional id.
        """
        if self._epoch is not None:
            self.check()
            return
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
            self._epoch = (mine.producer_id, mine.epoch)
        except Exception as error:
            raise self._connection.translate(error) from error
        finally:
            close_client(producer)

    def check(self) -> None:
        """Returns where this learner is still the newest, as far as the broker can tell.

        Raises:
            Fenced: it is not; once so, always so.
            ConsumerError: the broker does not answer.
        """
        with self._lock:
            if not self._is_fenced and self._epoch is not None:
                found = self._read_epoch()
                self._is_fenced = found is not None and found != self._epoch
            if self._is_fenced:
                raise Fenced(self.transactional_id)

    def close(self) -> None:
        """Lets go of the connection."""
        with self._lock:
            self._close_admin()

    def _read_epoch(self) -> tuple[int, int] | None:
        try:
            if self._admin is None:
                self._admin = open_client(KafkaAdminClient, self._connection)
            found = self._admin.describe_transactions([self.transactional_id])[self.transactional_id]
        except IncompatibleBrokerVersion:
            if not self._is_blind:
                log.info("this broker cannot tell of a second learner on another machine: see that there is none")
            self._is_blind = True
            return None
        except TransactionalIdNotFoundError:  # forgotten after days without use: nobody else has come
            return None
        except Exception as error:
            self._close_admin()
            raise self._connection.translate(error) from error
        return found.producer_id, found.producer_epoch

    def _close_admin(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            close_client(admin)

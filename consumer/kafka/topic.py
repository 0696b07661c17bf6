"""A topic of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError, for_code

from flexihash.consumer.consumer_errors import TopicNotFound
from flexihash.consumer.kafka.client import open_client
from flexihash.consumer.kafka.connection import REQUEST_TIMEOUT_MS, KafkaConnection
from flexihash.consumer.kafka.failures import translate
from flexihash.consumer.letters import TOPIC_SUFFIX


@dataclass(frozen=True)
class Topic:
    """One topic, by its name and where its cluster is; whether it is there, only the cluster knows.

    `letters` names the topic of what could not be learned from in this one; empty: this one's with TOPIC_SUFFIX.

    Everything that asks the cluster raises a ConsumerError where that does not answer, or refuses.
    """

    connection: KafkaConnection
    name: str
    letters: str = ""

    def __str__(self) -> str:
        return self.name

    @property
    def dead_letters(self) -> Topic:
        """The topic of what could not be learned from in this one."""
        return Topic(self.connection, self.letters or self.name + TOPIC_SUFFIX)

    def partition(self, partition: int) -> Any:
        """One of its partitions, as kafka-python names it."""
        return TopicPartition(self.name, partition)

    def exists(self) -> bool:
        """Whether the topic is there; never creates it."""
        try:
            self.describe()
        except TopicNotFound:
            return False
        return True

    def describe(self) -> dict[str, Any]:
        """The topic's metadata, as `KafkaAdminClient.describe_topics` gives it.

        Raises:
            TopicNotFound: there is none.
        """
        with open_client(KafkaAdminClient, self.connection) as admin:
            return self.describe_by(admin)

    def describe_by(self, admin: Any) -> dict[str, Any]:
        """The same, by a client that is open already."""
        try:
            description: dict[str, Any] = admin.describe_topics([self.name])[0]
            if description["error_code"]:
                raise for_code(description["error_code"])(self.name)
        except UnknownTopicOrPartitionError as error:
            raise TopicNotFound(self.name, self.connection.bootstrap_servers) from error
        except Exception as error:
            raise translate(error, self.connection) from error
        return description

    def create(self, n_partitions: int = 1, settings: Mapping[str, str] | None = None) -> bool:
        """Create the topic, replicated as the broker does by default, and wait until it can be used.

        Args:
            settings: the topic's own, such as ``max.message.bytes``.

        Returns:
            False when it was there already; its partitions and settings are then what they were.
        """
        wanted = {"num_partitions": n_partitions, "replication_factor": -1, "configs": dict(settings or {})}
        with open_client(KafkaAdminClient, self.connection) as admin:
            try:
                admin.create_topics({self.name: wanted}, timeout_ms=REQUEST_TIMEOUT_MS, wait_for_metadata=True)
            except TopicAlreadyExistsError:
                return False
            except Exception as error:
                raise translate(error, self.connection) from error
        return True

    def open_producer(self, **settings: Any) -> Any:
        """A KafkaProducer that waits for all replicas, where the topic exists.

        Idempotent, as the client is by default: a retry after a lost answer does not double a record.

        Raises:
            TopicNotFound: there is no such topic.
        """
        self.describe()
        return open_client(KafkaProducer, self.connection, acks="all", metrics_enabled=False, **settings)

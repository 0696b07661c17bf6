"""Real brokers for the tests of this folder: Tansu always, Apache Kafka where KAFKA_HOME names one; and services."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.service.embedded_broker import EmbeddedBroker
from tests.integration.brokers import ApacheKafka
from tests.integration.served import Launch, Service


@pytest.fixture(scope="session")
def tansu() -> Iterator[KafkaConnection]:
    with EmbeddedBroker() as broker:
        yield KafkaConnection(broker.bootstrap_servers)


@pytest.fixture(scope="session")
def apache_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    home = os.environ.get("KAFKA_HOME")
    if not home:
        pytest.skip("KAFKA_HOME names no Apache Kafka")
    kafka = ApacheKafka(Path(home), tmp_path_factory.mktemp("kafka") / "data")
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.stop()


@pytest.fixture(params=["tansu", pytest.param("apache_kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> KafkaConnection:
    """Each broker in turn."""
    found = request.getfixturevalue(request.param)
    connection: KafkaConnection = found.connection if isinstance(found, ApacheKafka) else found
    return connection


@pytest.fixture
def topic_name() -> str:
    """A name that no other test uses; the topic does not exist."""
    return f"events-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def topic(broker: KafkaConnection, topic_name: str) -> str:
    """A topic of one partition on `broker`."""
    Topic(broker, topic_name).create()
    return topic_name


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Makes services, not yet started, and ends them all."""
    services: list[Service] = []

    def make(connection: KafkaConnection, topic: str, **settings: str) -> Service:
        services.append(Service(connection, topic, tmp_path, **settings))
        return services[-1]

    yield make
    for service in services:
        service.close()

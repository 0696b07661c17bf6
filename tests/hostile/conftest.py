"""The brokers and the services of the integration tests, for tests that attack."""

from __future__ import annotations

from tests.integration.conftest import apache_kafka, broker, launch, tansu, topic, topic_name

__all__ = ["apache_kafka", "broker", "launch", "tansu", "topic", "topic_name"]

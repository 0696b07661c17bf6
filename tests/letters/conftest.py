"""The brokers and the service of the integration tests, for tests of what cannot be learned."""

from __future__ import annotations

from tests.integration.conftest import apache_kafka, broker, launch, tansu, topic, topic_name

__all__ = ["apache_kafka", "broker", "launch", "tansu", "topic", "topic_name"]

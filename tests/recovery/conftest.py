"""The brokers and the service of the integration tests, for tests that break something."""

from __future__ import annotations

from tests.integration.conftest import apache_kafka, broker, tansu, topic, topic_name
from tests.integration.test_serve import launch

__all__ = ["apache_kafka", "broker", "launch", "tansu", "topic", "topic_name"]

"""The brokers and the services of the other tests, for tests of what an attacker or an accident does."""

from __future__ import annotations

from tests.integration.conftest import apache_kafka, broker, launch, tansu, topic, topic_name
from tests.service.conftest import learner, no_settings_from_outside, settings

__all__ = [
    "apache_kafka",
    "broker",
    "launch",
    "learner",
    "no_settings_from_outside",
    "settings",
    "tansu",
    "topic",
    "topic_name",
]

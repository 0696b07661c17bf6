"""`flexihash serve` as a process that tests start, ask, stop and start again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event as StopSignal
from typing import Any

import rig.service
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.service.commands.verify import learn_again
from tests.integration.brokers import describe_connection

READY_S = rig.service.Service.patience_s
N_ROWS = 1 << 12


class Service(rig.service.Service):
    """One that learns a topic into a small table."""

    def __init__(self, connection: KafkaConnection, topic: str, folder: Path, **settings: str) -> None:
        mine = {"FLEXIHASH_TOPIC": topic, "FLEXIHASH_N_ROWS": str(N_ROWS)}
        super().__init__(folder, {**describe_connection(connection), **mine, **settings})

    def wait_position(self, position: int) -> None:
        self.wait(lambda: position in self.status().positions.values(), f"position {position}")

    def post(self, path: str, body: Any) -> Any:
        response = self.http.post(path, json=body)
        assert response.is_success, response.text
        return response.json()


def assert_exact(checkpoint: Path, connection: KafkaConnection, n_events: int) -> None:
    """The checkpoint is, bit for bit, what the log implies, in which there are so many events for it."""
    options = {"bootstrap_servers": connection.bootstrap_servers}
    verdict = learn_again(checkpoint, None, options, lambda done, total: None, StopSignal())
    assert (verdict.differences, verdict.is_ordered, verdict.events) == ([], True, n_events)


Launch = Callable[..., Service]

"""`flexihash serve` as a process that tests start, ask, stop and start again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import rig.service
from flexihash.consumer.kafka.connection import KafkaConnection
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


Launch = Callable[..., Service]

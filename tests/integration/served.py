"""`flexihash serve` as a process that tests start, ask, stop and start again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.status import LearnerStatus, read_status
from tests.integration.brokers import describe_connection

READY_S = 180.0  # the first start on a machine compiles the kernels
N_ROWS = 1 << 12


class Service:
    """One `flexihash serve`, on a port and in folders of its own, that can be stopped and started again."""

    def __init__(self, connection: KafkaConnection, topic: str, folder: Path, **settings: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.folder = folder
        self.memory = folder / "memory"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FLEXIHASH_")},
            **describe_connection(connection),
            "FLEXIHASH_TOPIC": topic,
            "FLEXIHASH_PORT": str(self.port),
            "FLEXIHASH_N_ROWS": str(N_ROWS),
            "FLEXIHASH_CHECKPOINT_DIR": str(folder / "checkpoints"),
            "FLEXIHASH_MEMORY_DIR": str(self.memory),
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self) -> Service:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flexihash", "serve"], env=self.environment, stderr=log
            )
        return self

    def wait(self, until: Callable[[], Any], what: str) -> None:
        assert self.process is not None
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log
            try:
                if until():
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.01)
        raise AssertionError(f"{what}: not within {READY_S} s; {self.log}")

    def wait_ready(self) -> Service:
        self.wait(lambda: self.http.get("/readyz").status_code == 200, "ready")
        return self

    def wait_position(self, position: int) -> None:
        self.wait(lambda: position in self.status().positions.values(), f"position {position}")

    def status(self) -> LearnerStatus:
        return read_status(self.memory) or LearnerStatus()

    def post(self, path: str, body: Any) -> Any:
        response = self.http.post(path, json=body)
        assert response.is_success, response.text
        return response.json()

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def end(self) -> None:
        self.http.close()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


Launch = Callable[..., Service]

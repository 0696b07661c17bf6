"""A broker: Apache Kafka as a process, where KAFKA_HOME names its folder, else Tansu."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Self

from flexihash.consumer.consumer_errors import BrokerUnavailable, TopicNotFound
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.service.embedded_broker import EmbeddedBroker
from rig.ports import HOST, find_free_ports

START_TIMEOUT_S = 90.0  # 5 s on an idle machine
STOP_TIMEOUT_S = 20.0
CHECK_S = 0.1  # between two looks whether it is up


class BrokerDown(Exception):
    """Apache Kafka ended early, or does not answer."""


class KafkaNode:
    """One node of Apache Kafka on a folder, which outlives it. It may be started again after `kill` or `stop`.

    Args:
        home: what KAFKA_HOME names: a folder with ``bin/kafka-server PORT FOLDER [setting=value ...]``.
        folder: for the log and everything else; its output goes to a file beside it.
        n_ports: taken for it in `ports`, the first of them its own; the one after that is the controller's.
        heap: of the Java machine.
    """

    def __init__(self, home: Path, folder: Path, n_ports: int = 1, heap: str = "512m") -> None:
        self.folder = folder
        self.ports = find_free_ports(n_ports)
        self._home = home
        self._heap = heap
        self._output = folder.parent / f"{folder.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """``host:port``, without encryption or a password."""
        return f"{HOST}:{self.ports[0]}"

    @property
    def connection(self) -> KafkaConnection:
        """To `bootstrap_servers`."""
        return KafkaConnection(self.bootstrap_servers)

    def settings(self) -> Sequence[str]:
        """Such as ``key=value``; they win over those of kafka-server."""
        return ()

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it answers unless told not to."""
        program = str(self._home / "bin" / "kafka-server")
        command = [program, str(self.ports[0]), str(self.folder), *self.settings()]
        environment = {**os.environ, "KAFKA_HEAP": self._heap}
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        if wait:
            self.wait_until_up()

    def wait_until_up(self) -> None:
        """Wait until it answers.

        Raises:
            BrokerDown: it has ended, or START_TIMEOUT_S are over.
        """
        deadline = monotonic() + START_TIMEOUT_S
        while monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise BrokerDown(f"Apache Kafka ended early: see {self._output}; is KAFKA_HOME right?")
            with contextlib.suppress(BrokerUnavailable, TopicNotFound):
                Topic(self.connection, "any").exists()
                return
            sleep(CHECK_S)
        raise BrokerDown(f"Apache Kafka is not up after {START_TIMEOUT_S:.0f} s: see {self._output}")

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order; with force where that takes too long. May be called twice."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


@contextlib.contextmanager
def open_broker(folder: Path) -> Iterator[KafkaNode | EmbeddedBroker]:
    """Apache Kafka on a folder, which is made, where KAFKA_HOME names one; else Tansu, which takes no folder."""
    home = os.environ.get("KAFKA_HOME")
    with KafkaNode(Path(home), folder) if home else EmbeddedBroker() as broker:
        yield broker

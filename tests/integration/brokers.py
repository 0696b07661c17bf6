"""Apache Kafka as a process that tests start, kill and start again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path
from time import monotonic, sleep

from consumer.errors import BrokerUnavailable, TopicNotFound
from consumer.kafka import KafkaConnection, topic_exists

HOST = "127.0.0.1"
START_TIMEOUT_S = 90.0  # 5 s on an idle machine
USERNAME, PASSWORD = "learner", "correct horse"


class ApacheKafka:
    """One node of Apache Kafka on a folder, which outlives it.

    It listens twice: without a password at `connection`, with one at `secure_connection`.

    Args:
        home: what KAFKA_HOME names: a folder with ``bin/kafka-server PORT FOLDER [setting=value ...]``.
        folder: for the log and everything else.
    """

    def __init__(self, home: Path, folder: Path) -> None:
        self._home = home
        self._folder = folder
        self._port, self._secure_port = _free_ports()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def connection(self) -> KafkaConnection:
        return KafkaConnection(f"{HOST}:{self._port}")

    def secure_connection(self, password: str = PASSWORD) -> KafkaConnection:
        return KafkaConnection(
            f"{HOST}:{self._secure_port}",
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="PLAIN",
            username=USERNAME,
            password=password,
        )

    def segment(self, topic: str) -> Path:
        """The file that holds the first records of the topic's partition 0."""
        return self._folder / "log" / f"{topic}-0" / f"{0:020d}.log"

    def start(self, *, wait: bool = True) -> None:
        with (self._folder.parent / f"{self._folder.name}.log").open("ab") as output:
            self._process = subprocess.Popen(
                [self._home / "bin" / "kafka-server", str(self._port), self._folder, *self._settings()],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "KAFKA_HEAP": "384m"},
            )
        if wait:
            self.wait_until_up()

    def wait_until_up(self) -> None:
        deadline = monotonic() + START_TIMEOUT_S
        while monotonic() < deadline:
            assert self._process is not None and self._process.poll() is None, "Apache Kafka ended early"
            with contextlib.suppress(BrokerUnavailable, TopicNotFound):
                topic_exists(self.connection, "any")
                return
            sleep(0.1)
        raise AssertionError(f"Apache Kafka is not up after {START_TIMEOUT_S:.0f} s: see {self._folder}.log")

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _settings(self) -> list[str]:
        controller = self._port + 1
        login = (
            "org.apache.kafka.common.security.plain.PlainLoginModule required"
            f' username="{USERNAME}" password="{PASSWORD}" user_{USERNAME}="{PASSWORD}";'
        )
        plain, secure = f"PLAINTEXT://{HOST}:{self._port}", f"SASL_PLAINTEXT://{HOST}:{self._secure_port}"
        protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT"
        return [
            f"listeners={plain},{secure},CONTROLLER://{HOST}:{controller}",
            f"advertised.listeners={plain},{secure}",
            f"listener.security.protocol.map={protocols}",
            "inter.broker.listener.name=PLAINTEXT",
            "sasl.enabled.mechanisms=PLAIN",
            f"listener.name.sasl_plaintext.plain.sasl.jaas.config={login}",
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",  # for what is forbidden
            "allow.everyone.if.no.acl.found=true",
            "super.users=User:ANONYMOUS",
        ]


def _free_ports() -> tuple[int, int]:
    """A port whose next is free too (the controller takes that), and another one."""
    while True:
        with socket.socket() as first, socket.socket() as second, socket.socket() as other:
            first.bind((HOST, 0))
            port = first.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                second.bind((HOST, port + 1))
                other.bind((HOST, 0))
                return port, other.getsockname()[1]

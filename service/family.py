"""`flexihash` commands as child processes of another, which stops them all when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from flexihash.service.environment import PREFIX
from flexihash.service.orphans import die_with_parent
from flexihash.service.service_errors import DemoError

STOP_S = 3.0  # from being told to stop to being told to hurry; Ctrl-C must be through in 5
HURRY_S = 1.0
LOG_LINES = 15


class Family:
    """`flexihash` commands as child processes, each with its log in a file; leaving stops them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Family:
        return self

    def start(self, command: str, *arguments: str) -> None:
        """Start ``flexihash command arguments``, without the user's own settings."""
        environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
        with self._log(command).open("wb") as log:
            self._processes[command] = subprocess.Popen(
                [sys.executable, "-P", "-m", "flexihash", command, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C is for us alone
                preexec_fn=die_with_parent(signal.SIGTERM),
            )

    def check(self) -> None:
        """Raises: DemoError: a child ended that should not have; a producer that is through is fine."""
        for command, process in self._processes.items():
            code = process.poll()
            if code is not None and not (command == "produce" and code == 0):
                raise self.explain(command, f"ended with exit code {code}")

    def explain(self, command: str, problem: str) -> DemoError:
        """An error with the last lines of a child's log."""
        lines = self._log(command).read_text(errors="replace").splitlines()[-LOG_LINES:]
        heading = f"{command} {problem}; its log " + ("ends with:" if lines else "is empty")
        return DemoError("\n".join([heading, *lines]))

    def __exit__(self, *_: object) -> None:
        running = [process for process in self._processes.values() if process.poll() is None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_S
        for process in running:
            _end(process, deadline)

    def _log(self, command: str) -> Path:
        return self._folder / f"{command}.log"


def _end(process: subprocess.Popen[bytes], deadline: float) -> None:
    """Wait for a process that was told to stop; at the deadline make it hurry (see `Supervisor.run`), then kill it."""
    for timeout_s, impatience in ((max(0.0, deadline - time.monotonic()), signal.SIGINT), (HURRY_S, signal.SIGKILL)):
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.send_signal(impatience)
    process.wait()

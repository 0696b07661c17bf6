"""The service's own processes under a benchmark: started, watched and ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flexihash.consumer.status import LearnerStatus, read_status

WAIT_S = 300.0
STOP_S = 90.0
LOOK_S = 0.001


class Service:
    """`python -m flexihash serve`, or another of its processes, with settings of its own.

    Args:
        arguments: after `python -P -m`.
        settings: by their names in lower case.
        environment: further variables of its own.
    """

    def __init__(
        self,
        arguments: list[str],
        settings: Mapping[str, object],
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.memory = Path(f"/dev/shm/flexihash-bench-{os.getpid()}-{time.monotonic_ns()}")
        self.log = folder / "log"
        mine = {"memory_dir": self.memory, "checkpoint_dir": folder / "checkpoints", **settings}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLEXIHASH_")}
        named = {f"FLEXIHASH_{name.upper()}": str(value) for name, value in mine.items()}
        everything = {**inherited, **named, **(environment or {})}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen([sys.executable, "-P", "-m", *arguments], env=everything, stderr=log)

    @property
    def pid(self) -> int:
        return self._process.pid

    def status(self) -> LearnerStatus:
        """The learner's own word; empty before the first."""
        return read_status(self.memory) or LearnerStatus()

    def wait(self, is_done: Callable[[], bool]) -> None:
        """Looks a thousand times a second.

        Raises:
            SystemExit: it has ended, or `WAIT_S` are over; with its log.
        """
        deadline = time.monotonic() + WAIT_S
        while not is_done():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise SystemExit(f"the service does not go on:\n{self.log.read_text()[-3000:]}")
            time.sleep(LOOK_S)

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.memory, ignore_errors=True)


@contextmanager
def running(
    arguments: list[str],
    settings: Mapping[str, object],
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """A service that is ended afterwards, whatever happens."""
    folder.mkdir(parents=True, exist_ok=True)
    service = Service(arguments, settings, folder, environment)
    try:
        yield service
    finally:
        service.close()


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> tuple[int, int]:
    """Resident memory of a process: all of it, and what is its own (neither files nor shared memory)."""
    lines = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Rss")
    )
    rss = {name: int(value.split()[0]) * 1024 for name, value in lines.items()}
    return sum(rss.values()), rss["RssAnon"]

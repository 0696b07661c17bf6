"""The service's own processes under a benchmark: started, watched and ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rig.service import Service

WAIT_S = 300.0
STOP_S = 90.0
LOOK_S = 0.001


class Measured(Service):
    """`python -m flexihash serve`, or another of its processes, its memory on tmpfs.

    Args:
        settings: by their names in lower case.
        environment: further variables of its own.
    """

    patience_s = WAIT_S
    stop_s = STOP_S
    look_s = LOOK_S

    def __init__(
        self,
        command: Sequence[str],
        settings: Mapping[str, object],
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        named = {f"FLEXIHASH_{name.upper()}": str(value) for name, value in settings.items()}
        memory = Path(f"/dev/shm/flexihash-bench-{os.getpid()}-{time.monotonic_ns()}")
        super().__init__(folder, {**named, **(environment or {})}, command, memory)
        self.http.timeout = WAIT_S

    def close(self) -> None:
        """Asks it to end, and removes its memory."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.stop()
        super().close()
        shutil.rmtree(self.memory, ignore_errors=True)


@contextmanager
def running(
    command: Sequence[str],
    settings: Mapping[str, object],
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Measured]:
    """A service that is ended afterwards, whatever happens."""
    service = Measured(command, settings, folder, environment).start()
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

"""An API process as the supervisor runs it, on a socket of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

START_TIMEOUT_S = 120.0
ROOT = Path(__file__).parents[2]


MAIN = """
import sys
from flexihash.service import api, bodies, connections, doors
{limits}
sys.exit(api.main())
"""


class Worker:
    """An API process and the address at which it answers.

    Args:
        limits: assignments that change limits in `bodies`, `connections` and `doors`, for tests that have no minute.
    """

    def __init__(self, settings: Any, limits: str = "", **environment: str) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = self._listening.getsockname()
        fd = self._listening.fileno()
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN.format(limits=limits), "--fd", str(fd)]
            if limits
            else [sys.executable, "-m", "flexihash.service.child", "api", "--fd", str(fd)],
            env={**os.environ, **settings.to_environment(), **environment},
            cwd=ROOT,
            pass_fds=(fd,),
            stderr=subprocess.PIPE,
            text=True,
        )
        self._listening.close()  # the child's copy remains

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.address[1]}"

    def wait_until_ready(self, learner: Any) -> None:
        """Waits for a 200 from /readyz; the learner goes on reporting meanwhile, as a real one does."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.process.communicate()[1]
            learner.report()
            try:
                if httpx.get(f"{self.url}/readyz", timeout=START_TIMEOUT_S).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError("the API process is not ready")

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

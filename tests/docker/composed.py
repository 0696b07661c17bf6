"""The system of docker-compose.yml, built and run for real, in a project of its own that leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from rig.ports import find_free_port

ROOT = Path(__file__).parents[2]
PROJECT = "flexihash-test"
BUILD_S = 1800.0  # torch is downloaded and torch-scatter compiled, on one core
UP_S = 300.0  # compose waits for what the services depend on
POLL_S = 0.5


def explain_absence() -> str | None:
    """Why docker cannot be used here; None where it can."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    info = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=60)
    if info.returncode:
        return f"the docker engine does not answer: {info.stderr.strip()}"
    return None if find_compose() else "neither `docker compose` nor `docker-compose` is installed"


def find_compose() -> list[str] | None:
    """The compose command of this machine: the second version, else the first."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    return None


class Composed:
    """One project: its containers, and its API on a port of this machine."""

    def __init__(self, compose: list[str]) -> None:
        self._compose = compose
        self._port = find_free_port()
        self._environment = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": PROJECT,
            "COMPOSE_DOCKER_CLI_BUILD": "1",
            "DOCKER_BUILDKIT": "1",
            "FLEXIHASH_PORT": str(self._port),
        }

    def compose(self, *arguments: str, timeout_s: float = UP_S) -> str:
        """Standard output of a compose command, which must succeed."""
        return self._run([*self._compose, *arguments], timeout_s)

    def execute(self, service: str, *command: str) -> str:
        """Standard output of a command in a service's container, which must succeed."""
        return self._run(["docker", "exec", self.container(service), *command], 60.0)

    def container(self, service: str) -> str:
        """Id of a service's only container, be it running or not."""
        filters = [f"label=com.docker.compose.project={PROJECT}", f"label=com.docker.compose.service={service}"]
        found = self._run(["docker", "ps", "-aq", *(part for name in filters for part in ("--filter", name))], 60.0)
        [container] = found.split()
        return container

    def state(self, service: str) -> dict[str, Any]:
        """What the engine knows of a container: Status, ExitCode, Health."""
        state: dict[str, Any] = json.loads(
            self._run(["docker", "inspect", "--format", "{{json .State}}", self.container(service)], 60.0)
        )
        return state

    def ask(self, path: str, body: Any = None) -> Any:
        """The API's answer to a GET or, with a body, a POST, which must succeed."""
        url = f"http://127.0.0.1:{self._port}{path}"
        answer = httpx.get(url, timeout=10) if body is None else httpx.post(url, json=body, timeout=10)
        answer.raise_for_status()
        return answer.json()

    def _run(self, command: list[str], timeout_s: float) -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=timeout_s
        )
        assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Returns once `condition` holds; fails, naming `what` did not happen, when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"within {timeout_s:g} s: {what}"
        time.sleep(POLL_S)

"""The composed system, where docker is there and the run was asked for: it builds for minutes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.docker.composed import BUILD_S, Composed, explain_absence, find_compose

ASKED_FOR = "TEST_DOCKER"


@pytest.fixture(scope="session")
def composed() -> Iterator[Composed]:
    """The system, up and healthy; all of it, volumes included, is removed at the end."""
    if not os.environ.get(ASKED_FOR):
        pytest.skip(f"builds an image and runs it, for minutes: set {ASKED_FOR}=1, or type make test-docker")
    if reason := explain_absence():
        pytest.skip(reason)
    system = Composed(find_compose() or [])
    system.compose("build", timeout_s=BUILD_S)
    try:
        system.compose("up", "--detach")
        yield system
    finally:
        system.compose("down", "--volumes", "--timeout", "75")

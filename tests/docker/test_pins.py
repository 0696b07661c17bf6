"""What Dockerfile and docker-compose.yml repeat from elsewhere is the same there. Needs no docker."""

from __future__ import annotations

import re

import pytest

from flexihash.model.tables import layout
from flexihash.service.settings import Settings
from flexihash.service.supervisor import API_GRACE_S, LEARNER_GRACE_S
from tests.docker.composed import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = (ROOT / "docker-compose.yml").read_text()


def find(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE | re.IGNORECASE)
    assert match is not None, f"nothing matches {pattern}"
    return match[1]


@pytest.mark.parametrize(("package", "argument"), [("torch", "TORCH"), ("torch[-_]scatter", "TORCH_SCATTER")])
def test_dockerfile_installs_the_locked_versions(package: str, argument: str) -> None:
    locked = find(rf"^{package}==([^\s;+]+)", (ROOT / "constraints.txt").read_text())
    assert find(rf"^ARG {argument}_VERSION=(\S+)", DOCKERFILE) == locked


def test_service_has_time_for_its_last_checkpoint() -> None:
    assert float(find(r"stop_grace_period: (\d+)s #", COMPOSE)) >= LEARNER_GRACE_S + API_GRACE_S


def test_shared_memory_holds_two_generations_of_tables() -> None:
    shapes = layout(Settings.model_construct().model).values()
    n_bytes = sum(dtype.itemsize * _product(shape) for shape, dtype in shapes)
    assert float(find(r"shm_size: (\d+)m", COMPOSE)) * 2**20 > 2 * n_bytes


def test_registry_hosts_are_named_nowhere() -> None:
    assert re.findall(r"https?://(?!127\.0\.0\.1)[\w.-]+", DOCKERFILE + COMPOSE) == []


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product

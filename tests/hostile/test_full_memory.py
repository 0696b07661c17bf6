"""A memory folder with room for one learner's tables only, and one that is full: told, and lived with."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flexihash.consumer.kafka.connection import KafkaConnection
from tests.disks import small_disk
from tests.integration.served import Launch, Service

ROOM = "8m"  # the tables of these tests take 5.9 MiB
EVENTS = [{"features": {"carrier": "UA"}, "label": 1}] * 7
INSTANCES = {"instances": [{"carrier": "UA"}]}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", ROOM) as folder:
        yield folder


@pytest.fixture
def service(tansu: KafkaConnection, topic_name: str, launch: Launch, disk: Path) -> Service:
    memory = disk / "memory"
    service = launch(tansu, topic_name, FLEXIHASH_CREATE_TOPIC="true", FLEXIHASH_MEMORY_DIR=str(memory))
    service.memory = memory
    return service


def learn_and_save(service: Service) -> None:
    service.start().wait_ready()
    service.post("/v1/events", EVENTS)
    service.wait_position(7)
    service.post("/v1/checkpoints", {})


def test_a_service_that_was_killed_starts_again(service: Service) -> None:
    learn_and_save(service)
    service.kill()
    assert list(service.memory.glob("tables-*"))
    service.start().wait_ready()
    assert service.post("/v1/predictions", INSTANCES)["version"]["events"] == 7
    assert "are removed first" in service.log
    assert service.stop() == 0


def test_a_learner_that_was_killed_gets_the_room_that_the_api_holds(service: Service) -> None:
    learn_and_save(service)
    killed = service.status().pid
    os.kill(killed, signal.SIGKILL)
    service.wait(lambda: service.status().pid != killed and service.status().state == "learning", "another learner")
    service.wait_ready()
    assert service.post("/v1/predictions", INSTANCES)["version"]["events"] == 7
    assert len(list(service.memory.glob("tables-*"))) == 1
    assert "no room for two tables: answers stop until the learner is restored" in service.log
    assert service.stop() == 0


def fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024))


def test_a_full_folder_is_told_and_learning_goes_on(service: Service, disk: Path) -> None:
    learn_and_save(service)
    learner, filler = service.status().pid, disk / "filler"

    def is_told() -> bool:
        fill(filler)  # the learner may have had the last of the room for its word
        answer = service.http.get("/readyz")
        return answer.status_code == 503 and "has 0 bytes left: make room there" in answer.json()["detail"]

    service.wait(is_told, "the word")
    assert f"cannot report in {service.memory}: No space left on device; make room there" in service.log
    with pytest.raises(httpx.HTTPStatusError, match="503"):
        service.http.post("/v1/checkpoints").raise_for_status()
    service.post("/v1/events", EVENTS)
    service.wait(lambda: predicted(service) == 14, "the events, in the tables though not in the status")
    filler.unlink()
    service.wait(service.is_ready, "ready")
    assert service.status().pid == learner
    assert service.log.count("cannot report in") < 5
    assert "reporting again" in service.log
    assert service.stop() == 0


def test_workers_live_in_a_full_folder_and_start_in_one(service: Service, disk: Path) -> None:
    service.environment["FLEXIHASH_WORKERS"] = "2"
    subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
    learn_and_save(service)
    shared = sorted((service.memory / "prometheus").iterdir())
    assert len(shared) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in shared} == {0o600}
    fill(disk / "filler")
    killed = int(shared[-1].stem.rpartition("_")[2])
    os.kill(killed, signal.SIGKILL)
    service.wait(lambda: "cannot share request metrics in" in service.log, "the word of the next worker")
    for _ in range(50):
        for path in ("/livez", "/v1/model", "/nothing", "/metrics"):
            httpx.get(f"{service.http.base_url}{path}")  # a connection each, so that both workers have some
    assert "SIGBUS" not in service.log
    assert service.log.count("api-1 started") + service.log.count("api-2 started") == 3
    (disk / "filler").unlink()
    assert service.stop() == 0


def predicted(service: Service) -> int:
    return int(service.post("/v1/predictions", INSTANCES)["version"]["events"])

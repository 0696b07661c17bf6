"""Where the cores are full, answers come first: the learner gives way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from consumer.kafka import KafkaConnection
from tests.integration.served import Launch

NICE = 7


def list_nice(pid: int) -> set[int]:
    """Of all threads of a process."""
    return {os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()}


@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
def test_every_thread_of_the_learner_is_nice_and_none_of_the_rest(
    tansu: KafkaConnection, topic_name: str, launch: Launch, client: str
) -> None:
    settings = {"FLEXIHASH_CREATE_TOPIC": "true", "FLEXIHASH_LEARNER_NICE": str(NICE), "FLEXIHASH_KAFKA_CLIENT": client}
    service = launch(tansu, topic_name, **settings).start().wait_ready()
    assert service.process is not None
    pids = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
    others = {int(pid) for pid in pids} - {service.status().pid}
    own = os.getpriority(os.PRIO_PROCESS, 0)

    assert list_nice(service.status().pid) == {own + NICE}
    assert others
    assert [list_nice(pid) for pid in [service.process.pid, *others]] == [{own}] * (1 + len(others))
    assert service.stop() == 0

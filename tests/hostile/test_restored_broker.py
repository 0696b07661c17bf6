"""A broker that is restored from a backup and written on: its new records lie below the model's position."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.publisher import Publisher
from flexihash.model.checkpoint.store import CheckpointStore
from rig.broker import KafkaNode
from tests.integration.served import Launch, Service, assert_exact

N_BACKED_UP, N_LOST, N_NEW = 300, 100, 250
TOPIC = "events"

pytestmark = pytest.mark.kafka


@pytest.fixture
def node(tmp_path: Path) -> Iterator[KafkaNode]:
    home = os.environ.get("KAFKA_HOME")
    if not home:
        pytest.skip("KAFKA_HOME names no Apache Kafka")
    with KafkaNode(Path(home), tmp_path / "kafka", heap="256m") as node:
        Topic(node.connection, TOPIC).create()
        yield node


def publish(node: KafkaNode, kind: str, n_events: int) -> None:
    events = [b'{"features": {"kind": "%s"}, "label": 1}' % kind.encode()] * n_events
    with Publisher(Topic(node.connection, TOPIC)) as publisher:
        publisher.publish(events, timeout_s=60)


def while_down(node: KafkaNode, change: Callable[[], object]) -> None:
    node.stop()
    change()
    node.start()


@pytest.fixture
def learned(node: KafkaNode, launch: Launch, tmp_path: Path) -> Service:
    """A service that learned to the log's end and was stopped; of all but the last N_LOST records there is a backup."""
    publish(node, "backed up", N_BACKED_UP)
    service = launch(node.connection, TOPIC, FLEXIHASH_CHECKPOINT_KEEP="10").start()
    service.wait_position(N_BACKED_UP)
    assert service.stop() == 0
    while_down(node, lambda: shutil.copytree(node.folder, tmp_path / "backup"))
    publish(node, "lost", N_LOST)
    service.start().wait_position(N_BACKED_UP + N_LOST)
    assert service.stop() == 0
    return service


def restore(node: KafkaNode, folder: Path) -> None:
    shutil.rmtree(node.folder)
    (folder / "backup").rename(node.folder)


@pytest.fixture
def lost(learned: Service, node: KafkaNode, tmp_path: Path) -> Service:
    """The same, where the broker was restored from the backup and written on."""
    while_down(node, lambda: restore(node, tmp_path))
    publish(node, "new", N_NEW)
    return learned


def assert_blocked(service: Service) -> None:
    last = N_BACKED_UP + N_LOST - 1
    text = f"{TOPIC}[0]@{last} is not the record that the model learned there: the log was restored from a backup"
    service.wait(lambda: text in service.http.get("/readyz").text, "the reason")
    assert service.status().state == "blocked"
    assert service.status().events == N_BACKED_UP + N_LOST
    for choice in ("--on-lost-position", "earliest", "latest", "keep", "fresh"):
        assert choice in service.http.get("/readyz").json()["detail"]


def choose(service: Service, choice: str) -> None:
    assert service.stop() == 0
    service.environment["FLEXIHASH_ON_LOST_POSITION"] = choice
    service.start()


def test_what_was_written_on_a_restored_log_is_not_skipped(lost: Service, node: KafkaNode) -> None:
    lost.start()
    assert_blocked(lost)
    choose(lost, "earliest")
    lost.wait(lambda: lost.status().events == 2 * N_BACKED_UP + N_LOST + N_NEW, "all of the log, once more")
    assert f"{TOPIC}[0] goes on at 0 instead of {N_BACKED_UP + N_LOST}, as chosen" in lost.log
    choose(lost, "stop")  # the checkpoint is of this log now
    lost.wait_ready()
    assert lost.stop() == 0


def test_a_checkpoint_from_before_the_loss_goes_on_exactly(lost: Service, node: KafkaNode) -> None:
    """What the message advises; the result is, bit for bit, what the restored log implies."""
    store = CheckpointStore(lost.folder / "checkpoints", 10)
    for info in store.list():
        assert info.manifest is not None
        if info.manifest.positions[f"{TOPIC}:0"] > N_BACKED_UP:
            shutil.move(info.path, lost.folder / info.path.name)
    lost.start().wait_position(N_BACKED_UP + N_NEW)
    assert lost.stop() == 0
    newest = store.list()[0]
    assert_exact(newest.path, node.connection, N_BACKED_UP + N_NEW)


def test_keep_goes_on_behind_the_record(lost: Service, node: KafkaNode) -> None:
    lost.start()
    assert_blocked(lost)
    choose(lost, "keep")
    lost.wait_position(N_BACKED_UP + N_NEW)
    assert lost.status().events == N_BACKED_UP + N_NEW
    assert "going on as chosen" in lost.log


def test_a_broker_that_is_restored_while_the_learner_runs(learned: Service, node: KafkaNode, tmp_path: Path) -> None:
    learned.start().wait_ready()

    def restore_once_missed() -> None:  # within 5 seconds it may go unnoticed, as the docs say
        learned.wait(lambda: learned.status().state == "connecting", "the loss of the broker")
        restore(node, tmp_path)

    while_down(node, restore_once_missed)
    publish(node, "new", N_NEW)
    assert_blocked(learned)
    assert learned.stop() == 0

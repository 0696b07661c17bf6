"""One learner: a second one is refused on this machine, and takes over from the first on another."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexihash.consumer.consumer_errors import Fenced
from flexihash.consumer.fence import Fence
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from tests.integration.brokers import ApacheKafka
from tests.integration.served import Service


def test_a_second_learner_of_the_same_checkpoints_is_refused(
    tansu: KafkaConnection, topic_name: str, tmp_path: Path
) -> None:
    Topic(tansu, topic_name).create()
    checkpoints = {"FLEXIHASH_CHECKPOINT_DIR": str(tmp_path / "shared")}
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    first, second = (Service(tansu, topic_name, folder, **checkpoints) for folder in folders)
    try:
        first.start().wait_ready()
        second.start()
        assert second.process is not None
        assert second.process.wait(180) == 2
        assert f"another learner works in {tmp_path / 'shared'}" in second.log
        assert "FLEXIHASH_CHECKPOINT_DIR" in second.log
        assert first.http.get("/readyz").status_code == 200
        assert first.stop() == 0
    finally:
        first.close()
        second.close()


@pytest.mark.kafka
def test_a_later_learner_fences_the_earlier(apache_kafka: ApacheKafka, topic_name: str, tmp_path: Path) -> None:
    """With folders of their own, as on two machines: the first stops, says so, and saves nothing more."""
    connection = apache_kafka.connection
    Topic(connection, topic_name).create()
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    first, second = (Service(connection, topic_name, folder) for folder in folders)
    try:
        first.start().wait_ready()
        second.start().wait_ready()
        first.wait(lambda: first.status().state == "fenced", "fenced")
        first.wait(lambda: "has taken over" in first.http.get("/readyz").text, "the reason")
        before = sorted((tmp_path / "first" / "checkpoints").glob("0*"))
        first.post("/v1/predictions", {"instances": [{}]})
        assert first.stop() == 0
        assert sorted((tmp_path / "first" / "checkpoints").glob("0*")) == before
        assert second.http.get("/readyz").status_code == 200
        assert second.stop() == 0
    finally:
        first.close()
        second.close()


@pytest.mark.kafka
def test_a_fence_is_the_newest_holders(apache_kafka: ApacheKafka, topic_name: str) -> None:
    first = Fence(Topic(apache_kafka.connection, topic_name), "group")
    first.acquire()
    first.check()
    first.acquire()  # again, as after a lost connection: it is still ours
    second = Fence(Topic(apache_kafka.connection, topic_name), "group")
    second.acquire()
    for _ in range(2):
        with pytest.raises(Fenced, match=f"flexihash.group.{topic_name}"):
            first.check()
    with pytest.raises(Fenced):
        first.acquire()
    second.check()
    first.close()
    second.close()

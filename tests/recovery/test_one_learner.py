"""One learner: a second one is refused on this machine, and takes over from the first on another."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexihash.consumer.consumer_errors import Fenced
from flexihash.consumer.fence import Fence
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.lease import Lease
from flexihash.consumer.publisher import Publisher
from flexihash.producer import synthetic
from flexihash.producer.events import encode
from tests.integration.brokers import ApacheKafka, administer
from tests.integration.served import Service, assert_exact


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


def publish(connection: KafkaConnection, topic: str, n_events: int) -> None:
    with Publisher(Topic(connection, topic)) as publisher:
        publisher.publish(list(encode(synthetic(n_events))), timeout_s=60)


@pytest.mark.kafka
@pytest.mark.parametrize("is_killed", [False, True])
def test_the_earlier_goes_on_once_the_later_has_ended(
    apache_kafka: ApacheKafka, topic_name: str, tmp_path: Path, is_killed: bool
) -> None:
    """Stopped or killed: the first learns again by itself, and what the second learned meanwhile too, bit for bit."""
    connection = apache_kafka.connection
    Topic(connection, topic_name).create()
    first, second = (Service(connection, topic_name, tmp_path / name) for name in ("first", "second"))
    try:
        publish(connection, topic_name, 300)
        first.start().wait_position(300)
        second.start().wait_position(300)
        first.wait(lambda: first.status().state == "fenced", "fenced")
        publish(connection, topic_name, 500)
        second.wait_position(800)
        assert first.status().events == 300
        if is_killed:
            second.kill()
        else:
            assert second.stop() == 0
        first.wait(lambda: first.status().state == "learning", "that the first goes on")
        publish(connection, topic_name, 200)
        first.wait_position(1000)
        assert first.is_ready()
        assert first.stop() == 0
    finally:
        first.close()
        second.close()
    assert_exact(max((tmp_path / "first" / "checkpoints").glob("0*")), connection, 1000)


@pytest.mark.kafka
def test_a_lease_is_free_once_its_holder_says_so(apache_kafka: ApacheKafka, topic_name: str) -> None:
    topic = Topic(apache_kafka.connection, topic_name)
    topic.create()
    ended, first, second = (Lease(topic, topic_name) for _ in range(3))
    ended.renew(7)
    ended.release()
    assert not first.is_free()  # nobody knows how long ago that was said
    first.renew(0)
    assert not first.is_free()
    second.renew(0)
    assert not first.is_free()
    second.release()
    assert first.is_free()
    with administer(apache_kafka.connection) as admin:
        (offset,) = admin.list_group_offsets(topic_name)[topic_name].values()
    assert offset.offset == 7  # for lag tools, it stays what it was
    for lease in (ended, first, second):
        lease.close()


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
    first.reset()
    first.acquire()  # as once the other is gone
    with pytest.raises(Fenced):
        second.check()
    first.close()
    second.close()

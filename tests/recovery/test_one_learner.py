"""One learner: a second one is refused on this machine, and takes over from the first on another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from kafka import KafkaAdminClient

from flexihash.consumer import letter_box, loop
from flexihash.consumer.consumer_errors import Fenced
from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.fence import Fence
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.source import KafkaSource
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.lease import Lease
from flexihash.consumer.lesson import Lesson
from flexihash.consumer.letter_box import DeadLetters
from flexihash.consumer.publisher import Publisher
from flexihash.consumer.standing import Standing
from flexihash.consumer.wire import EventFormat
from flexihash.model.config import ModelConfig
from flexihash.model.online import OnlineModel
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task
from flexihash.producer import synthetic
from flexihash.producer.events import encode
from tests.integration.brokers import ApacheKafka, administer
from tests.integration.served import Service, assert_exact
from tests.letters.test_refused_letters import wait_for


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


@pytest.mark.kafka
def test_a_learner_that_pauses_renews_its_lease_and_gives_way(
    apache_kafka: ApacheKafka, topic_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its dead letters reach nobody, and as many of them as may be are in memory."""
    monkeypatch.setattr(letter_box, "MAX_WAITING", 1)
    monkeypatch.setattr(loop, "REFRESH_S", 0.2)
    monkeypatch.setattr(loop, "RETRY_S", 0.1)
    topic = Topic(apache_kafka.connection, topic_name)
    topic.create()
    with Publisher(topic) as publisher:
        publisher.publish([b"{"] * 10, timeout_s=60)
    model = OnlineModel(Tables.create(ModelConfig(n_rows=1024)))
    letters = DeadLetters(Topic(KafkaConnection("127.0.0.1:1"), topic_name))
    source, first, second = KafkaSource(topic, max_poll_records=1), Fence(topic, topic_name), Fence(topic, topic_name)
    lesson = Lesson(model, EventDecoder(EventFormat(), Task.BINARY, 1024), letters)
    learning = loop.LearnLoop(lesson, Standing(model, source), fence=first)
    words: set[str] = set()

    def hear(admin: KafkaAdminClient) -> bool:
        (said,) = admin.list_group_offsets(topic_name)[topic_name].values()
        words.add(said.metadata)
        return len(words) > 3

    learning.start()
    with ThreadPoolExecutor(1) as pool, administer(apache_kafka.connection) as admin:
        ended, stop = None, Event()
        try:
            ended = pool.submit(learning.run, stop)
            wait_for(lambda: learning.status.state == "pausing")
            wait_for(lambda: hear(admin))
            assert learning.status.state == "pausing"
            second.acquire()
            assert isinstance(ended.exception(timeout=60), Fenced)
        finally:
            stop.set()
    for closed in (letters, source, first, second):
        closed.close()

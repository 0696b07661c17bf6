"""Dead letters that a broker refuses or cannot take: none is lost, and they arrive by themselves later."""

from __future__ import annotations

import os
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep, time

import pytest
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ConfigResource,
    ConfigResourceType,
    ResourcePattern,
    ResourceType,
)

from flexihash.consumer import courier
from flexihash.consumer.consumer_errors import DeadLetterError
from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.formats.file_source import FileSource
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.source import KafkaSource
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.lesson import Lesson
from flexihash.consumer.letter_box import MAX_WAITING, MAX_WAITING_BYTES, DeadLetters
from flexihash.consumer.letters import Letter, read_letter
from flexihash.consumer.loop import LearnLoop
from flexihash.consumer.publisher import Publisher
from flexihash.consumer.records import Record
from flexihash.consumer.schedule import CheckpointSchedule
from flexihash.consumer.spill import read_spill
from flexihash.consumer.standing import Standing
from flexihash.consumer.wire import EventFormat
from flexihash.model.checkpoint.store import CheckpointStore
from flexihash.model.config import ModelConfig
from flexihash.model.online import OnlineModel
from flexihash.model.saving import Saver
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task
from flexihash.service.embedded_broker import EmbeddedBroker
from tests.disks import small_disk
from tests.integration.brokers import USERNAME, ApacheKafka, administer, delete_topic
from tests.integration.served import Service

PATIENCE_S = 60.0
NOW_MS = int(time() * 1000)
NOBODY = KafkaConnection("127.0.0.1:9")

OpenLetters = Callable[..., DeadLetters]


@pytest.fixture(autouse=True)
def short_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "REST_S", 0.2)


@pytest.fixture
def open_letters(tmp_path: Path) -> Iterator[OpenLetters]:
    """Builds dead letters that spill, and closes them at the end."""
    opened: list[DeadLetters] = []

    def build(connection: KafkaConnection, topic: str, folder: Path = tmp_path / "spill") -> DeadLetters:
        opened.append(DeadLetters(Topic(connection, topic), folder))
        return opened[-1]

    yield build
    for letters in opened:
        letters.close()


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[ApacheKafka]:
    """A broker that may be killed without regard for others."""
    home = os.environ.get("KAFKA_HOME")
    if not home:
        pytest.skip("KAFKA_HOME names no Apache Kafka")
    kafka = ApacheKafka(Path(home), tmp_path / "kafka")
    kafka.start()
    yield kafka
    kafka.stop()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB, and full but for 4 of them."""
    with small_disk(tmp_path / "disk", "64k") as folder:
        (folder / "ballast").write_bytes(bytes(60 * 1024))
        yield folder


def send(letters: DeadLetters, *offsets: int, value: bytes = b"x") -> None:
    for offset in offsets:
        letters.send(Record("events", 2, offset, NOW_MS, b"key", value, (("null", None),)), "decode", "r", "m")


def tend_until(letters: DeadLetters, is_done: Callable[[], bool]) -> None:
    deadline = monotonic() + PATIENCE_S
    while not is_done():
        assert monotonic() < deadline, letters.status
        letters.tend()
        sleep(0.01)


def read_all(connection: KafkaConnection, topic: str, n: int) -> list[Letter]:
    """The first n letters of a topic that have different origins."""
    source = KafkaSource(Topic(connection, topic))
    source.start({})
    found: list[Letter] = []
    deadline = monotonic() + PATIENCE_S
    while len({letter.origin for letter in found}) < n:
        assert monotonic() < deadline, f"{len(found)} letters came"
        found += [must(read_letter(fetch.record(i))) for fetch in source.poll(0.5) for i in range(len(fetch))]
    source.close()
    return found


def must(letter: Letter | None) -> Letter:
    assert letter is not None
    return letter


def offsets(letters: list[Letter]) -> list[int]:
    return [letter.offset for letter in letters]


def test_letters_go_to_the_disk_while_no_broker_answers_and_arrive_after_a_restart(
    topic_name: str, open_letters: OpenLetters, tmp_path: Path
) -> None:
    with EmbeddedBroker() as gone:
        port = gone.port
    connection = KafkaConnection(f"127.0.0.1:{port}")
    letters = open_letters(connection, topic_name)
    send(letters, 0, 1)
    letters.flush(2.0)
    send(letters, 2)
    letters.flush(2.0)
    assert (letters.status.waiting, letters.status.spilled) == (0, 3)
    assert f"127.0.0.1:{port}" in (letters.status.error or "")
    assert offsets(list(read_spill(tmp_path / "spill" / letters.topic.name))) == [0, 1, 2]
    letters.close()
    again = open_letters(connection, topic_name)
    assert again.status.spilled == 3
    with EmbeddedBroker(port):
        tend_until(again, lambda: not again.status.spilled)
        send(again, 3)
        again.flush(PATIENCE_S)
        assert (again.status.waiting, again.status.spilled, again.status.error) == (0, 0, None)
        found = read_all(connection, again.topic.name, 4)
        again.close()
    assert offsets(found) == [0, 1, 2, 3]
    assert {(letter.key, letter.value, tuple(letter.headers)) for letter in found} == {
        (b"key", b"x", (("null", None),))
    }
    assert list((tmp_path / "spill" / again.topic.name).iterdir()) == []


@pytest.mark.kafka
def test_a_topic_that_was_deleted_is_made_again(
    apache_kafka: ApacheKafka, topic_name: str, open_letters: OpenLetters
) -> None:
    """Not on Tansu, which acknowledges what is sent to a deleted topic, and has it nowhere."""
    broker = apache_kafka.connection
    letters = open_letters(broker, topic_name)
    send(letters, 0)
    letters.flush(PATIENCE_S)
    delete_topic(broker, letters.topic.name)
    send(letters, *range(1, 50))
    letters.flush(10.0)
    tend_until(letters, lambda: not letters.status.spilled)
    assert letters.status.waiting == 0
    assert set(offsets(read_all(broker, letters.topic.name, 49))) == set(range(1, 50))


@pytest.mark.kafka
def test_a_letter_that_is_too_large_waits_on_the_disk_and_holds_up_no_other(
    apache_kafka: ApacheKafka, topic_name: str, open_letters: OpenLetters
) -> None:
    connection = apache_kafka.connection
    Topic(connection, f"{topic_name}.dlq").create(settings={"max.message.bytes": "2000"})
    letters = open_letters(connection, topic_name)
    value = os.urandom(5000)
    send(letters, 0)
    send(letters, 1, value=value)
    send(letters, 2)
    letters.flush(PATIENCE_S)
    assert (letters.status.waiting, letters.status.spilled) == (0, 1)
    assert "events[2]@1" in (letters.status.error or "")
    assert "MessageSizeTooLarge" in (letters.status.error or "")
    # behind it, on the disk, one that the broker would take
    letters.close()
    offline = open_letters(NOBODY, topic_name)
    send(offline, 3)
    offline.flush(1.0)
    offline.close()
    letters = open_letters(connection, topic_name)
    assert letters.status.spilled == 2
    tend_until(letters, lambda: letters.status.spilled == 1)
    assert offsets(read_all(connection, letters.topic.name, 3)) == [0, 2, 3]
    tend_until(letters, lambda: "MessageSizeTooLarge" in (letters.status.error or ""))
    resource = ConfigResource(ConfigResourceType.TOPIC, letters.topic.name, {"max.message.bytes": "100000"})
    with administer(connection) as admin:
        admin.alter_configs([resource])
    tend_until(letters, lambda: not letters.status.spilled)
    assert letters.status.error is None
    found = read_all(connection, letters.topic.name, 4)
    assert offsets(found) == [0, 2, 3, 1]
    assert found[3].value == value


@pytest.mark.kafka
def test_letters_arrive_once_the_right_to_write_is_given(
    apache_kafka: ApacheKafka, topic_name: str, open_letters: OpenLetters
) -> None:
    Topic(apache_kafka.connection, f"{topic_name}.dlq").create()
    pattern = ResourcePattern(ResourceType.TOPIC, f"{topic_name}.dlq")
    rule = (f"User:{USERNAME}", "*", ACLOperation.WRITE, ACLPermissionType.DENY, pattern)
    with administer(apache_kafka.connection) as admin:
        admin.create_acls([ACL(*rule)])
    letters = open_letters(apache_kafka.secure_connection(), topic_name)
    send(letters, *range(100))
    letters.flush(PATIENCE_S)
    assert (letters.status.waiting, letters.status.spilled) == (0, 100)
    assert "Authorization" in (letters.status.error or "")
    send(letters, 100)
    letters.flush(PATIENCE_S)
    assert (letters.status.waiting, letters.status.spilled) == (0, 101)
    with administer(apache_kafka.connection) as admin:
        admin.delete_acls([ACLFilter(*rule)])
    tend_until(letters, lambda: not letters.status.spilled)
    assert offsets(read_all(apache_kafka.connection, letters.topic.name, 101)) == list(range(101))


@pytest.mark.kafka
def test_a_timestamp_that_the_broker_refuses_does_not_keep_a_letter_on_the_disk(
    apache_kafka: ApacheKafka, topic_name: str, open_letters: OpenLetters
) -> None:
    offline = open_letters(NOBODY, topic_name)
    next_week_ms = NOW_MS + 7 * 86_400_000
    offline.send(Record("events", 2, 0, next_week_ms, None, b"x", ()), "decode", "r", "m")
    send(offline, 1)
    offline.flush(1.0)
    offline.close()
    letters = open_letters(apache_kafka.connection, topic_name)
    tend_until(letters, lambda: not letters.status.spilled)
    found = {letter.offset: letter.timestamp for letter in read_all(apache_kafka.connection, letters.topic.name, 2)}
    assert found == {0: next_week_ms, 1: NOW_MS}


@pytest.mark.kafka
def test_no_letter_is_lost_when_the_broker_is_killed_in_the_midst(
    own_kafka: ApacheKafka, topic_name: str, open_letters: OpenLetters
) -> None:
    letters = open_letters(own_kafka.connection, topic_name)
    send(letters, *range(500))
    letters.flush(PATIENCE_S)
    send(letters, *range(500, 2000))  # on their way
    own_kafka.kill()
    send(letters, *range(2000, 2500))
    letters.flush(3.0)
    send(letters, *range(2500, 3000))
    letters.flush(3.0)
    assert letters.status.waiting == 0
    assert 1000 <= letters.status.spilled <= 2500
    own_kafka.start()
    send(letters, *range(3000, 3500))
    letters.flush(PATIENCE_S)
    tend_until(letters, lambda: not letters.status.spilled)
    send(letters, 3500)
    letters.flush(PATIENCE_S)
    assert (letters.status.waiting, letters.status.spilled, letters.status.error) == (0, 0, None)
    counts = Counter(offsets(read_all(own_kafka.connection, letters.topic.name, 3501)))
    assert counts.keys() == set(range(3501))
    assert all(counts[offset] == 1 for offset in [*range(500), *range(2000, 3501)])  # those on their way may be doubled


def test_a_full_disk_is_told_and_its_letters_are_kept(
    topic_name: str, open_letters: OpenLetters, tiny_disk: Path
) -> None:
    letters = open_letters(NOBODY, topic_name, tiny_disk)
    send(letters, *range(50))
    for _ in range(2):
        message = rf"50 dead letters .* 127.0.0.1:9 .* {tiny_disk}.*No space left"
        with pytest.raises(DeadLetterError, match=message) as told:
            letters.flush(1.0)
        assert told.value.retriable
    assert (letters.status.waiting, letters.status.spilled) == (50, 0)
    (tiny_disk / "ballast").unlink()
    letters.flush(1.0)
    assert (letters.status.waiting, letters.status.spilled) == (0, 50)
    assert offsets(list(read_spill(tiny_disk / letters.topic.name))) == list(range(50))


def test_letters_on_a_full_disk_reach_the_broker(
    tansu: KafkaConnection, topic_name: str, open_letters: OpenLetters, tiny_disk: Path
) -> None:
    """Neither place takes them at first; then the broker does, while the disk stays full."""
    with EmbeddedBroker() as gone:
        port = gone.port
    letters = open_letters(KafkaConnection(f"127.0.0.1:{port}"), topic_name, tiny_disk)
    send(letters, *range(50))
    with pytest.raises(DeadLetterError):
        letters.flush(1.0)
    with EmbeddedBroker(port) as back:
        deadline = monotonic() + PATIENCE_S
        while letters.status.waiting and monotonic() < deadline:
            try:
                letters.flush(1.0)
            except DeadLetterError:
                sleep(0.05)
        assert offsets(read_all(KafkaConnection(back.bootstrap_servers), letters.topic.name, 50)) == list(range(50))
        letters.close()


def test_few_large_letters_leave_no_room_either(topic_name: str, open_letters: OpenLetters) -> None:
    letters = open_letters(NOBODY, topic_name)
    n_bytes = MAX_WAITING_BYTES // 4
    send(letters, 0, 1, 2, value=bytes(n_bytes))
    assert letters.has_room()
    send(letters, 3, value=bytes(n_bytes))
    assert not letters.has_room()
    letters.flush(1.0)
    assert letters.has_room()
    assert letters.status.spilled == 4


def test_learning_pauses_while_no_letter_is_safe_and_goes_on_by_itself(
    topic_name: str, open_letters: OpenLetters, tiny_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "REST_S", 10.0)  # as it is: attempts to connect take seconds
    n_bad = 3 * MAX_WAITING
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"{\n" * n_bad + b'{"features": {"a": 1.5}, "label": 1}\n')
    tables = Tables.create(ModelConfig(n_rows=1024))
    model = OnlineModel(tables)
    letters = open_letters(NOBODY, topic_name, tiny_disk / "letters")
    saver = Saver(CheckpointStore(tmp_path / "checkpoints", 3), tables)
    source = FileSource(path)
    lesson, standing = Lesson(model, EventDecoder(EventFormat(), Task.BINARY, 1024), letters), Standing(model, source)
    loop = LearnLoop(lesson, standing, CheckpointSchedule(saver, lesson, standing, seconds=0.1))
    loop.start()
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    try:
        wait_for(lambda: loop.status.state == "pausing")
        assert MAX_WAITING <= loop.status.dead_letters.waiting < n_bad
        assert "No space left" in (loop.status.error or "")
        assert model.n_events == 0
        wait_for(lambda: loop.status.checkpoint.error is not None)
        assert loop.status.checkpoint.path is None
        subprocess.run(["mount", "-o", "remount,size=64m", tiny_disk], check=True)
        wait_for(lambda: model.n_events == 1)
        wait_for(lambda: loop.status.checkpoint.path is not None)
        assert loop.status.state == "learning"
    finally:
        stop.set()
        thread.join()
        saver.close()
        source.close()
    assert sum(loop.status.rejected.values()) == n_bad
    assert len(list(read_spill(tiny_disk / "letters" / letters.topic.name))) == n_bad


@pytest.mark.kafka
def test_the_service_survives_its_broker_and_loses_no_letter(
    own_kafka: ApacheKafka, topic_name: str, tmp_path: Path
) -> None:
    """Letters that are rejected before a broker dies are safe on the disk, through a restart of the service too."""
    Topic(own_kafka.connection, topic_name).create()
    service = Service(own_kafka.connection, topic_name, tmp_path)
    try:
        service.start().wait_ready()
        publish(own_kafka.connection, topic_name, n_good=100, n_bad=100)
        service.wait_position(200)
        service.post("/v1/checkpoints", None)
        learner = service.status().pid
        publish(own_kafka.connection, topic_name, n_good=5_000, n_bad=5_000)
        own_kafka.kill()  # while it learns, and letters are on their way
        service.wait(lambda: service.status().state == "connecting", "the broker to be missed")
        assert service.stop() == 0, service.log
        stopped = service.status()
        assert (stopped.pid, stopped.state, stopped.dead_letters.waiting) == (learner, "stopped", 0)
        assert stopped.checkpoint.events == stopped.events >= 100

        own_kafka.start()
        service.start().wait_ready().wait_position(10_200)
        publish(own_kafka.connection, topic_name, n_good=1, n_bad=1)
        service.wait_position(10_202)
        service.post("/v1/checkpoints", None)
        service.wait(lambda: not service.status().dead_letters.spilled, "the disk to be empty")
        assert service.status().events == 5_101
        assert service.status().rejected == {"not_json": 5_101}
        assert service.stop() == 0, service.log
    finally:
        service.close()
    found = Counter(offsets(read_all(own_kafka.connection, f"{topic_name}.dlq", 5_101)))
    assert found.keys() == {*range(100, 200), *range(5_200, 10_200), 10_201}


def publish(connection: KafkaConnection, topic: str, n_good: int, n_bad: int) -> None:
    """Good events, and then bad ones."""
    with Publisher(Topic(connection, topic)) as publisher:
        publisher.publish([b'{"features": {"a": 1.5}, "label": 1}'] * n_good + [b"{"] * n_bad, timeout_s=PATIENCE_S)


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = monotonic() + PATIENCE_S
    while not is_so():
        assert monotonic() < deadline
        sleep(0.01)

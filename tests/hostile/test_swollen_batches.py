"""Compressed batches that unpack to a thousand times their size: no more memory than the Kafka client itself needs."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from time import monotonic, sleep, time

import pytest
from kafka.errors import MessageSizeTooLargeError

from flexihash.consumer import courier
from flexihash.consumer.kafka.client import POLL_BYTES
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.source import KafkaSource, read_topic
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.letter_box import DeadLetters
from flexihash.consumer.letters import HEAD_BYTES, Cut, Letter, make_letter, read_letter
from flexihash.consumer.records import Record
from flexihash.consumer.replay import read_box, replay
from flexihash.consumer.spill import Spill
from rig.service import ROOT
from tests.integration.brokers import ApacheKafka
from tests.integration.served import Launch

MB = 1_000_000
GOOD = b'{"features": {"a": "x"}, "label": 1}'
PATIENCE_S = 120.0
NOW_MS = int(time() * 1000)
READ = """
import sys
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.service.learner import _source_class
from tests.hostile.test_swollen_batches import peak_bytes
client, servers, topic, end = sys.argv[1:]
source = _source_class(client)(Topic(KafkaConnection(servers), topic))
source.start({})
before = peak_bytes("self")
while not source.has_read({0: int(end)}):
    source.poll(0.5)
print(peak_bytes("self") - before)
"""
REPLAY = """
import sys
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.replay import replay
from tests.hostile.test_swollen_batches import peak_bytes
servers, topic = sys.argv[1:]
replay(Topic(KafkaConnection(servers), topic))
print(peak_bytes("self"))
"""


def peak_bytes(pid: int | str) -> int:
    """The most memory that a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def publish(connection: KafkaConnection, topic: str, *values: bytes) -> None:
    """Records in one gzip batch, which the broker judges by what it takes packed."""
    producer = Topic(connection, topic).open_producer(
        compression_type="gzip", max_request_size=1 << 30, batch_size=1 << 30, linger_ms=60_000, max_block_ms=60_000
    )
    sent = [producer.send(topic, value) for value in values]
    producer.flush(timeout=PATIENCE_S)
    for future in sent:
        future.get(timeout=0)
    producer.close()


def measure(script: str, *arguments: str) -> int:
    """What a script prints: so many bytes."""
    command = (sys.executable, "-P", "-c", script, *arguments)
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def measure_client(client: str, connection: KafkaConnection, topic: str, end: int) -> int:
    """The bytes that it takes to read a topic and do nothing with it."""
    return measure(READ, client, connection.bootstrap_servers, topic, str(end))


def read_letters(connection: KafkaConnection, topic: str) -> list[Letter]:
    letters = map(read_letter, read_topic(Topic(connection, topic).dead_letters))
    return [letter for letter in letters if letter is not None]


@pytest.mark.kafka
@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
def test_a_huge_record_takes_what_the_client_needs_and_is_told_by_its_head(
    apache_kafka: ApacheKafka, topic_name: str, launch: Launch, client: str
) -> None:
    connection = apache_kafka.connection
    Topic(connection, topic_name).create()
    huge = b'{"features": {"a": "' + b"x" * 150 * MB + b'"}, "label": 1}'
    settings = {"FLEXIHASH_KAFKA_CLIENT": client, "FLEXIHASH_CHECKPOINT_SECONDS": "1"}
    service = launch(connection, topic_name, **settings).start()
    publish(connection, topic_name, GOOD)
    service.wait_position(1)
    pid = service.status().pid
    before = peak_bytes(pid)
    publish(connection, topic_name, huge)
    publish(connection, topic_name, GOOD)
    service.wait(lambda: service.status().checkpoint.events == 2, "a checkpoint, which waits for the letter")
    assert service.status().dead_letters.spilled == 0
    assert service.status().rejected == {"too_large": 1}
    taken = peak_bytes(pid) - before
    assert service.status().pid == pid
    assert taken < measure_client(client, connection, topic_name, 3) + 32 * MB
    (letter,) = read_letters(connection, topic_name)
    assert (letter.origin, letter.value) == (f"{topic_name}[0]@1", huge[:HEAD_BYTES])
    assert letter.cut == {"value": Cut(len(huge), sha256(huge).hexdigest())}


@pytest.mark.kafka
def test_a_poll_ends_after_so_many_bytes(apache_kafka: ApacheKafka, topic_name: str) -> None:
    """Else a batch of many large records, or several of one, would all be in memory at once."""
    connection = apache_kafka.connection
    Topic(connection, topic_name).create()
    values = [b"%03d" % number + b"x" * MB for number in range(60)]
    publish(connection, topic_name, *values[:40])
    for value in values[40:]:
        publish(connection, topic_name, value)
    source = KafkaSource(Topic(connection, topic_name))
    source.start({})
    found: list[bytes] = []
    polled: list[int] = []
    while len(found) < len(values):
        fetched = [value or b"" for fetch in source.poll(0.5) for value in fetch.values]
        polled.append(sum(map(len, fetched)))
        found += fetched
    source.close()
    assert found == values
    assert POLL_BYTES <= max(polled) < POLL_BYTES + 2 * MB


@pytest.mark.kafka
def test_a_replay_holds_few_letters_at_a_time(apache_kafka: ApacheKafka, topic_name: str) -> None:
    connection = apache_kafka.connection

    def measure_replay(topic: str, n_letters: int) -> int:
        """The most memory that a replay of letters of 10 MB takes."""
        Topic(connection, topic).create()
        letters = DeadLetters(Topic(connection, topic))
        for offset in range(n_letters):
            letters.send(Record(topic, 0, offset, NOW_MS, None, bytes(10 * MB), ()), "decode", "not_json", "m")
            letters.flush(PATIENCE_S)
        letters.close()
        peak = measure(REPLAY, connection.bootstrap_servers, topic)
        sizes = [len(record.value or b"") for record in read_topic(Topic(connection, topic))]
        assert sizes == [10 * MB] * n_letters
        return peak

    few = measure_replay(f"{topic_name}-few", 2)
    assert measure_replay(f"{topic_name}-many", 30) - few < 50 * MB


@pytest.mark.kafka
def test_a_letter_of_a_head_is_counted_and_not_replayed(apache_kafka: ApacheKafka, topic_name: str) -> None:
    topic = Topic(apache_kafka.connection, topic_name)
    topic.create()
    letters = DeadLetters(topic)
    for offset, value in enumerate((bytes(20 * MB), GOOD)):
        letters.send(Record(topic_name, 0, offset, NOW_MS, None, value, ()), "decode", "r", "m")
    letters.flush(PATIENCE_S)
    letters.close()
    left_out: list[tuple[int, int]] = []
    assert replay(topic, on_left_out=lambda *counts: left_out.append(counts)) == 1
    assert replay(topic, on_left_out=lambda *counts: left_out.append(counts)) == 0
    assert left_out == [(0, 1), (0, 1)]
    assert [record.value for record in read_topic(topic)] == [GOOD]
    box = read_box(topic, n_samples=2)
    assert (box.count(), box.count_replayed(), box.count_cut(), box.reasons) == (2, 1, 1, ["r"])
    assert [len(letter.value or b"") for letter in box.samples["r"]] == [HEAD_BYTES, len(GOOD)]


@pytest.mark.kafka
def test_a_broker_that_stores_what_it_takes_unpacked_refuses_the_batch(
    apache_kafka: ApacheKafka, topic_name: str
) -> None:
    """As docs/security.md has it."""
    Topic(apache_kafka.connection, topic_name).create(settings={"compression.type": "uncompressed"})
    with pytest.raises(MessageSizeTooLargeError):
        publish(apache_kafka.connection, topic_name, bytes(5 * MB))


@pytest.mark.kafka
def test_what_was_kept_on_the_disk_whole_is_sent_by_its_head(
    apache_kafka: ApacheKafka, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as by an earlier version, of which the broker refused it again and again."""
    monkeypatch.setattr(courier, "REST_S", 0.2)
    topic = Topic(apache_kafka.connection, topic_name)
    value, key = os.urandom(20 * MB), os.urandom(MB)
    headers = (("a", b"x" * MB), ("b", None))
    record = Record(topic_name, 0, 7, NOW_MS, key, value, headers)
    Spill(tmp_path / topic.dead_letters.name).append([make_letter(record, "decode", "too_large", "m")])
    letters = DeadLetters(topic, tmp_path)
    deadline = monotonic() + PATIENCE_S
    while letters.status.spilled:
        assert monotonic() < deadline, letters.status
        letters.tend()
        sleep(0.01)
    letters.close()
    (letter,) = read_letters(apache_kafka.connection, topic_name)
    assert (letter.origin, letter.key, letter.value) == (f"{topic_name}[0]@7", key[:HEAD_BYTES], value[:HEAD_BYTES])
    assert letter.headers == []
    assert letter.cut == {
        "key": Cut(MB, sha256(key).hexdigest()),
        "value": Cut(20 * MB, sha256(value).hexdigest()),
        "headers": Cut(MB + 2, sha256(b"a" + b"x" * MB + b"b").hexdigest()),
    }

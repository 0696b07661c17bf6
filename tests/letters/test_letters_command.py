"""`flexihash dead-letters` on real brokers: what it shows, and that a replay comes once and as it was."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from flexihash.consumer.consumer_errors import PublishRefused
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.source import read_topic
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.letter_box import DeadLetters
from flexihash.consumer.publisher import Publisher
from flexihash.consumer.records import Record
from flexihash.consumer.replay import REPLAYED, _open_producer, _publish, read_box, replay
from flexihash.consumer.spill import Spill
from flexihash.model.checkpoint.store import CheckpointStore
from flexihash.service.commands import dead_letters
from tests.integration.brokers import ApacheKafka
from tests.unit.test_spill import letter

PATIENCE_S = 60.0
NOW_MS = int(time.time() * 1000)


def run(connection: KafkaConnection, topic: str, folder: Path, *arguments: str) -> tuple[int, str, str]:
    command = [
        sys.executable,
        "-P",
        "-m",
        "flexihash",
        "dead-letters",
        "--topic",
        topic,
        "--checkpoint-dir",
        str(folder),
    ]
    command += ["--bootstrap-servers", connection.bootstrap_servers, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    return ended.returncode, ended.stdout, ended.stderr


def save_checkpoint(folder: Path, topic: str, position: int) -> None:
    """One of a model that has met no record of the topic before this position."""
    store = CheckpointStore(folder, 1)
    metrics: dict[str, object] = {}
    store.save({"x": torch.zeros(1)}, events=0, positions={f"{topic}:0": position}, configuration={}, metrics=metrics)


def reject(connection: KafkaConnection, topic: str, *records: tuple[str, bytes | None]) -> None:
    """Dead letters of these reasons and values; their offsets count from 0."""
    letters = DeadLetters(Topic(connection, topic))
    for offset, (reason, value) in enumerate(records):
        headers = (("trace", b"\x01"), ("nothing", None))
        letters.send(
            Record(topic, 0, offset, NOW_MS, b"\xffkey", value, headers), "decode", reason, f"\x1b[2Jof {reason}"
        )
    letters.flush(PATIENCE_S)
    letters.close()


def values(connection: KafkaConnection, topic: str) -> list[bytes | None]:
    return [record.value for record in read_topic(Topic(connection, topic))]


def test_reasons_are_counted_and_sampled(broker: KafkaConnection, topic: str, tmp_path: Path) -> None:
    value = b"\x1b]0;evil\x07\xff{" + "é\u202e".encode() + b"x" * 200
    reject(broker, topic, ("not_json", b"a"), ("bad_label", None), ("not_json", b"b"), ("not_json", value))
    Spill(tmp_path / "dead-letters" / f"{topic}.dlq").append([letter(0), letter(1)])
    code, out, err = run(broker, topic, tmp_path, "--json", "--limit", "2")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["topic"], found["letters"], found["replayed"], found["foreign"]) == (f"{topic}.dlq", 4, 0, 0)
    assert list(found["reasons"]) == ["not_json", "bad_label"]
    assert (found["reasons"]["not_json"]["letters"], found["reasons"]["bad_label"]["letters"]) == (3, 1)
    samples = found["reasons"]["not_json"]["samples"]
    assert [sample["offset"] for sample in samples] == [2, 3]
    assert samples[1] == {
        "topic": topic,
        "partition": 0,
        "offset": 3,
        "timestamp": NOW_MS,
        "stage": "decode",
        "message": r"\x1b[2Jof not_json",
        "value": r"\x1b]0;evil\x07\xff{é\u202e" + "x" * 64,
        "value_bytes": len(value),
    }
    assert found["reasons"]["bad_label"]["samples"][0]["value"] is None
    folder = str(tmp_path / "dead-letters" / f"{topic}.dlq")
    assert found["spilled"] == {"folder": folder, "letters": 2, "reasons": {"not_json": 2}}
    code, out, err = run(broker, topic, tmp_path, "--reason", "bad_label")
    assert (code, err) == (0, "")
    assert f"1 letters in {topic}.dlq, 0 of them replayed" in out
    assert "bad_label: 1 letters, 0 replayed" in out
    assert "not_json:" not in out
    assert "\x1b[2J" not in out


def test_in_a_pipe_each_letter_is_a_line(broker: KafkaConnection, topic: str, tmp_path: Path) -> None:
    reject(broker, topic, ("not_json", b"x" * 300), ("bad_label", b"a\tb\nc"), ("not_json", None))
    code, out, err = run(broker, topic, tmp_path)
    time_utc = datetime.fromtimestamp(NOW_MS // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    message = r"\x1b[2Jof"
    assert (code, err) == (0, "")
    assert [line.split("\t") for line in out.splitlines() if "\t" in line] == [
        ["not_json", f"{topic}[0]@0", time_utc, f"{message} not_json", "x" * 80 + "... and 220 bytes"],
        ["not_json", f"{topic}[0]@2", time_utc, f"{message} not_json", "null"],
        ["bad_label", f"{topic}[0]@1", time_utc, f"{message} bad_label", r"a\tb\nc"],
    ]
    assert len(out.splitlines()) == 8  # a headline, and for each reason an empty line and a heading


def test_a_replay_comes_once_and_byte_for_byte(broker: KafkaConnection, topic: str, tmp_path: Path) -> None:
    Topic(broker, topic).create()
    reject(broker, topic, ("not_json", b"\x00\xff"), ("bad_label", b"{}"), ("not_json", None), ("not_json", b""))
    save_checkpoint(tmp_path, topic, 10)
    code, out, err = run(broker, topic, tmp_path, "--replay", "--reason", "not_json", "--json")
    checkpoint = str(tmp_path / f"{0:015d}-000001")
    assert code == 0, err
    assert out == json.dumps({"topic": topic, "replayed": 3, "left_out": 0, "cut": 0, "checkpoint": checkpoint}) + "\n"
    found = list(read_topic(Topic(broker, topic)))
    assert [record.value for record in found] == [b"\x00\xff", None, b""]
    assert {record.key for record in found} == {b"\xffkey"}
    assert {record.headers for record in found} == {(("trace", b"\x01"), ("nothing", b""))}  # the client writes no null
    code, out, err = run(broker, topic, tmp_path, "--replay")  # all reasons: one letter is left
    assert (code, out, err) == (0, f"1 events published to {topic} again\n", "")
    assert run(broker, topic, tmp_path, "--replay")[1] == f"0 events published to {topic} again\n"
    reject(broker, topic, ("not_json", b"new"))
    assert run(broker, topic, tmp_path, "--replay")[1] == f"1 events published to {topic} again\n"
    assert values(broker, topic) == [b"\x00\xff", None, b"", b"{}", b"new"]
    box = read_box(Topic(broker, topic))
    assert (box.count(), box.count_replayed(), box.n_foreign) == (5, 5, 0)


@pytest.mark.kafka
def test_a_replay_that_was_killed_is_gone_on_with_and_doubles_nothing(
    apache_kafka: ApacheKafka, topic_name: str
) -> None:
    """Killed between a batch's records and its end; on Tansu readers see what was never committed."""
    broker = apache_kafka.connection
    Topic(broker, topic_name).create()
    reject(broker, topic_name, *((f"r{i % 2}", b"%d" % i) for i in range(1200)))
    seen: list[int] = []

    class Killed(Exception):
        pass

    def die(done: int, total: int) -> None:
        seen.append(total)
        if done:
            raise Killed

    with pytest.raises(Killed):
        replay(Topic(broker, topic_name), on_progress=die)
    dying = _open_producer(Topic(broker, topic_name))
    dying.begin_transaction()
    for i in range(500, 600):
        dying.send(topic_name, b"%d" % i, key=b"\xffkey")
    dying.flush()
    assert replay(Topic(broker, topic_name)) == 700  # takes over, and so ends what was under way
    assert seen == [1200, 1200]
    dying._sender.force_close()
    dying.close(timeout=1.0)
    assert values(broker, topic_name) == [b"%d" % i for i in range(1200)]


@pytest.mark.kafka
def test_the_first_of_two_replays_is_stopped_by_the_second(apache_kafka: ApacheKafka, topic_name: str) -> None:
    broker = apache_kafka.connection
    Topic(broker, topic_name).create()
    reject(broker, topic_name, ("r", b"0"))
    first = _open_producer(Topic(broker, topic_name))
    record = next(iter(read_topic(Topic(broker, topic_name).dead_letters)))
    assert replay(Topic(broker, topic_name)) == 1
    with pytest.raises(PublishRefused, match="another replay"):
        _publish(first, Topic(broker, topic_name), [(letter(0), record)])
    first.close(timeout=1.0)
    assert values(broker, topic_name) == [b"0"]


def test_what_others_write_into_the_topic_is_counted_and_left_alone(broker: KafkaConnection, topic: str) -> None:
    reject(broker, topic, ("r", b"0"))
    with Publisher(Topic(broker, topic).dead_letters) as publisher:
        publisher.publish([b"foreign"], timeout_s=30)
    reject(broker, "another", ("r", b"1"))
    box = read_box(Topic(broker, topic))
    assert (box.count(), box.n_foreign) == (1, 1)
    assert replay(Topic(broker, topic)) == 1
    assert values(broker, topic) == [b"0"]
    marks = [
        record
        for record in read_topic(Topic(broker, topic).dead_letters)
        if record.headers[-1:] and record.value is None
    ]
    assert [record.headers for record in marks] == [((REPLAYED, b'{"r":1}'),)]


def test_a_topic_without_dead_letters_has_none(tansu: KafkaConnection, topic_name: str, tmp_path: Path) -> None:
    Topic(tansu, topic_name).create()
    code, out, err = run(tansu, topic_name, tmp_path)
    assert (code, out, err) == (0, f"0 letters in {topic_name}.dlq, 0 of them replayed\n", "")


def test_what_is_wrong_is_told_in_a_line(tansu: KafkaConnection, topic_name: str, tmp_path: Path) -> None:
    code, out, err = run(tansu, topic_name, tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith(f"flexihash: topic '{topic_name}' does not exist on {tansu.bootstrap_servers}")
    code, out, err = run(tansu, topic_name, tmp_path, "--replay")
    assert (code, out) == (2, "")
    assert err.startswith(
        f"flexihash: {tmp_path} holds no checkpoint, so what the model has learned since is not known"
    )
    save_checkpoint(tmp_path, "another", 0)
    code, out, err = run(tansu, topic_name, tmp_path, "--replay")
    assert (code, out) == (2, "")
    assert f"was learned from another, not from topic '{topic_name}'" in err
    save_checkpoint(tmp_path, topic_name, 0)
    code, out, err = run(KafkaConnection("127.0.0.1:9"), topic_name, tmp_path, "--replay")
    assert (code, out) == (2, "")
    assert err.startswith("flexihash: Kafka at 127.0.0.1:9 ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("given", "shown"), [(-1, ""), (0, "1970-01-01 00:00:00"), (10**17, str(10**17))])
def test_times_of_samples(given: int, shown: str) -> None:
    assert dead_letters._describe_time(given) == shown

"""Kills from outside, such as by a machine that runs out of memory: no good event is condemned for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.guard import MARK_FILE, PoisonGuard
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.lesson import Lesson, NoLetters
from flexihash.consumer.publisher import Publisher
from flexihash.consumer.records import Fetch, Record
from flexihash.consumer.wire import EventFormat
from flexihash.model.config import ModelConfig
from flexihash.model.online import OnlineModel
from flexihash.model.tables import Tables
from rig.service import ROOT, kill
from tests.recovery.soak import Service

NESTED = b'{"features": {"user": {"city": "Rome", "age": 7}, "tags": ["a", "b"]}, "label": 1}'
MALFORMED = b'{"features": {"user": 1'
FIRST = """
import sys
from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.wire import EventFormat
from flexihash.model.murmur import hash_texts
from flexihash.model.tasks import Task
decoder = EventDecoder(EventFormat(), Task.BINARY, 256)
decoder.warm_up()
before = set(sys.modules)
assert hash_texts.signatures
assert len(decoder.decode([%r]).kept) == %d
print(sorted(set(sys.modules) - before))
"""


class WatchedLetters(NoLetters):
    """Keeps what the guard's mark says while a letter is sent, which may wait for the broker."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark
        self.seen: list[bytes] = []

    def send(self, record: Record, stage: str, reason: str, message: str) -> None:
        self.seen.append(self._mark.read_bytes().strip())


@pytest.mark.parametrize(("event", "n_kept"), [(NESTED, 1), (MALFORMED, 0)])
def test_a_first_odd_event_imports_nothing(event: bytes, n_kept: int) -> None:
    """What is imported, or compiled code loaded, once an event is there is waited for in the midst of learning it."""
    command = (sys.executable, "-P", "-c", FIRST % (event, n_kept))
    ended = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


def test_no_record_is_marked_while_its_letter_is_sent(tmp_path: Path) -> None:
    """Sending the first one connects, which takes as long as the broker pleases."""
    letters = WatchedLetters(tmp_path / MARK_FILE)
    config = ModelConfig(n_rows=256)
    decoder = EventDecoder(EventFormat(), config.task, config.n_rows)
    lesson = Lesson(OnlineModel(Tables.create(config)), decoder, letters, PoisonGuard(tmp_path))
    lesson.begin("events", None)
    values: list[bytes | None] = [NESTED, MALFORMED, None]
    lesson.apply(Fetch(0, [0, 1, 2], values, lambda i: Record("events", 0, i, 0, None, values[i], ())))
    assert letters.seen == [b"", b""]
    assert lesson.rejected == {"not_json": 1, "empty": 1}


@pytest.mark.parametrize(("event", "rejected"), [(NESTED, {}), (MALFORMED, {"not_json": 1})])
def test_three_kills_during_a_first_odd_event_condemn_nothing(
    tansu: KafkaConnection, topic_name: str, tmp_path: Path, event: bytes, rejected: dict[str, int]
) -> None:
    Topic(tansu, topic_name).create()
    service = Service(tansu, topic_name, tmp_path / "service")
    file = service.folder / "checkpoints" / MARK_FILE
    marks = [b""]  # of the learners that were killed

    def is_learned() -> bool:
        return service.status().positions == {f"{topic_name}:0": 1}

    def is_learned_or_seen() -> bool:
        mark = file.read_bytes().strip()
        return (mark not in marks and b'"is_read":true' not in mark) or is_learned()

    try:
        service.start()
        service.wait(lambda: service.status().state == "learning", "learning")
        with Publisher(Topic(tansu, topic_name)) as publisher:
            publisher.publish([event], timeout_s=60)
        for _ in range(3):
            service.wait(is_learned_or_seen, "the event, or a learner in the midst of it")
            if is_learned():
                break
            marks.append(file.read_bytes().strip())
            kill(service.status().pid)
        service.wait(is_learned, "the event")
        assert service.status().rejected == rejected
        assert service.status().events == 1 - len(rejected)
    finally:
        service.close()

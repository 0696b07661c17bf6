"""Kills from outside, such as by a machine that runs out of memory: no good event is condemned for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from flexihash.consumer.guard import MARK_FILE
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.publisher import Publisher
from rig.service import ROOT, kill
from tests.recovery.soak import Service

NESTED = b'{"features": {"user": {"city": "Rome", "age": 7}, "tags": ["a", "b"]}, "label": 1}'
FIRST = """
import sys
from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.wire import EventFormat
from flexihash.model.tasks import Task
decoder = EventDecoder(EventFormat(), Task.BINARY, 256)
decoder.warm_up()
before = set(sys.modules)
assert len(decoder.decode([%r]).kept) == 1
print(sorted(set(sys.modules) - before))
"""


def test_a_first_nested_event_imports_nothing() -> None:
    """What is imported once an event is there is waited for in the midst of learning it."""
    command = (sys.executable, "-P", "-c", FIRST % NESTED)
    ended = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


def test_three_kills_during_a_first_nested_event_condemn_nothing(
    tansu: KafkaConnection, topic_name: str, tmp_path: Path
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
            publisher.publish([NESTED], timeout_s=60)
        for _ in range(3):
            service.wait(is_learned_or_seen, "the event, or a learner in the midst of it")
            if is_learned():
                break
            marks.append(file.read_bytes().strip())
            kill(service.status().pid)
        service.wait(is_learned, "the event")
        assert service.status().events == 1
        assert service.status().rejected == {}
    finally:
        service.close()

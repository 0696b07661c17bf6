"""Going back behind events that should not have been learned: by the commands of docs/operations.md, as they stand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.publisher import Publisher
from flexihash.model.checkpoint.manifest import read_manifest
from tests.integration.served import Launch, assert_exact

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
FLEXIHASH = f"{sys.executable} -P -m flexihash"


def read_commands(topic: str) -> list[str]:
    """The lines of the section, for a topic."""
    section = PAGE.read_text().split("### Going back\n")[1].split("\n#")[0]
    return [line.strip().replace("events", topic) for line in re.findall(r"^    (.*)$", section, re.MULTILINE)]


def publish(connection: KafkaConnection, topic: str, label: int, n_events: int) -> None:
    with Publisher(Topic(connection, topic)) as publisher:
        publisher.publish([b'{"features": {"k": "v"}, "label": %d}' % label] * n_events, timeout_s=60)


def test_events_are_undone_as_the_page_says(broker: KafkaConnection, topic: str, launch: Launch) -> None:
    """2,000 good events, 1,000 that are wrong, 500 good ones: after it, the model is what the good ones alone imply."""
    service = launch(broker, topic)
    del service.environment["FLEXIHASH_CHECKPOINT_DIR"]
    for label, n_events, position in ((1, 2_000, 2_000), (0, 1_000, 3_000)):
        publish(broker, topic, label, n_events)
        service.start().wait_ready()
        service.wait_position(position)
        assert service.stop() == 0
    publish(broker, topic, 1, 500)
    inspect, make, move, serve = read_commands(topic)
    shown = run(inspect, service.folder, service.environment)
    assert "0:2000" in shown  # by which the operator knows where to go back to
    run(make, service.folder, service.environment)
    run(move, service.folder, service.environment)
    program, *options = shlex.split(serve)
    assert program == "flexihash"
    service.command = ("flexihash", *options)
    service.start().wait(lambda: service.status().events == 2_500, "what came behind")
    assert service.status().positions == {f"{topic}:0": 3_500}
    assert f"{topic}[0]@2000 and all before 3000 are passed, as chosen" in service.log
    assert service.stop() == 0
    newest = max((service.folder / "checkpoints" / topic).glob("0*"), key=lambda path: path.name.rpartition("-")[2])
    assert read_manifest(newest).metrics["history"]["skipped"] == {f"{topic}:0": [[2_000, 3_000]]}
    assert_exact(newest, broker, 2_500)
    assert "skipped" in run(f"flexihash inspect {newest}", service.folder, service.environment)
    service.start().wait_ready()  # the option may stay: it is of no effect any more
    assert service.status().events == 2_500
    assert service.stop() == 0


def run(command: str, folder: Path, environment: dict[str, str]) -> str:
    command = re.sub(r"^flexihash ", f"{FLEXIHASH} ", command)
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment | {"COLUMNS": "200"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout

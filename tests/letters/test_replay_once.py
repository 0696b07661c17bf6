"""A replay doubles nothing: what the model has read anew since its letter was written, or will, is left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.source import read_topic
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.publisher import Publisher
from tests.integration.served import Launch, Service
from tests.letters.test_letters_command import run

N_EVENTS = 40
NARROW, WIDE = b'{"features": {"a": "x"}, "clicked": 1}', b'{"features": {"a": "x", "b": "y"}, "clicked": 1}'


def publish(connection: KafkaConnection, topic: str, event: bytes, n_events: int = N_EVENTS) -> None:
    with Publisher(Topic(connection, topic)) as publisher:
        publisher.publish([event] * n_events, timeout_s=60)


def count_records(connection: KafkaConnection, topic: str) -> int:
    return sum(1 for _ in read_topic(Topic(connection, topic)))


def replay(connection: KafkaConnection, topic: str, folder: Path) -> tuple[int, int]:
    code, out, err = run(connection, topic, folder, "--replay", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    return found["replayed"], found["left_out"]


def learn(service: Service, position: int, events: int) -> None:
    """Starts, learns up to a position, and stops."""
    service.start().wait_ready()
    service.wait_position(position)
    assert service.status().events == events
    assert service.stop() == 0


def restart(service: Service, **settings: str) -> None:
    service.environment.update(settings)


@pytest.fixture
def service(broker: KafkaConnection, topic: str, launch: Launch) -> Service:
    return launch(broker, topic, FLEXIHASH_LABEL_FIELD="clicked")


def test_a_label_that_was_mended_is_not_learned_twice(
    service: Service, broker: KafkaConnection, topic: str, tmp_path: Path
) -> None:
    """As documented: the field's name is mended, which needs a new folder, and the topic is learned anew from there."""
    publish(broker, topic, b'{"features": {"a": "x"}, "label": "yes", "clicked": 1}')
    restart(service, FLEXIHASH_LABEL_FIELD="label")
    learn(service, N_EVENTS, 0)
    assert service.status().rejected == {"bad_label": N_EVENTS}
    mended = tmp_path / "mended"
    restart(service, FLEXIHASH_LABEL_FIELD="clicked", FLEXIHASH_CHECKPOINT_DIR=str(mended))
    learn(service, N_EVENTS, N_EVENTS)
    assert replay(broker, topic, mended) == (0, N_EVENTS)
    assert count_records(broker, topic) == N_EVENTS
    _, out, _ = run(broker, topic, mended, "--replay")
    (checkpoint,) = mended.glob("0*")
    assert out == (
        f"0 events published to {topic} again\n{N_EVENTS} left out: the model of {checkpoint} has read them since, or"
        " will\n"
    )


def test_a_limit_that_was_raised_lets_them_be_replayed_once(
    service: Service, broker: KafkaConnection, topic: str, tmp_path: Path
) -> None:
    publish(broker, topic, WIDE)
    restart(service, FLEXIHASH_MAX_FEATURES="1")
    learn(service, N_EVENTS, 0)
    restart(service, FLEXIHASH_MAX_FEATURES="2")
    learn(service, N_EVENTS, 0)  # a start alone reads nothing again
    folder = tmp_path / "checkpoints"
    assert replay(broker, topic, folder) == (N_EVENTS, 0)
    assert replay(broker, topic, folder) == (0, 0)
    learn(service, 2 * N_EVENTS, N_EVENTS)


def test_what_a_killed_learner_rejected_is_read_again_and_not_replayed(
    service: Service, broker: KafkaConnection, topic: str, tmp_path: Path
) -> None:
    publish(broker, topic, NARROW)
    restart(service, FLEXIHASH_MAX_FEATURES="1")
    learn(service, N_EVENTS, N_EVENTS)
    publish(broker, topic, WIDE)
    service.start().wait_position(2 * N_EVENTS)
    letters = Topic(broker, topic).dead_letters
    service.wait(lambda: letters.exists() and count_records(broker, letters.name) == N_EVENTS, "the letters")
    service.kill()
    restart(service, FLEXIHASH_MAX_FEATURES="2")
    folder = tmp_path / "checkpoints"
    assert replay(broker, topic, folder) == (0, N_EVENTS)  # the checkpoint is from before them: they will be read
    learn(service, 2 * N_EVENTS, 2 * N_EVENTS)
    assert replay(broker, topic, folder) == (0, N_EVENTS)  # and now they are
    assert count_records(broker, topic) == 2 * N_EVENTS

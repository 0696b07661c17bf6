"""Whose checkpoints a learner goes on from: those of its topic, in a folder of its own, unless told otherwise."""

from __future__ import annotations

import shutil

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.publisher import Publisher
from tests.integration.served import READY_S, Launch, Service

EVENT = b'{"features": {"k": "v"}, "label": 1}'


def publish(connection: KafkaConnection, topic: str, n_events: int) -> None:
    Topic(connection, topic).create()
    with Publisher(Topic(connection, topic)) as publisher:
        publisher.publish([EVENT] * n_events, timeout_s=60)


def learn(service: Service, n_events: int) -> None:
    service.start().wait_ready().wait(lambda: service.status().events == n_events, f"{n_events} events")
    assert service.stop() == 0


def assert_refused(service: Service, *texts: str) -> None:
    process = service.start().process
    assert process is not None
    assert process.wait(READY_S) == 2
    for text in texts:
        assert text in service.log
    assert "Traceback" not in service.log


def test_topics_have_folders_of_their_own(broker: KafkaConnection, topic_name: str, launch: Launch) -> None:
    """Two topics from one place, one after the other: neither model knows of the other."""
    service = launch(broker, topic_name)
    del service.environment["FLEXIHASH_CHECKPOINT_DIR"]
    for topic, n_events in ((topic_name, 5), (f"{topic_name}.other", 7), (topic_name, 5)):
        publish(broker, topic, 0 if list(service.folder.glob(f"checkpoints/{topic}/0*")) else n_events)
        service.environment["FLEXIHASH_TOPIC"] = topic
        learn(service, n_events)
    for topic in (topic_name, f"{topic_name}.other"):
        assert list(service.folder.glob(f"checkpoints/{topic}/0*/manifest.json"))


def test_a_model_of_another_topic_is_taken_over_only_where_told_to(
    broker: KafkaConnection, topic_name: str, launch: Launch
) -> None:
    other = f"{topic_name}.other"
    publish(broker, topic_name, 5)
    publish(broker, other, 7)
    service = launch(broker, topic_name)
    learn(service, 5)
    service.environment["FLEXIHASH_TOPIC"] = other
    assert_refused(service, f"was learned from {topic_name}, not from topic '{other}'", "--adopt")
    service.command = (*service.command, "--adopt")
    learn(service, 12)
    service.command = service.command[:-1]
    learn(service, 12)  # it is of both topics now
    service.environment["FLEXIHASH_TOPIC"] = topic_name
    learn(service, 12)


def test_the_former_default_folder_is_not_passed_over(tansu: KafkaConnection, topic_name: str, launch: Launch) -> None:
    publish(tansu, topic_name, 5)
    service = launch(tansu, topic_name)  # with a folder named checkpoints, as once was the default
    learn(service, 5)
    del service.environment["FLEXIHASH_CHECKPOINT_DIR"]
    folder = f"checkpoints/{topic_name}"
    assert_refused(service, "checkpoints itself holds checkpoints", folder, "FLEXIHASH_CHECKPOINT_DIR=checkpoints")
    (service.folder / folder).mkdir()
    for path in list((service.folder / "checkpoints").iterdir()):
        if path.name != topic_name:
            shutil.move(path, service.folder / folder / path.name)
    learn(service, 5)

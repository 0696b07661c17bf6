"""What a learner does when the log is not where its model stands: it says what happened, and waits for a choice."""

from __future__ import annotations

import pytest

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.publisher import Publisher
from flexihash.service.embedded_broker import EmbeddedBroker
from tests.integration.brokers import ApacheKafka, add_partitions, delete_records, delete_topic
from tests.integration.served import Launch, Service

N_EVENTS = 40


def publish(connection: KafkaConnection, topic: str, n_events: int) -> None:
    with Publisher(Topic(connection, topic)) as publisher:
        publisher.publish([b'{"features": {"k": "v"}, "label": 1}'] * n_events, timeout_s=60)


def learn_and_stop(connection: KafkaConnection, topic: str, launch: Launch) -> Service:
    """A service that learned N_EVENTS from the topic and was stopped."""
    publish(connection, topic, N_EVENTS)
    service = launch(connection, topic).start()
    service.wait_position(N_EVENTS)
    assert service.stop() == 0, service.log
    return service


@pytest.fixture
def learned(broker: KafkaConnection, topic: str, launch: Launch) -> Service:
    return learn_and_stop(broker, topic, launch)


def replace_topic(connection: KafkaConnection, topic: str, n_events: int) -> None:
    delete_topic(connection, topic)
    Topic(connection, topic).create()
    publish(connection, topic, n_events)


def choose(service: Service, choice: str) -> None:
    """What an operator does after reading the message: stop, and start with the choice."""
    if service.process is not None and service.process.poll() is None:
        assert service.stop() == 0, service.log
    service.environment["FLEXIHASH_ON_LOST_POSITION"] = choice
    service.start()


def assert_blocked(service: Service, *texts: str) -> None:
    """Not ready, and says why; answers all the same; nothing was learned or skipped."""
    service.wait(lambda: all(text in service.http.get("/readyz").text for text in texts), "the reason")
    assert service.status().state == "blocked"
    response = service.http.get("/readyz")
    assert response.status_code == 503
    for text in texts:
        assert text in response.json()["detail"]
        assert text in service.log
    assert service.http.get("/livez").status_code == 200
    answer = service.post("/v1/predictions", {"instances": [{"k": "v"}]})
    assert answer["version"] == {"events": N_EVENTS, "positions": {f"{service.status().topic}:0": N_EVENTS}}
    assert "Traceback" not in service.log


def test_a_topic_made_anew_waits_for_a_choice(learned: Service, broker: KafkaConnection, topic: str) -> None:
    replace_topic(broker, topic, 7)
    learned.start()
    assert_blocked(learned, "of topic ", "but this is topic", "earliest", "latest", "keep", "fresh")
    choose(learned, "earliest")
    learned.wait(lambda: learned.status().events == N_EVENTS + 7, "the new topic's events")
    assert learned.status().positions == {f"{topic}:0": 7}
    assert f"{topic}[0] goes on at 0 instead of {N_EVENTS}, as chosen" in learned.log
    assert learned.stop() == 0
    choose(learned, "stop")  # the checkpoint is now of the new topic
    learned.wait_ready()
    assert learned.stop() == 0


def test_latest_skips_what_a_new_topic_holds(learned: Service, broker: KafkaConnection, topic: str) -> None:
    replace_topic(broker, topic, 7)
    choose(learned, "latest")
    learned.wait(lambda: learned.status().state == "learning", "learning")
    publish(broker, topic, 2)
    learned.wait(lambda: learned.status().events == N_EVENTS + 2, "what came later")
    assert learned.status().positions == {f"{topic}:0": 9}


def test_keep_trusts_the_offsets_of_a_copied_topic(learned: Service, broker: KafkaConnection, topic: str) -> None:
    replace_topic(broker, topic, N_EVENTS + 3)
    choose(learned, "keep")
    learned.wait(lambda: learned.status().events == N_EVENTS + 3, "what the copy has more")
    assert learned.status().positions == {f"{topic}:0": N_EVENTS + 3}


def test_keep_does_not_jump_where_the_copy_is_shorter(learned: Service, broker: KafkaConnection, topic: str) -> None:
    replace_topic(broker, topic, 3)
    choose(learned, "keep")
    assert_blocked(learned, f"cannot read on from {topic}[0]@{N_EVENTS}: the log ends at 3")


def test_fresh_starts_a_new_model(learned: Service, broker: KafkaConnection, topic: str) -> None:
    replace_topic(broker, topic, 5)
    choose(learned, "fresh")
    learned.wait(lambda: learned.status().events == 5, "a new model")
    assert learned.stop() == 0
    assert learned.status().events == 5
    assert "a fresh model is started, as chosen" in learned.log


def test_another_cluster_waits_for_a_choice(learned: Service, topic: str) -> None:
    with EmbeddedBroker() as other:
        connection = KafkaConnection(other.bootstrap_servers)
        Topic(connection, topic).create()
        publish(connection, topic, N_EVENTS + 1)
        old = learned.environment["FLEXIHASH_BOOTSTRAP_SERVERS"]
        learned.environment["FLEXIHASH_BOOTSTRAP_SERVERS"] = connection.bootstrap_servers
        learned.start()
        assert_blocked(learned, "where they mean nothing; connect to the old ")  # every Tansu says the same cluster id
        choose(learned, "keep")
        learned.wait(lambda: learned.status().events == N_EVENTS + 1, "the copy's event")
        assert learned.stop() == 0
        learned.environment["FLEXIHASH_BOOTSTRAP_SERVERS"] = old


def test_a_topic_deleted_and_made_anew_while_it_is_read(learned: Service, broker: KafkaConnection, topic: str) -> None:
    learned.start().wait_ready()
    delete_topic(broker, topic)
    assert_blocked(learned, f"topic '{topic}' does not exist")
    Topic(broker, topic).create()
    assert_blocked(learned, "of topic ", "but this is topic")
    assert learned.stop() == 0


@pytest.mark.kafka
def test_retention_that_passed_the_position(apache_kafka: ApacheKafka, topic_name: str, launch: Launch) -> None:
    connection = apache_kafka.connection
    Topic(connection, topic_name).create()
    service = learn_and_stop(connection, topic_name, launch)
    publish(connection, topic_name, 30)
    delete_records(connection, topic_name, N_EVENTS + 10)
    service.start()
    text = f"cannot read on from {topic_name}[0]@{N_EVENTS}: the log begins at {N_EVENTS + 10}: 10 records were removed"
    assert_blocked(service, text, "earliest", "latest", "fresh")
    choose(service, "earliest")
    service.wait(lambda: service.status().events == N_EVENTS + 20, "what is left")
    assert f"{topic_name}[0] goes on at {N_EVENTS + 10} instead of {N_EVENTS}, as chosen" in service.log


@pytest.mark.kafka
def test_retention_that_took_the_last_record_learned(
    apache_kafka: ApacheKafka, topic_name: str, launch: Launch
) -> None:
    """It can't be compared any more, and need not be: the log goes on where the model stands."""
    connection = apache_kafka.connection
    Topic(connection, topic_name).create()
    service = learn_and_stop(connection, topic_name, launch)
    publish(connection, topic_name, 5)
    delete_records(connection, topic_name, N_EVENTS)
    service.start().wait_position(N_EVENTS + 5)
    assert service.status().events == N_EVENTS + 5
    assert service.stop() == 0


@pytest.mark.kafka
def test_new_partitions_are_found_and_read_from_their_start(
    apache_kafka: ApacheKafka, topic_name: str, launch: Launch
) -> None:
    connection = apache_kafka.connection
    Topic(connection, topic_name).create()
    publish(connection, topic_name, N_EVENTS)
    service = launch(connection, topic_name).start()
    service.wait_position(N_EVENTS)
    add_partitions(connection, topic_name, 3)
    with Publisher(Topic(connection, topic_name)) as publisher:
        keys: list[bytes | None] = [str(number).encode() for number in range(60)]
        publisher.publish([b'{"features": {"k": "v"}, "label": 1}'] * 60, keys, timeout_s=60)
    service.wait(lambda: service.status().events == N_EVENTS + 60, "the events of all partitions")
    assert len(service.status().positions) == 3
    assert sum(service.status().positions.values()) == N_EVENTS + 60
    assert service.stop() == 0
    service.start().wait_ready()
    assert service.status().events == N_EVENTS + 60

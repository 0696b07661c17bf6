"""A stream of which most teaches nothing: told in /readyz, the log and the metrics, with the setting that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.outcomes import REASONS, Outcomes
from flexihash.consumer.publisher import Publisher
from flexihash.consumer.status import UNLABELLED, LearnerStatus
from flexihash.service.advice import UNTAUGHT, advise
from flexihash.service.memory import Memory
from flexihash.service.monitoring import LearnerCollector
from flexihash.service.settings import Settings
from tests.integration.served import Launch, Service
from tests.unit.test_docs import reasons

GOOD = b'{"features": {"carrier": "UA"}, "label": 1}'
YES = b'{"features": {"carrier": "UA"}, "label": "yes"}'
NAMED_OTHERWISE = b'{"features": {"carrier": "UA"}, "late": 1}'
FLAT = b'{"carrier": "UA", "label": 1}'

TOLD = {
    "bad_label": (
        YES,
        "400 of the last 400 records taught nothing, 400 of them rejected as bad_label: "
        "do FLEXIHASH_LABEL_FIELD and FLEXIHASH_TASK fit the labels?",
    ),
    UNLABELLED: (
        NAMED_OTHERWISE,
        "400 of the last 400 records taught nothing, 400 of them without a label: "
        "does FLEXIHASH_LABEL_FIELD name the label?",
    ),
    "no_features": (
        FLAT,
        "400 of the last 400 records taught nothing, 400 of them rejected as no_features: "
        "does FLEXIHASH_FEATURES_FIELD name the features? Where it is empty, they are the whole event",
    ),
}


@pytest.fixture
def topic(tansu: KafkaConnection, topic_name: str) -> str:
    Topic(tansu, topic_name).create()
    return topic_name


def publish(connection: KafkaConnection, topic: str, event: bytes, n_events: int) -> None:
    with Publisher(Topic(connection, topic)) as publisher:
        publisher.publish([event] * n_events, timeout_s=60)


def read_metrics(service: Service, name: str) -> dict[str, float]:
    """The value at each reason."""
    families = text_string_to_metric_families(service.http.get("/metrics").text)
    (found,) = (family for family in families if family.name == name)
    return {sample.labels["reason"]: sample.value for sample in found.samples}


@pytest.mark.parametrize("reason", TOLD)
def test_it_is_told_with_its_reason_and_the_setting_until_it_ends(
    tansu: KafkaConnection, topic: str, launch: Launch, reason: str
) -> None:
    event, warning = TOLD[reason]
    service = launch(tansu, topic)
    service.start().wait_ready()
    assert read_metrics(service, "flexihash_rejected_events") == dict.fromkeys(REASONS, 0.0)
    assert read_metrics(service, "flexihash_fruitless") == dict.fromkeys([*REASONS, UNLABELLED], 0.0)
    assert "warnings" not in service.http.get("/readyz").json()

    publish(tansu, topic, event, 400)
    service.wait_position(400)
    service.wait(lambda: service.http.get("/readyz").json().get("warnings") == [warning], "the warning")
    assert {name for name, value in read_metrics(service, "flexihash_fruitless").items() if value} == {reason}
    assert service.http.get("/v1/model").json()["learner"]["recent"]["untaught"] == {reason: 400}

    publish(tansu, topic, GOOD, 1_200)
    service.wait_position(1_600)
    service.wait(lambda: "warnings" not in service.http.get("/readyz").json(), "its end")
    assert not any(read_metrics(service, "flexihash_fruitless").values())
    assert service.stop() == 0
    told = [line for line in service.log.splitlines() if "records taught nothing" in line]
    begin, end = told
    assert '"level": "warning"' in begin
    assert warning.partition(", ")[2].partition("of them")[2] in begin
    assert "most records are learned again" in end


def test_without_a_topic_for_letters_rejected_records_are_counted_only(
    tansu: KafkaConnection, topic: str, launch: Launch, tmp_path: Path
) -> None:
    service = launch(tansu, topic, FLEXIHASH_DEAD_LETTER_TOPIC="")
    publish(tansu, topic, YES, 50)
    service.start().wait_ready()
    service.wait_position(50)
    service.post("/v1/checkpoints", {})
    assert read_metrics(service, "flexihash_rejected_events")["bad_label"] == 50
    assert service.stop() == 0
    assert not Topic(tansu, topic).dead_letters.exists()
    assert not (service.folder / "checkpoints" / "dead-letters").exists()
    assert "are counted, and not kept" in service.log
    service.start().wait_ready()
    assert service.status().rejected == {"bad_label": 50}


def test_letters_go_to_the_topic_that_is_named(tansu: KafkaConnection, topic: str, launch: Launch) -> None:
    service = launch(tansu, topic, FLEXIHASH_DEAD_LETTER_TOPIC="letters.of.{topic}")
    publish(tansu, topic, YES, 1)
    service.start().wait_ready()
    service.wait_position(1)
    assert service.stop() == 0
    assert Topic(tansu, f"letters.of.{topic}").exists()
    assert not Topic(tansu, topic).dead_letters.exists()


def test_every_reason_is_known_and_has_its_advice() -> None:
    assert set(REASONS) == set(reasons()) - {"whole_event"}  # which is of instances over HTTP
    assert len(REASONS) == len(set(REASONS))
    assert set(UNTAUGHT) == {*REASONS, UNLABELLED}
    known = {f"FLEXIHASH_{name.upper()}" for name in Settings.model_fields}
    named = {word.strip(",;?") for text in UNTAUGHT.values() for word in text.split() if word.startswith("FLEXIHASH_")}
    assert named <= known


def pass_batches(outcomes: Outcomes, n_batches: int, n_rejected: int, reason: str = "not_json") -> None:
    """Batches of 100 records."""
    for _ in range(n_batches):
        outcomes.count_rejected(reason, n_rejected)
        outcomes.pass_records(100)


def test_it_begins_above_a_half_and_ends_below_two_fifths() -> None:
    outcomes = Outcomes()
    pass_batches(outcomes, 10, 50)
    assert not outcomes.status.is_fruitless
    pass_batches(outcomes, 1, 51)
    assert outcomes.status.is_fruitless
    pass_batches(outcomes, 10, 41)
    assert outcomes.status.is_fruitless
    pass_batches(outcomes, 10, 40)
    assert not outcomes.status.is_fruitless


def test_the_window_holds_the_last_thousand_and_what_came_with_the_first() -> None:
    outcomes = Outcomes()
    pass_batches(outcomes, 30, 100, "not_json")
    pass_batches(outcomes, 9, 60, "bad_label")
    assert outcomes.status.records == 1_000
    assert outcomes.status.untaught == {"bad_label": 540, "not_json": 100}
    pass_batches(outcomes, 1, 0)
    assert outcomes.status.untaught == {"bad_label": 540}
    outcomes.pass_records(5_000)
    assert (outcomes.status.records, outcomes.status.untaught) == (5_000, {})


def test_few_records_say_nothing() -> None:
    outcomes = Outcomes()
    outcomes.count_unlabelled(99)
    outcomes.pass_records(99)
    assert not outcomes.status.is_fruitless
    outcomes.count_unlabelled(1)
    outcomes.pass_records(1)
    assert outcomes.status.is_fruitless
    assert str(outcomes.status) == "100 of the last 100 records taught nothing, 100 of them without a label"
    assert advise(outcomes.status) == f"{outcomes.status}: {UNTAUGHT[UNLABELLED]}"


def test_no_count_is_told_before_the_checkpoint_with_the_counts_is_restored(tmp_path: Path) -> None:
    """Else a restart would be a growth from 0, and an alert."""
    memory = Memory(tmp_path)
    for tables, is_told in ((None, False), ("tables-1", True)):
        memory.status = LearnerStatus(tables=tables)
        names: dict[str, Any] = {family.name: family for family in LearnerCollector(memory).collect()}
        assert ("flexihash_rejected_events" in names) == is_told

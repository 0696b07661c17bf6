"""What people are told to do about an error: by the service, in names that exist, and by nobody else."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from kafka.errors import (
    IllegalSaslStateError,
    InvalidReceiveError,
    SaslAuthenticationFailedError,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)

from flexihash.consumer.consumer_errors import (
    AccessDenied,
    BrokerUnavailable,
    ConsumerError,
    DeadLetterRefused,
    Fault,
    Fenced,
    IdentityChanged,
    LabelsUnfit,
    PositionOutOfRange,
    TopicNotFound,
)
from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.formats.file_source import FileSource
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.failures import translate
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.lesson import Lesson, Letters
from flexihash.consumer.letter_box import DeadLetters
from flexihash.consumer.loop import LearnLoop
from flexihash.consumer.records import Fetch, Record
from flexihash.consumer.standing import Standing
from flexihash.consumer.wire import EventFormat
from flexihash.model.config import ModelConfig
from flexihash.model.online import OnlineModel
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task
from flexihash.service.advice import FAULTS, advise
from flexihash.service.environment import PREFIX
from flexihash.service.settings import Settings

ROOT = Path(__file__).parents[2]
PLAIN = KafkaConnection("h:1")
LOGIN = KafkaConnection("h:1", "SASL_SSL", "PLAIN", "ann", "secret")
DENIED = AccessDenied("Kafka at h:1 denies access: X; grant user 'ann' the rights", Fault.RIGHTS)
TOLD = "Kafka at h:1 denies access: X; grant user 'ann' the rights that docs/operations.md lists"


@pytest.mark.parametrize("package", ["consumer", "model", "producer", "flexi_hash_embedding"])
def test_only_the_service_names_settings(package: str) -> None:
    options = [f"--{name.replace('_', '-')}" for name in Settings.model_fields if "_" in name]
    names = re.compile("|".join([PREFIX, r"docs/operations\.md", *(rf"{option}\b" for option in options)]))
    for path in (ROOT / package).rglob("*.py"):
        assert names.findall(path.read_text()) == [], path


def test_what_is_named_exists() -> None:
    assert set(FAULTS) == set(Fault)
    lost = [IdentityChanged("topic", "events", "A", "B"), PositionOutOfRange("events", 0, 1, 2, 3), Fenced("id")]
    faults = [ConsumerError("", fault, wanted) for fault in Fault for wanted in ("", "SSL")]
    text = " ".join(advise(error) for error in (*lost, *faults))
    settings = {name.removeprefix(PREFIX).lower() for name in re.findall(rf"{PREFIX}\w+", text)}
    settings |= {option.replace("-", "_") for option in re.findall(r"--([a-z-]+)", text)}
    assert len(settings) >= 10 and settings <= set(Settings.model_fields)
    assert all((ROOT / page).exists() for page in re.findall(r"docs/\S+\.md", text))


@pytest.mark.parametrize(
    ("error", "connection", "text"),
    [
        (
            SaslAuthenticationFailedError("no"),
            LOGIN,
            "Kafka at h:1 denies user 'ann' access by PLAIN: no; check FLEXIHASH_SASL_USERNAME and"
            " FLEXIHASH_SASL_PASSWORD",
        ),
        (
            UnsupportedSaslMechanismError("no"),
            LOGIN,
            "Kafka at h:1 denies access: it takes no login by PLAIN; check FLEXIHASH_SASL_MECHANISM",
        ),
        (
            TopicAuthorizationFailedError("X"),
            LOGIN,
            "Kafka at h:1 denies access: [Error 29] TopicAuthorizationFailedError: X; grant user 'ann' the rights that"
            " docs/operations.md lists",
        ),
        (
            IllegalSaslStateError("no"),
            LOGIN,
            "Kafka at h:1 takes no login there: set FLEXIHASH_SECURITY_PROTOCOL to SSL, or name another port",
        ),
        (
            InvalidReceiveError("Invalid frame length: 352518912"),
            PLAIN,
            "Kafka at h:1 speaks TLS there: set FLEXIHASH_SECURITY_PROTOCOL to SSL or SASL_SSL, or name another port",
        ),
    ],
)
def test_a_failure_of_the_connection(error: Exception, connection: KafkaConnection, text: str) -> None:
    assert advise(translate(error, connection)) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            IdentityChanged("topic", "events", "A", "B"),
            "the model's positions in topic 'events' are of topic A, but this is topic B, where they mean nothing;"
            " connect to the old topic, or choose with --on-lost-position: earliest (keep the model, read all of this"
            " one), latest (keep the model, read what comes from now on), keep (this one is a faithful copy with the"
            " same offsets), fresh (start a new model; right after a restart of `flexihash broker`, which keeps"
            " nothing)",
        ),
        (
            TopicNotFound("events", "h:1"),
            "topic 'events' does not exist on h:1: check the name, or create it, for instance with kafka-topics.sh"
            " --bootstrap-server h:1 --create --topic events; `flexihash serve --create-topic` makes it at its start",
        ),
        (
            LabelsUnfit(Path("f"), 3, 1_000, {3, 2}, Task.BINARY),
            "f: 3 of the first 1,000 labels are not 0 or 1 (task=binary): 2, 3; mend them, or choose --task regression"
            " for quantities, or counts for counts; multiclass, where whole numbers are names of classes",
        ),
        (
            LabelsUnfit(Path("f"), 3, 4, {"UA", "B6" * 30}, Task.BINARY),
            'f: 3 of the first 4 labels are not 0 or 1 (task=binary): "B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6", "UA"'
            "; choose --task multiclass, where they are classes, or say by --positive-labels which are 1",
        ),
        (
            LabelsUnfit(Path("f"), 3, 4, {1e101}, Task.REGRESSION),
            "f: 3 of the first 4 labels are not what it learns (task=regression): 1e+101; mend them",
        ),
        (
            PositionOutOfRange("events", 1, 3, 5, 9),
            "cannot read on from events[1]@3: the log begins at 5: 2 records were removed before they were learned;"
            " restore the log, or choose with --on-lost-position: earliest (keep the model, go on at the log's first"
            " record), latest (keep the model, go on at the log's end), fresh (start a new model)",
        ),
        (
            Fenced("flexihash.g.events"),
            "another learner has taken over (transactional id flexihash.g.events): this one has stopped and saves"
            " nothing more, and goes on by itself once the other has ended; stop one of the two"
            ", or give this one another FLEXIHASH_GROUP_ID and checkpoint folder",
        ),
        (ValueError("as it is"), "as it is"),
    ],
)
def test_what_a_learner_stops_for(error: Exception, text: str) -> None:
    assert advise(error) == text


def test_why_dead_letters_wait(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def deny(topic: Topic) -> bool:
        raise DENIED

    monkeypatch.setattr(Topic, "exists", deny)
    letters = DeadLetters(Topic(LOGIN, "events"), describe=advise)
    letters.send(Record("events", 0, 0, 0, None, b"{", ()), "decode", "not_json", "not JSON")
    assert letters.status.error == TOLD
    assert caplog.messages == [f"dead letters wait until events.dlq can be reached: {TOLD}"]
    with pytest.raises(DeadLetterRefused) as caught:
        letters.flush(0.0)
    assert advise(caught.value) == (
        f"1 dead letters are not acknowledged by events.dlq: {TOLD}; change the topic's settings (max.message.bytes?)"
        " or rights"
    )


class Away(FileSource):
    """A source whose broker has gone away for a reason that has a setting."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__(Path("/events"))
        self._stop_signal = stop

    def start(self, positions: Mapping[int, int]) -> dict[int, int]:
        return {0: 0}

    def end_positions(self) -> dict[int, int]:
        return {0: 0}

    def poll(self, timeout_s: float) -> list[Fetch]:
        self._stop_signal.set()
        raise BrokerUnavailable("is it up?", Fault.PROTOCOL)


class NoLetters(Letters):
    """Where nothing is rejected."""


def test_why_a_learner_connects() -> None:
    stop = threading.Event()
    config = ModelConfig(task=Task.BINARY, n_rows=2)
    heard: list[str | None] = []
    model, decoder = OnlineModel(Tables.create(config)), EventDecoder(EventFormat(), config.task, config.n_rows)
    loop = LearnLoop(
        Lesson(model, decoder, NoLetters()),
        Standing(model, Away(stop)),
        on_status=lambda status: heard.append(status.error),
        describe=advise,
    )
    loop.start()
    loop.run(stop)
    assert "is it up? See FLEXIHASH_SECURITY_PROTOCOL" in heard

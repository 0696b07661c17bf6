"""A secured Apache Kafka: every way to log in, what is said where it fails, no password anywhere, the rights needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import pytest
from kafka import TopicPartition
from kafka.admin import ACL, ACLFilter, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from flexihash.consumer.consumer_errors import (
    AccessDenied,
    BrokerUnavailable,
    BrokerUntrusted,
    ConnectionSettingsError,
    ConsumerError,
)
from flexihash.consumer.fence import Fence
from flexihash.consumer.kafka.confluent import ConfluentSource
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.source import KafkaSource, read_topic
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.letter_box import DeadLetters
from flexihash.consumer.publisher import Publisher
from flexihash.consumer.records import Record
from flexihash.consumer.replay import read_box, replay
from flexihash.service.advice import advise
from tests.integration.brokers import (
    HOST,
    MECHANISMS,
    MUTUAL,
    PASSWORD,
    USERNAME,
    ApacheKafka,
    Certificates,
    administer,
    delete_topic,
)
from tests.integration.served import READY_S, Launch

pytestmark = pytest.mark.kafka

PATIENCE_S = 60.0
SECRET = 'h\'orse "battery" st\\aple ünd'  # what is in quotes, escaped or not ASCII is written in many ways
PIECES = ("orse", "battery", "aple")
EVENTS = [b'{"features": {"k": "v"}, "label": 1}'] * 5
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"

WAYS = {
    **{f"SASL_PLAINTEXT {mechanism}": ("SASL_PLAINTEXT", mechanism) for mechanism in MECHANISMS},
    "SASL_SSL PLAIN": ("SASL_SSL", "PLAIN"),
    "SASL_SSL SCRAM-SHA-512": ("SASL_SSL", "SCRAM-SHA-512"),
    "SSL": ("SSL", ""),
    "client certificate": (MUTUAL, ""),
}


@pytest.fixture(scope="module")
def kafka(apache_kafka: ApacheKafka) -> ApacheKafka:
    """With a user for SCRAM; the one for PLAIN is in its settings."""
    apache_kafka.add_user(USERNAME, PASSWORD)
    apache_kafka.add_user("careful", SECRET)
    return apache_kafka


def connect(kafka: ApacheKafka, way: str) -> KafkaConnection:
    protocol, mechanism = WAYS[way]
    if protocol != MUTUAL:
        return kafka.secure_connection(protocol, mechanism)
    certificate, key = kafka.certificates.issue("client")
    tls = replace(kafka.secure_connection("SSL"), bootstrap_servers=kafka.address(MUTUAL))
    return replace(tls, ssl_certfile=str(certificate), ssl_keyfile=str(key))


def assert_no_piece(text: str) -> None:
    assert not [piece for piece in PIECES if piece in text]


def publish(connection: KafkaConnection, topic: str) -> None:
    with Publisher(Topic(connection, topic)) as publisher:
        publisher.publish(EVENTS, timeout_s=PATIENCE_S)


def reject(connection: KafkaConnection, topic: str) -> None:
    letters = DeadLetters(Topic(connection, topic))
    letters.send(Record(topic, 0, 0, 1_700_000_000_000, b"key", b"bad", ()), "decode", "not_json", "not JSON")
    try:
        letters.flush(5.0)
    finally:
        letters.close()


def read_by_confluent(connection: KafkaConnection, topic: str) -> list[bytes | None]:
    source = ConfluentSource(Topic(connection, topic))
    source.start({})
    values: list[bytes | None] = []
    deadline = monotonic() + PATIENCE_S
    while len(values) < len(EVENTS) and monotonic() < deadline:
        values += [value for fetch in source.poll(0.5) for value in fetch.values]
    source.close()
    return values


@pytest.mark.parametrize("way", WAYS)
def test_all_that_the_service_does_goes_by(kafka: ApacheKafka, topic_name: str, way: str) -> None:
    connection = connect(kafka, way)
    Topic(connection, topic_name).create()
    publish(connection, topic_name)
    assert [record.value for record in read_topic(Topic(connection, topic_name))] == EVENTS
    assert read_by_confluent(connection, topic_name) == EVENTS
    reject(connection, topic_name)
    assert [record.value for record in read_topic(Topic(connection, f"{topic_name}.dlq"))] == [b"bad"]
    fence = Fence(Topic(connection, topic_name), "group")
    fence.acquire()
    fence.check()
    fence.close()


# --- what is said where it fails ------------------------------------------------------------------------------------


def assert_refused(connection: KafkaConnection, kind: type[ConsumerError], text: str) -> None:
    with pytest.raises(kind) as caught:
        Topic(connection, "events").exists()
    assert re.search(text, advise(caught.value)), caught.value
    if kind is not ConnectionSettingsError or "Kafka at" in text:
        assert connection.bootstrap_servers in str(caught.value)
    assert caught.value.retriable == (kind is BrokerUnavailable)


@pytest.mark.parametrize("way", [way for way in WAYS if way.startswith("SASL")])
def test_wrong_password(kafka: ApacheKafka, way: str) -> None:
    _, mechanism = WAYS[way]
    wrong = replace(connect(kafka, way), password=SECRET)
    text = f"denies user 'learner' access by {mechanism}: Authentication failed.*; check FLEXIHASH_SASL_USERNAME"
    assert_refused(wrong, AccessDenied, text)
    with pytest.raises(AccessDenied) as caught:
        Fence(Topic(wrong, "events"), "group").acquire()
    assert_no_piece(f"{caught.value} {caught.value.__cause__} {wrong!r}")


def test_unknown_mechanism(kafka: ApacheKafka) -> None:
    connection = kafka.secure_connection("SASL_SSL", "SCRAM-SHA-256")
    assert_refused(connection, AccessDenied, "takes no login by SCRAM-SHA-256; check FLEXIHASH_SASL_MECHANISM")


def test_unknown_authority(kafka: ApacheKafka, tmp_path: Path) -> None:
    other = Certificates(tmp_path / "other").authority
    for cafile in (None, str(other)):
        connection = replace(kafka.secure_connection("SSL"), ssl_cafile=cafile)
        text = "is not trusted: unable to get local issuer certificate; .* FLEXIHASH_SSL_CAFILE is of the authority"
        assert_refused(connection, BrokerUntrusted, text)


def test_certificate_of_another_host(kafka: ApacheKafka) -> None:
    connection = replace(kafka.secure_connection("SSL"), bootstrap_servers=kafka.address("SSL", "localhost"))
    text = "is not trusted: Hostname mismatch, certificate is not valid for 'localhost'; check the host names"
    assert_refused(connection, BrokerUntrusted, text)


def test_client_certificate_that_is_absent_or_not_trusted(kafka: ApacheKafka, tmp_path: Path) -> None:
    connection = connect(kafka, "client certificate")
    certificate, key = Certificates(tmp_path / "other").issue("client")
    text = r"refuses TLS with this client: \w+_ALERT_\w+; check FLEXIHASH_SSL_CERTFILE and FLEXIHASH_SSL_KEYFILE"
    assert_refused(replace(connection, ssl_certfile=None, ssl_keyfile=None), AccessDenied, text)
    assert_refused(replace(connection, ssl_certfile=str(certificate), ssl_keyfile=str(key)), AccessDenied, text)
    with pytest.raises(ConnectionSettingsError, match="a client certificate needs its key"):
        replace(connection, ssl_keyfile=None)


@pytest.mark.parametrize(
    ("spoken", "listener", "kind", "text"),
    [
        ("PLAINTEXT", "SSL", ConnectionSettingsError, "Kafka at .* speaks TLS there: set FLEXIHASH_SECURITY_PROTOCOL"),
        ("SASL_PLAINTEXT", "SASL_SSL", ConnectionSettingsError, "Kafka at .* speaks TLS there: .* SSL or SASL_SSL"),
        ("SSL", "PLAINTEXT", BrokerUnavailable, r"ended the TLS handshake \(.*\): is it up, and does it speak SSL"),
        ("SASL_SSL", "SASL_PLAINTEXT", BrokerUnavailable, "ended the TLS handshake .* See FLEXIHASH_SECURITY_PROTOCOL"),
        ("SASL_PLAINTEXT", "PLAINTEXT", ConnectionSettingsError, "Kafka at .* no login there: .* to PLAINTEXT, or"),
        ("SASL_SSL", "SSL", ConnectionSettingsError, "Kafka at .* takes no login there: .* to SSL, or"),
        ("PLAINTEXT", "SASL_PLAINTEXT", BrokerUnavailable, "does not answer .* does it speak PLAINTEXT there"),
        ("SSL", "SASL_SSL", BrokerUnavailable, "does not answer .* does it speak SSL there"),
    ],
)
def test_protocol_of_another_port(
    kafka: ApacheKafka, spoken: str, listener: str, kind: type[ConsumerError], text: str
) -> None:
    connection = replace(kafka.secure_connection(spoken), bootstrap_servers=kafka.address(listener))
    assert_refused(connection, kind, text)


def test_files_that_cannot_be_used_are_named(kafka: ApacheKafka, tmp_path: Path) -> None:
    """At each connection, not only at the start: files are replaced while the service runs."""
    (tmp_path / "text.pem").write_text("no certificate")
    tls = kafka.secure_connection("SSL")
    for name, problem in (("absent.pem", "cannot be read: No such file"), ("text.pem", "holds no certificate in PEM")):
        assert_refused(replace(tls, ssl_cafile=str(tmp_path / name)), ConnectionSettingsError, f"{name} {problem}")


# --- the service ----------------------------------------------------------------------------------------------------


def test_the_service_learns_by_tls_and_scram_and_never_tells_the_password(
    kafka: ApacheKafka, topic_name: str, launch: Launch
) -> None:
    connection = kafka.secure_connection("SASL_SSL", "SCRAM-SHA-512", "careful", SECRET)
    Topic(connection, topic_name).create()
    service = launch(connection, topic_name, FLEXIHASH_LOG_LEVEL="debug").start().wait_ready()
    with Publisher(Topic(connection, topic_name)) as publisher:
        publisher.publish([EVENTS[0], b"not json", EVENTS[0]], timeout_s=PATIENCE_S)
    service.wait_position(3)
    service.post("/v1/predictions", {"instances": [{"k": "v"}]})
    service.post("/v1/checkpoints", None)
    answers = [service.http.get(path).text for path in ("/v1/model", "/readyz", "/metrics", "/openapi.json")]
    assert service.stop() == 0, service.log
    assert [record.value for record in read_topic(Topic(connection, f"{topic_name}.dlq"))] == [b"not json"]
    assert "SaslAuthenticateRequest" in service.log  # or the log would have had nothing to hide
    kept = [path for path in service.folder.rglob("*.json") if path.is_file()]
    assert len(kept) >= 2  # a manifest and the status
    for text in (service.log, *answers, *(path.read_text() for path in kept)):
        assert_no_piece(text)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_the_service_ends_at_a_wrong_password_and_does_not_tell_it(
    kafka: ApacheKafka, topic_name: str, launch: Launch, mechanism: str
) -> None:
    connection = kafka.secure_connection("SASL_SSL", mechanism, "careful", f"{SECRET} not")
    service = launch(connection, topic_name, FLEXIHASH_LOG_LEVEL="debug").start()
    assert service.process is not None
    assert service.process.wait(READY_S) == 2
    assert f"denies user 'careful' access by {mechanism}: Authentication failed" in service.log
    if mechanism == "PLAIN":
        assert "(not shown)" in service.log
    assert_no_piece(service.log)


def test_the_service_ends_at_a_broker_that_it_cannot_trust(
    kafka: ApacheKafka, topic_name: str, launch: Launch, tmp_path: Path
) -> None:
    connection = replace(kafka.secure_connection("SSL"), ssl_cafile=str(Certificates(tmp_path / "other").authority))
    service = launch(connection, topic_name).start()
    assert service.process is not None
    assert service.process.wait(READY_S) == 2
    assert f"the certificate of Kafka at {connection.bootstrap_servers} is not trusted" in service.log
    assert "Traceback" not in service.log


# --- rights ---------------------------------------------------------------------------------------------------------

Right = tuple[str, str, str]  # kind of resource, its name, operation

KINDS = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional id": ResourceType.TRANSACTIONAL_ID,
}


def documented_rights(topic: str) -> list[Right]:
    """The rows of the table in docs/operations.md, for another topic than `events`."""
    rows = re.findall(
        r"^\| (topic|group|transactional id) `(\S+)` \| ([A-Z]+) \|", OPERATIONS.read_text(), re.MULTILINE
    )
    return [(kind, re.sub(r"\bevents\b", topic, name), operation) for kind, name, operation in rows]


def rule(user: str, right: Right) -> tuple[str, str, ACLOperation, ACLPermissionType, ResourcePattern]:
    kind, name, operation = right
    pattern = ResourcePattern(KINDS[kind], name)
    return (f"User:{user}", "*", ACLOperation[operation], ACLPermissionType.ALLOW, pattern)


@pytest.fixture
def closed(kafka: ApacheKafka) -> Iterator[ApacheKafka]:
    """Denies whatever is not allowed: a rule about every resource, for nobody."""
    rules = [rule("nobody", (kind, "*", "DESCRIBE")) for kind in KINDS]
    pattern = ResourcePattern(ResourceType.CLUSTER, "kafka-cluster")
    rules.append(("User:nobody", "*", ACLOperation.DESCRIBE, ACLPermissionType.ALLOW, pattern))
    with administer(kafka.connection) as admin:
        admin.create_acls([ACL(*one) for one in rules])
    yield kafka
    with administer(kafka.connection) as admin:
        admin.delete_acls([ACLFilter(*one) for one in rules])


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = monotonic() + PATIENCE_S
    while not is_so():
        assert monotonic() < deadline, what
        sleep(0.05)


def test_the_documented_rights_are_enough_and_each_is_needed(closed: ApacheKafka, topic_name: str) -> None:
    group, own = "flexihash", closed.connection
    Topic(own, topic_name).create()
    publish(own, topic_name)
    user = f"user-{topic_name}"
    closed.add_user(user, PASSWORD)
    connection = closed.secure_connection("SASL_PLAINTEXT", "SCRAM-SHA-512", user)

    def learn() -> None:
        assert len(list(read_topic(Topic(connection, topic_name)))) >= len(EVENTS)
        KafkaSource(Topic(connection, topic_name)).identity()

    def commit() -> None:
        at = TopicPartition(topic_name, 0)
        with administer(own) as admin:
            admin.alter_group_offsets(group, {at: OffsetAndMetadata(1, "", -1)})
            source = KafkaSource(Topic(connection, topic_name), group)
            source.start({})
            source.commit({0: 3})
            source.close()
            assert admin.list_group_offsets({group: [at]})[group][at].offset == 3

    def make_letters() -> None:
        if Topic(own, f"{topic_name}.dlq").exists():
            delete_topic(own, f"{topic_name}.dlq")
        reject(connection, topic_name)

    def hold_fence() -> None:
        fence = Fence(Topic(connection, topic_name), group)
        try:
            fence.acquire()
            fence.check()
        finally:
            fence.close()

    steps: dict[Right, Callable[[], object]] = {
        ("topic", topic_name, "READ"): learn,
        ("topic", topic_name, "WRITE"): lambda: publish(connection, topic_name),
        ("group", group, "READ"): commit,
        ("transactional id", f"flexihash.{group}.{topic_name}", "WRITE"): hold_fence,
        ("topic", f"{topic_name}.dlq", "CREATE"): make_letters,
        ("topic", f"{topic_name}.dlq", "WRITE"): lambda: reject(connection, topic_name),
        ("topic", f"{topic_name}.dlq", "READ"): lambda: read_box(Topic(connection, topic_name)),
        ("transactional id", f"flexihash.replay.{topic_name}", "WRITE"): lambda: replay(Topic(connection, topic_name)),
    }
    assert sorted(documented_rights(topic_name)) == sorted(steps)

    def works(right: Right) -> bool:
        try:
            steps[right]()
        except (ConsumerError, KafkaError, AssertionError):
            return False
        return True

    with administer(own) as admin:
        assert not any(works(right) for right in steps)
        admin.create_acls([ACL(*rule(user, right)) for right in steps])
        for right in steps:
            wait_until(lambda right=right: works(right), f"{right} works")  # type: ignore[misc]
        for right in steps:
            admin.delete_acls([ACLFilter(*rule(user, right))])
            wait_until(lambda right=right: not works(right), f"{right} is needed")  # type: ignore[misc]
            admin.create_acls([ACL(*rule(user, right))])
            wait_until(lambda right=right: works(right), f"{right} works again")  # type: ignore[misc]


def test_the_service_works_with_the_documented_rights(closed: ApacheKafka, topic_name: str, launch: Launch) -> None:
    user = f"user-{topic_name}"
    closed.add_user(user, PASSWORD)
    Topic(closed.connection, topic_name).create()
    with administer(closed.connection) as admin:
        admin.create_acls([ACL(*rule(user, right)) for right in documented_rights(topic_name)])
    connection = closed.secure_connection("SASL_SSL", "SCRAM-SHA-512", user)
    service = launch(connection, topic_name).start().wait_ready()
    service.post("/v1/events", [{"features": {"k": "v"}, "label": 1}])
    with Publisher(Topic(connection, topic_name)) as publisher:
        publisher.publish([b"not json"], timeout_s=PATIENCE_S)
    service.wait_position(2)
    assert service.stop() == 0, service.log
    assert service.status().dead_letters.error is None
    assert "denies" not in service.log and "not committed" not in service.log
    assert replay(Topic(connection, topic_name)) == 1


def test_a_right_that_is_absent_is_named(closed: ApacheKafka, topic_name: str, launch: Launch) -> None:
    Topic(closed.connection, topic_name).create()
    connection = closed.secure_connection("SASL_PLAINTEXT", "SCRAM-SHA-256", "careful", SECRET)
    service = launch(connection, topic_name).start()
    assert service.process is not None
    assert service.process.wait(READY_S) == 2
    assert f"Kafka at {HOST}" in service.log
    assert "denies access" in service.log
    assert "grant user 'careful' the rights that docs/operations.md lists" in service.log

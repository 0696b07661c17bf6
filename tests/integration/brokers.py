"""Apache Kafka with every way to connect to it, and what tests do to a broker by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import UserScramCredentialUpsertion

from flexihash.consumer.kafka.connection import SECURITY_PROTOCOLS, KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from rig.broker import KafkaNode
from rig.ports import HOST

PATIENCE_S = 60.0  # far more than a broker takes for anything
USERNAME, PASSWORD = "learner", "correct horse"
LOGIN_MODULES = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule required"
    f' username="{USERNAME}" password="{PASSWORD}" user_{USERNAME}="{PASSWORD}";',
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
}
MECHANISMS = tuple(LOGIN_MODULES)
MUTUAL = "MUTUAL"  # like SSL, for clients that have a certificate
LISTENERS = {protocol: protocol for protocol in SECURITY_PROTOCOLS} | {MUTUAL: "SSL"}


class Certificates:
    """An authority made for these tests, and PEM files that it signed, in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._authority = trustme.CA()
        self.authority = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(str(self.authority))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Files of a certificate for a host or person, and of its key as Kafka takes it: PKCS#8."""
        leaf = self._authority.issue_cert(name, common_name=name)
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        loaded = load_pem_private_key(leaf.private_key_pem.bytes(), None)
        key.write_bytes(loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, key


class ApacheKafka(KafkaNode):
    """One node that listens once for each of LISTENERS.

    Its certificate is of HOST. By SASL_SSL it knows no SCRAM-SHA-256. Without a password everybody may do everything;
    others may do what no access rule forbids.
    """

    def __init__(self, home: Path, folder: Path) -> None:
        super().__init__(home, folder, len(LISTENERS), heap="384m")
        self._ports = dict(zip(LISTENERS, self.ports, strict=True))
        self.certificates = Certificates(folder / "certificates")
        certificate, key = self.certificates.issue(HOST)
        self._identity = folder / "certificates" / "broker.pem"
        self._identity.write_bytes(key.read_bytes() + certificate.read_bytes())

    def address(self, listener: str, host: str = HOST) -> str:
        return f"{host}:{self._ports[listener]}"

    def secure_connection(
        self,
        protocol: str = "SASL_PLAINTEXT",
        mechanism: str = "PLAIN",
        username: str = USERNAME,
        password: str = PASSWORD,
    ) -> KafkaConnection:
        """A connection by a protocol; what it does not take is left out."""
        settings: dict[str, str] = {}
        if protocol.startswith("SASL"):
            settings |= {"sasl_mechanism": mechanism, "username": username, "password": password}
        if protocol.endswith("SSL"):
            settings |= {"ssl_cafile": str(self.certificates.authority)}
        return KafkaConnection(self.address(protocol), protocol, **settings)

    def add_user(self, username: str, password: str) -> None:
        """Let somebody log in with SCRAM."""
        with administer(self.connection) as admin:
            for mechanism in (name for name in MECHANISMS if name.startswith("SCRAM")):  # one in a request
                outcome = admin.alter_user_scram_credentials(
                    [UserScramCredentialUpsertion(username, mechanism, password)]
                )
                assert outcome == {username: None}, outcome

    def segment(self, topic: str) -> Path:
        """The file that holds the first records of the topic's partition 0."""
        return self.folder / "log" / f"{topic}-0" / f"{0:020d}.log"

    def settings(self) -> list[str]:
        listeners = ",".join(f"{listener}://{self.address(listener)}" for listener in LISTENERS)
        protocols = ",".join(f"{listener}:{protocol}" for listener, protocol in LISTENERS.items())
        return [
            f"listeners={listeners},CONTROLLER://{HOST}:{self._ports['PLAINTEXT'] + 1}",
            f"advertised.listeners={listeners}",
            f"listener.security.protocol.map=CONTROLLER:PLAINTEXT,{protocols}",
            "inter.broker.listener.name=PLAINTEXT",
            f"sasl.enabled.mechanisms={','.join(MECHANISMS)}",
            "listener.name.sasl_ssl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512",
            *(
                f"listener.name.{listener}.{mechanism.lower()}.sasl.jaas.config={module}"
                for listener in ("sasl_plaintext", "sasl_ssl")
                for mechanism, module in LOGIN_MODULES.items()
            ),
            "ssl.keystore.type=PEM",
            f"ssl.keystore.location={self._identity}",
            "ssl.truststore.type=PEM",
            f"ssl.truststore.location={self.certificates.authority}",
            f"listener.name.{MUTUAL.lower()}.ssl.client.auth=required",
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",  # for what is forbidden
            "allow.everyone.if.no.acl.found=true",
            "super.users=User:ANONYMOUS",
        ]


def describe_connection(connection: KafkaConnection) -> dict[str, str]:
    """Environment variables that have the service connect so."""
    settings = {
        "BOOTSTRAP_SERVERS": connection.bootstrap_servers,
        "SECURITY_PROTOCOL": connection.security_protocol,
        "SASL_MECHANISM": connection.sasl_mechanism,
        "SASL_USERNAME": connection.username,
        "SASL_PASSWORD": connection.password,
        "SSL_CAFILE": connection.ssl_cafile,
        "SSL_CERTFILE": connection.ssl_certfile,
        "SSL_KEYFILE": connection.ssl_keyfile,
    }
    return {f"FLEXIHASH_{name}": value for name, value in settings.items() if value is not None}


@contextlib.contextmanager
def administer(connection: KafkaConnection) -> Iterator[Any]:
    """kafka-python's admin client, for what the service never does."""
    admin = KafkaAdminClient(**connection.client_settings())
    try:
        yield admin
    finally:
        admin.close()


def delete_topic(connection: KafkaConnection, topic: str) -> None:
    """Returns once it is gone."""
    with administer(connection) as admin:
        admin.delete_topics([topic])
    deadline = monotonic() + PATIENCE_S
    while Topic(connection, topic).exists():
        assert monotonic() < deadline, f"{topic} is still there"
        sleep(0.05)


def delete_records(connection: KafkaConnection, topic: str, before: int) -> None:
    """Of partition 0, as retention does."""
    with administer(connection) as admin:
        admin.delete_records({TopicPartition(topic, 0): before})


def add_partitions(connection: KafkaConnection, topic: str, n_partitions: int) -> None:
    """Until there are so many."""
    with administer(connection) as admin:
        admin.create_partitions({topic: n_partitions})

"""Settings of Kafka: where the brokers are, how to log in, and what is read there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.tls import check_identity
from flexihash.consumer.letters import TOPIC_SUFFIX
from flexihash.service.environment import PREFIX, env_name
from flexihash.service.setting_types import (
    EMPTY_IS_NONE,
    MAX_KAFKA_LENGTH,
    TOPIC_PLACE,
    Certificates,
    Client,
    File,
    LetterTopic,
    Offsets,
    Panel,
    Secret,
    Servers,
    Text,
    TopicName,
    explain_refusal,
)

if TYPE_CHECKING:  # it imports kafka-python, which the supervisor must not load
    from flexihash.consumer.kafka.topic import Topic

KAFKA = Panel("Kafka")

OnLostPosition = Literal["stop", "earliest", "latest", "keep", "fresh"]
Mechanism = Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None, EMPTY_IS_NONE]


class KafkaSettings(BaseSettings):
    """Of Kafka; see `service.settings`."""

    bootstrap_servers: Annotated[Servers, KAFKA] = Field(
        "localhost:9092", description="Kafka brokers, host:port, separated by commas."
    )
    topic: Annotated[TopicName, KAFKA] = Field("events", description="Topic of the events.")
    dead_letter_topic: Annotated[LetterTopic, KAFKA] = Field(
        TOPIC_PLACE + TOPIC_SUFFIX,
        description="Topic of the records that cannot be learned from, {topic} being the name of theirs; empty: they "
        "are counted, and not kept.",
    )
    group_id: Annotated[str, KAFKA] = Field(
        "flexihash", min_length=1, description="Consumer group whose offsets show the lag."
    )
    start_at: Annotated[Literal["earliest", "latest"], KAFKA] = Field(
        "earliest", description="Where to begin without a checkpoint to go on from: earliest or latest."
    )
    on_lost_position: Annotated[OnLostPosition, KAFKA] = Field(
        "stop",
        description="What to do where the topic no longer goes on where the model stands: stop learning until someone "
        "has acted; go on at its earliest record or its latest; keep the positions though cluster or topic are others; "
        "or start a fresh model.",
    )
    skip_until: Annotated[Offsets, KAFKA] = Field(
        {},
        description="Offsets before which no record is learned, such as 0:2000,1:1950, or 2000 for a topic of one "
        "partition: what was read before stays learned, so it takes effect after going back to an older checkpoint.",
    )
    create_topic: Annotated[bool, KAFKA] = Field(
        False, description="Create the topic, with one partition, where it is absent."
    )
    security_protocol: Annotated[Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], KAFKA] = Field(
        "PLAINTEXT", description="How to talk to the brokers: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."
    )
    sasl_mechanism: Annotated[Mechanism, KAFKA] = Field(
        None, description="How to log in to the brokers, with SASL: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."
    )
    sasl_username: Annotated[Text, KAFKA] = Field(None, description="User name for the brokers, with a SASL protocol.")
    sasl_password: Annotated[Secret, KAFKA] = Field(None, description="Password for the brokers, with a SASL protocol.")
    ssl_cafile: Annotated[Certificates, KAFKA] = Field(
        None,
        description="PEM file of the authority that signed the brokers' certificates, with an SSL protocol; empty: "
        "those that the system trusts.",
    )
    ssl_certfile: Annotated[Certificates, KAFKA] = Field(
        None, description="PEM file of our own certificate, for brokers that ask for one, with an SSL protocol."
    )
    ssl_keyfile: Annotated[File, KAFKA] = Field(
        None, description="PEM file of the key of our own certificate, without a passphrase."
    )
    kafka_client: Annotated[Client, KAFKA] = Field(
        "kafka-python",
        description="What reads the topic: kafka-python, or confluent, which is faster and takes pip install "
        "'flexihash[confluent]'.",
    )

    @model_validator(mode="after")
    def _check_sasl(self) -> Self:
        if self.security_protocol.startswith("SASL"):
            for name in ("sasl_mechanism", "sasl_username", "sasl_password"):
                if getattr(self, name) is None:
                    raise ValueError(f"{PREFIX}SECURITY_PROTOCOL={self.security_protocol} needs {env_name(name)}")
        elif self.sasl_mechanism or self.sasl_username or self.sasl_password:
            raise ValueError(
                f"{PREFIX}SECURITY_PROTOCOL={self.security_protocol} takes no SASL settings: "
                "set it to SASL_SSL or SASL_PLAINTEXT, or unset FLEXIHASH_SASL_*"
            )
        return self

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        is_encrypted = self.security_protocol.endswith("SSL")
        for name, path in (("ssl_cafile", self.ssl_cafile), ("ssl_certfile", self.ssl_certfile)):
            if path is not None and not is_encrypted:
                raise ValueError(
                    f"{PREFIX}SECURITY_PROTOCOL={self.security_protocol} takes no {env_name(name)}: set it to SSL or"
                    f" SASL_SSL, or unset {env_name(name)}"
                )
        if self.ssl_certfile is not None and self.ssl_keyfile is not None:
            explain_refusal(check_identity, self.ssl_certfile, self.ssl_keyfile)
        elif self.ssl_certfile is not None or self.ssl_keyfile is not None:
            raise ValueError("FLEXIHASH_SSL_CERTFILE and FLEXIHASH_SSL_KEYFILE go together: set both, or neither")
        return self

    @model_validator(mode="after")
    def _check_letter_topic(self) -> Self:
        if len(self.letter_topic) > MAX_KAFKA_LENGTH:
            raise ValueError(
                f"{PREFIX}DEAD_LETTER_TOPIC={self.dead_letter_topic} makes {len(self.letter_topic)} characters with the"
                f" topic's name, and Kafka takes {MAX_KAFKA_LENGTH}"
            )
        return self

    @property
    def connection(self) -> KafkaConnection:
        """How to reach the brokers."""
        return KafkaConnection(
            bootstrap_servers=self.bootstrap_servers,
            security_protocol=self.security_protocol,
            sasl_mechanism=self.sasl_mechanism,
            username=self.sasl_username,
            password=self.sasl_password.get_secret_value() if self.sasl_password else None,
            ssl_cafile=str(self.ssl_cafile) if self.ssl_cafile else None,
            ssl_certfile=str(self.ssl_certfile) if self.ssl_certfile else None,
            ssl_keyfile=str(self.ssl_keyfile) if self.ssl_keyfile else None,
        )

    @property
    def kafka_topic(self) -> Topic:
        """The topic that is learned, where the brokers are."""
        from flexihash.consumer.kafka.topic import Topic

        return Topic(self.connection, self.topic, self.letter_topic)

    @property
    def letter_topic(self) -> str:
        """Name of the topic of dead letters; empty where none are kept."""
        return self.dead_letter_topic.replace(TOPIC_PLACE, self.topic)

"""Settings of the service: environment variables named ``FLEXIHASH_<FIELD>``; docs/settings.md lists them all."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.tls import check_identity
from flexihash.consumer.letters import TOPIC_SUFFIX
from flexihash.model.config import ModelConfig
from flexihash.model.tasks import Task
from flexihash.service.service_errors import FormerCheckpoints, SettingsError
from flexihash.service.setting_types import (
    EMPTY_IS_NONE,
    MAX_KAFKA_LENGTH,
    TOPIC_PLACE,
    Certificates,
    Client,
    EmbeddingDim,
    File,
    LetterTopic,
    Names,
    Offsets,
    OptionalFolder,
    Panel,
    Rows,
    Secret,
    Servers,
    Text,
    Token,
    TopicName,
    explain_allowed,
    explain_refusal,
)

if TYPE_CHECKING:  # these import torch, scikit-learn and kafka-python, which the supervisor must not load
    from flexihash.consumer.kafka.topic import Topic
    from flexihash.consumer.wire import EventFormat
    from flexihash.model.checkpoint.retention import Retention

PREFIX = "FLEXIHASH_"
SHARED_MEMORY = Path("/dev/shm")
FORMER_CHECKPOINTS = Path("checkpoints")  # of all topics once; now a folder each in it
MANIFESTS = "*/manifest.json"
HTTP, KAFKA, MODEL, EVENTS, STORAGE, LOGS = map(Panel, ("HTTP", "Kafka", "Model", "Events", "Storage", "Logs"))

OnLostPosition = Literal["stop", "earliest", "latest", "keep", "fresh"]
Mechanism = Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None, EMPTY_IS_NONE]


class Settings(BaseSettings):
    """Every setting, with its default. Use `load_settings`, which explains a wrong value in one line.

    The options of the command line are made from these too: a description is also the help of an option.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: Annotated[str, HTTP] = Field(
        "127.0.0.1", min_length=1, description="Address that the API listens on; 0.0.0.0 for all."
    )
    port: Annotated[int, HTTP] = Field(
        8080, ge=0, le=65_535, description="Port that the API listens on; 0 takes a free one."
    )
    workers: Annotated[int, HTTP] = Field(
        1, ge=1, le=64, description="Processes that answer requests, all on the one port."
    )
    api_token: Annotated[Token, HTTP] = Field(
        None, description="Bearer token that calls must carry; empty: none needed."
    )
    public_metrics: Annotated[bool, HTTP] = Field(True, description="Whether /metrics answers without the token.")
    max_body_bytes: Annotated[int, HTTP] = Field(8_000_000, ge=1_000, description="Largest request body, in bytes.")
    max_instances: Annotated[int, HTTP] = Field(10_000, ge=1, description="Most instances in one request.")

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

    task: Annotated[Task, MODEL] = Field(
        Task.BINARY, description="What is predicted: binary (yes or no), regression (a quantity), counts, or quantile."
    )
    quantile: Annotated[float, MODEL] = Field(0.5, gt=0, lt=1, description="The wanted quantile, with task quantile.")
    n_rows: Annotated[Rows, MODEL] = Field(
        1 << 18,
        description="Rows of the table, a power of two: the more, the fewer features share one; a row takes 160 bytes.",
    )
    seed: Annotated[int, MODEL] = Field(0, ge=0, lt=1 << 63, description="Seed of the first embeddings.")
    embeddings: Annotated[bool, MODEL] = Field(
        False, description="Learn embeddings of features from their company, without labels, beside the predictions."
    )
    embedding_dim: Annotated[EmbeddingDim, MODEL] = Field(
        16, description="Size of these embeddings: 8, 16, 32 or 64; a row takes 4 bytes for each, and 16 more."
    )

    label_field: Annotated[str, EVENTS] = Field(
        "label", min_length=1, description="Field of an event that holds the label."
    )
    features_field: Annotated[str, EVENTS] = Field(
        "features",
        description="Field that holds the features; empty: the whole event but the label, weight, id, timestamp and "
        "what is ignored.",
    )
    ignored_features: Annotated[Names, EVENTS] = Field(
        (), description="Names, paths (user.address) and patterns (debug_*) of what is no feature, separated by commas."
    )
    categorical_features: Annotated[Names, EVENTS] = Field(
        (), description="Patterns of features whose numbers are names only, such as *_id, separated by commas."
    )
    numeric_features: Annotated[Names, EVENTS] = Field(
        (), description="Patterns of features that are quantities only, such as year, separated by commas."
    )
    max_features: Annotated[int, EVENTS] = Field(1_000, ge=1, description="Most features in one event.")
    max_depth: Annotated[int, EVENTS] = Field(16, ge=1, le=100, description="Most levels of nesting in one event.")
    max_key_length: Annotated[int, EVENTS] = Field(512, ge=1, description="Most characters in a feature's name.")
    max_event_bytes: Annotated[int, EVENTS] = Field(1_000_000, ge=2, description="Largest event, in bytes.")

    checkpoint_dir: Annotated[OptionalFolder, STORAGE] = Field(
        None,
        description="Folder of the checkpoints, the newest of which is gone on from, and of dead letters that the "
        "broker has not taken; empty: checkpoints/TOPIC.",
    )
    adopt: Annotated[bool, STORAGE] = Field(
        False,
        description="Go on from a checkpoint that was learned from other topics: keep what it learned, and begin this "
        "topic where start_at says.",
    )
    checkpoint_seconds: Annotated[float, STORAGE] = Field(
        60.0, gt=0, allow_inf_nan=False, description="Seconds between two checkpoints."
    )
    checkpoint_keep: Annotated[int, STORAGE] = Field(3, ge=1, description="Newest checkpoints that are kept.")
    checkpoint_keep_hourly: Annotated[int, STORAGE] = Field(
        24, ge=0, description="Hours of which the newest checkpoint is kept as well, the last in which one was saved."
    )
    checkpoint_keep_daily: Annotated[int, STORAGE] = Field(
        7, ge=0, description="Days, in UTC, of which the newest checkpoint is kept as well."
    )
    memory_dir: Annotated[OptionalFolder, STORAGE] = Field(
        None, description="Folder on tmpfs for the shared tables; empty: one in /dev/shm, named after user and topic."
    )

    log_format: Annotated[Literal["auto", "console", "json"], LOGS] = Field(
        "auto", description="Log lines for people (console) or programs (json); auto: console on a terminal."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], LOGS] = Field(
        "info", description="Least level that is logged: debug, info, warning or error."
    )

    @model_validator(mode="after")
    def _check_sasl(self) -> Self:
        if self.security_protocol.startswith("SASL"):
            for name in ("sasl_mechanism", "sasl_username", "sasl_password"):
                if getattr(self, name) is None:
                    raise ValueError(f"{PREFIX}SECURITY_PROTOCOL={self.security_protocol} needs {_env_name(name)}")
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
                    f"{PREFIX}SECURITY_PROTOCOL={self.security_protocol} takes no {_env_name(name)}: set it to SSL or"
                    f" SASL_SSL, or unset {_env_name(name)}"
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
    def model(self) -> ModelConfig:
        """What the model is made of."""
        return ModelConfig(**{name: getattr(self, name) for name in ModelConfig.__struct_fields__})

    @property
    def event_format(self) -> EventFormat:
        """How an event is read."""
        from flexihash.consumer.wire import EventFormat
        from flexihash.model.features import FeatureRules

        return EventFormat(
            label_field=self.label_field,
            features_field=self.features_field,
            max_event_bytes=self.max_event_bytes,
            rules=FeatureRules(
                ignored_features=self.ignored_features,
                categorical_features=self.categorical_features,
                numeric_features=self.numeric_features,
                max_features=self.max_features,
                max_depth=self.max_depth,
                max_key_length=self.max_key_length,
            ),
        )

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

    @property
    def dead_letter_dir(self) -> Path:
        """Folder of the dead letters that the broker has not taken."""
        return self.checkpoints / "dead-letters"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.checkpoint_dir or FORMER_CHECKPOINTS / self.topic

    @property
    def retention(self) -> Retention:
        """Which checkpoints are kept."""
        from flexihash.model.checkpoint.retention import Retention

        return Retention(self.checkpoint_keep, self.checkpoint_keep_hourly, self.checkpoint_keep_daily)

    def check_former_checkpoints(self) -> None:
        """Keeps a start from passing over what lies in the folder that was the default for all topics once.

        Raises:
            FormerCheckpoints: there are checkpoints, and none in the folder that is the default now.
        """
        if self.checkpoint_dir is not None or any(self.checkpoints.glob(MANIFESTS)):
            return
        if any(FORMER_CHECKPOINTS.glob(MANIFESTS)):
            raise FormerCheckpoints(FORMER_CHECKPOINTS, self.checkpoints)

    @property
    def memory(self) -> Path:
        """Folder of the shared tables, on tmpfs where the machine has it."""
        if self.memory_dir is not None:
            return self.memory_dir
        parent = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
        return parent / f"flexihash-{os.getuid()}-{self.topic}"

    def to_environment(self) -> dict[str, str]:
        """Environment variables that give a child process these settings, secrets included."""
        return {_env_name(name): _to_text(getattr(self, name)) for name in sorted(self.model_fields_set)}


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment; `overrides` (command line options) that are not None win.

    Raises:
        SettingsError: a value cannot be used, or a ``FLEXIHASH_`` variable is none of ours.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    if unknown := find_unknown(os.environ):
        raise SettingsError("\n".join(unknown))
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = [_explain(details, given) for details in error.errors(include_url=False)]
        raise SettingsError("\n".join(lines)) from None


def find_unknown(environment: Mapping[str, str]) -> list[str]:
    """One line per ``FLEXIHASH_`` variable that is no setting, with the nearest that is: a typo must not be silent."""
    known = [_env_name(name) for name in Settings.model_fields]
    lines = []
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.0)[0]
            lines.append(f"{name} is no setting; did you mean {nearest}? Otherwise unset it")
    return lines


def describe_default(field: FieldInfo) -> str:
    """A field's default as one writes it in the environment."""
    return _to_text(field.default)


def _explain(details: ErrorDetails, given: Mapping[str, Any]) -> str:
    if not details["loc"]:
        return str(details["ctx"]["error"])
    name = str(details["loc"][0])
    if name not in Settings.model_fields:
        raise TypeError(f"{name} is no setting")  # a mistake in our own code
    field = Settings.model_fields[name]
    is_secret = SecretStr in (field.annotation, *get_args(field.annotation))
    value = "(not shown)" if is_secret else _to_text(details["input"])
    setting = f"--{name.replace('_', '-')} {value}" if name in given else f"{_env_name(name)}={value}"
    return f"{setting}: {explain_allowed(details)}"


def _env_name(name: str) -> str:
    return PREFIX + name.upper()


def _to_text(value: Any) -> str:
    match value:
        case None:
            return ""
        case SecretStr():
            return str(value.get_secret_value())
        case bool():
            return str(value).lower()
        case dict():
            return ",".join(f"{key}:{one}" for key, one in value.items())
        case tuple() | list():
            return ",".join(map(str, value))
        case _:
            return str(value)

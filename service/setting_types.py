"""What the values of settings may be: a type each, with what it allows, and how the command line shows it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_core import ErrorDetails
from pydantic_settings import NoDecode

from flexihash.consumer.consumer_errors import ConnectionSettingsError
from flexihash.consumer.kafka.tls import check_certificates
from flexihash.consumer.labels import parse_rule
from flexihash.model.config import EMBEDDING_DIMS
from flexihash.model.crosses import check_crosses
from flexihash.model.model_errors import ConfigurationError
from flexihash.model.tasks import Task
from flexihash.model.zones import check_zone

MAX_KAFKA_LENGTH = 249  # of a topic's name
MAX_TOPIC_LENGTH = 245  # so that ".dlq" can be appended for the dead letters
TOPIC_PLACE = "{topic}"

Given = TypeVar("Given")


@dataclass(frozen=True)
class Panel:
    """Where a setting stands in the help of a command."""

    title: str


@dataclass(frozen=True)
class Metavar:
    """How the help writes the value of an option, where its type alone says too little."""

    text: str


def _none_if_empty(value: Given | str) -> Given | str | None:
    return None if value == "" else value


def _split_commas(value: Given | str) -> Given | tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _check_token(token: SecretStr | None) -> SecretStr | None:
    if token is not None and not re.fullmatch(r"[!-~]+", token.get_secret_value()):
        raise ValueError("must be printable ASCII without spaces or line breaks")
    return token


def _check_servers(servers: str) -> str:
    for server in servers.split(","):
        match = re.fullmatch(r"\s*(?:\[[0-9a-fA-F:.]+\]|[\w.-]+):(\d{1,5})\s*", server, re.ASCII)
        if match is None or not 0 < int(match[1]) < 65_536:
            raise ValueError("must be host:port, or several separated by commas")
    return servers


def _check_topic(topic: str) -> str:
    if not re.fullmatch(rf"[a-zA-Z0-9._-]{{1,{MAX_TOPIC_LENGTH}}}", topic) or topic in (".", ".."):
        raise ValueError(f"must be 1 to {MAX_TOPIC_LENGTH} letters, digits, dots, underscores and hyphens")
    return topic


def _check_letters(pattern: str) -> str:
    """Each topic has letters of its own, or a replay would take those of one for those of another."""
    if pattern and (pattern == TOPIC_PLACE or not re.fullmatch(r"[a-zA-Z0-9._-]*\{topic\}[a-zA-Z0-9._-]*", pattern)):
        raise ValueError(f"must be a name with {TOPIC_PLACE} and more in it, such as {TOPIC_PLACE}.dlq, or empty")
    return pattern


def _check_dim(dim: int) -> int:
    if dim not in EMBEDDING_DIMS:
        raise ValueError(f"must be one of {', '.join(map(str, EMBEDDING_DIMS))}")
    return dim


def _check_crosses(crosses: tuple[str, ...]) -> tuple[str, ...]:
    try:
        check_crosses(crosses)
    except ConfigurationError as error:
        raise ValueError(str(error).removeprefix("crosses ")) from error
    return crosses


def _check_zone(name: str) -> str:
    try:
        check_zone(name)
    except ConfigurationError as error:
        raise ValueError(str(error).removeprefix("time_zone ").partition(", not ")[0]) from error
    return name


def _check_rule(rule: str) -> str:
    if rule:
        try:
            parse_rule(rule)
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
    return rule


def _read_targets(value: Given | str) -> Given | dict[str, str]:
    """Tasks by field, from ``FIELD:TASK`` and commas."""
    if not isinstance(value, str):
        return value
    targets: dict[str, str] = {}
    for part in filter(None, map(str.strip, value.split(","))):
        field, _, task = part.rpartition(":")
        if not field or field in targets:
            raise ValueError("must be FIELD:TASK, several separated by commas, each field once")
        targets[field] = task
    return targets


def _check_rows(n_rows: int) -> int:
    if n_rows & (n_rows - 1):
        raise ValueError(f"must be a power of two, such as {1 << n_rows.bit_length()}")
    return n_rows


def _read_offsets(value: Given | str) -> Given | dict[int, int]:
    """Offsets by partition, from ``PARTITION:OFFSET`` and commas; an offset alone is of partition 0."""
    if not isinstance(value, str):
        return value
    offsets = {}
    for part in filter(None, map(str.strip, value.split(","))):
        match = re.fullmatch(r"(?:(\d{1,4}):)?(\d{1,19})", part, re.ASCII)
        if match is None:
            raise ValueError("must be an offset, or PARTITION:OFFSET, several separated by commas")
        offsets[int(match[1] or 0)] = int(match[2])
    return offsets


def _check_client(client: str) -> str:
    if client == "confluent" and find_spec("confluent_kafka") is None:
        raise ValueError("needs the package confluent-kafka: pip install 'flexihash[confluent]'")
    return client


def _check_file(path: Path | None) -> Path | None:
    if path is not None and not path.is_file():
        raise ValueError("must be a file that exists")
    return path


def _check_certificates(path: Path | None) -> Path | None:
    if path is not None:
        explain_refusal(check_certificates, path)
    return path


def _check_folder(path: Path | None) -> Path | None:
    if path is not None and path.exists() and not path.is_dir():
        raise ValueError("must be a folder, and this is a file")
    return path


def explain_refusal(check: Callable[..., None], *paths: Path) -> None:
    """Has the refusal of a TLS file told as that of a setting.

    Raises:
        ValueError: `check` refuses the files at `paths`.
    """
    try:
        check(*paths)
    except ConnectionSettingsError as error:
        raise ValueError(str(error)) from error


def explain_allowed(details: ErrorDetails) -> str:
    """What a refused value must be, in words."""
    match details["type"]:
        case "value_error":
            return str(details["ctx"]["error"])
        case "int_parsing" | "int_type" | "int_from_float":
            return "must be a whole number"
        case "float_parsing" | "float_type":
            return "must be a number"
        case "bool_parsing" | "bool_type":
            return "must be true or false"
        case "string_too_short":
            return "must not be empty"
        case _:
            return details["msg"].replace("Input should be", "must be")


EMPTY_IS_NONE = BeforeValidator(_none_if_empty)

Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]
Names = Annotated[Listed, Metavar("A,B")]
Crosses = Annotated[Listed, AfterValidator(_check_crosses), Metavar("A*B,C*D")]
Rule = Annotated[str, AfterValidator(_check_rule), Metavar("FIELD>N")]
Targets = Annotated[dict[str, Task], NoDecode, BeforeValidator(_read_targets), Metavar("FIELD:TASK,...")]
Offsets = Annotated[dict[int, int], NoDecode, BeforeValidator(_read_offsets), Metavar("[PARTITION:]OFFSET,...")]
Text = Annotated[str | None, EMPTY_IS_NONE]
Secret = Annotated[SecretStr | None, EMPTY_IS_NONE]
Token = Annotated[Secret, AfterValidator(_check_token)]
Servers = Annotated[str, AfterValidator(_check_servers), Metavar("HOST:PORT")]
TopicName = Annotated[str, AfterValidator(_check_topic)]
LetterTopic = Annotated[str, AfterValidator(_check_letters)]
EmbeddingDim = Annotated[int, AfterValidator(_check_dim)]
ZoneName = Annotated[str, AfterValidator(_check_zone), Metavar("AREA/CITY")]
Rows = Annotated[int, Field(ge=2, le=1 << 30), AfterValidator(_check_rows)]
Client = Annotated[Literal["kafka-python", "confluent"], AfterValidator(_check_client)]
File = Annotated[Path | None, EMPTY_IS_NONE, AfterValidator(_check_file)]
Certificates = Annotated[File, AfterValidator(_check_certificates)]
OptionalFolder = Annotated[Path | None, EMPTY_IS_NONE, AfterValidator(_check_folder)]

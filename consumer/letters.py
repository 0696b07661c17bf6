"""A dead letter: a record that could not be learned from, as it was, and why. How it is written into a topic."""

from __future__ import annotations

from typing import Any

import msgspec

from flexihash.consumer.records import Record

TOPIC_SUFFIX = ".dlq"
HEADER_PREFIX = "__flexihash.errors."
NULL_HEADERS = HEADER_PREFIX + "null_headers"
FACTS = ("topic", "partition", "offset", "timestamp", "stage", "reason", "message")
ID = HEADER_PREFIX + "id"  # before the facts; letters of version 0.1.0 have none


class Letter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rejected record, byte for byte, and the reason.

    Args:
        timestamp: Unix time in ms, -1 where the record has none.
        stage: what failed, such as ``decode``.
        reason: a slug, for counting; `message` is for people.
        id: the learner that wrote it, a slash, and which of its letters it is, from 1 on; empty where it is not known.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    stage: str
    reason: str
    message: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    id: str = ""

    @property
    def origin(self) -> str:
        """Where the record is: ``events[0]@841``."""
        return f"{self.topic}[{self.partition}]@{self.offset}"

    @property
    def size_bytes(self) -> int:
        """What it takes in memory and on the disk, roughly."""
        headers = sum(len(name) + len(value or b"") for name, value in self.headers)
        return 500 + len(self.key or b"") + len(self.value or b"") + headers


def make_letter(record: Record, stage: str, reason: str, message: str, id: str = "") -> Letter:
    """The letter for one rejected record."""
    return Letter(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp=record.timestamp_ms,
        stage=stage,
        reason=reason,
        message=message.encode(errors="replace").decode(),  # lone surrogates are not text
        key=record.key,
        value=record.value,
        headers=list(record.headers),
        id=id,
    )


def write_headers(letter: Letter) -> list[tuple[str, bytes]]:
    """The record's headers, those with a null value as empty ones, and ours after them."""
    headers = [(name, value or b"") for name, value in letter.headers]
    headers.append((ID, letter.id.encode()))
    headers += [(HEADER_PREFIX + name, str(getattr(letter, name)).encode()) for name in FACTS]
    nulls = [str(i) for i, (_, value) in enumerate(letter.headers) if value is None]
    if nulls:
        headers.append((NULL_HEADERS, ",".join(nulls).encode()))
    return headers


def read_letter(record: Record) -> Letter | None:
    """The letter in a record of a dead-letter topic; None where it is no letter of ours.

    The headers that count are the last ones: a letter may have been rejected again, with the first ones on it.
    """
    headers = list(record.headers)
    nulls: set[int] = set()
    try:
        if headers and headers[-1][0] == NULL_HEADERS:
            nulls = {int(place) for place in (headers.pop()[1] or b"").split(b",")}
        facts = _read_facts(headers[-len(FACTS) :])
        if facts is None:
            return None
        del headers[-len(FACTS) :]
        id = (headers.pop()[1] or b"").decode() if headers and headers[-1][0] == ID else ""
        kept = [(name, None if i in nulls else value) for i, (name, value) in enumerate(headers)]
        return Letter(**facts, key=record.key, value=record.value, headers=kept, id=id)
    except ValueError:  # not our numbers, or not our text
        return None


def _read_facts(headers: list[tuple[str, bytes | None]]) -> dict[str, Any] | None:
    if [name for name, _ in headers] != [HEADER_PREFIX + name for name in FACTS]:
        return None
    facts: dict[str, Any] = {fact: (value or b"").decode() for fact, (_, value) in zip(FACTS, headers, strict=True)}
    return facts | {fact: int(facts[fact]) for fact in ("partition", "offset", "timestamp")}

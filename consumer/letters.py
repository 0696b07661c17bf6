"""A dead letter: a record that could not be learned from, as it was, and why. How it is written into a topic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

import msgspec

from flexihash.consumer.records import Record

TOPIC_SUFFIX = ".dlq"
HEADER_PREFIX = "__flexihash.errors."
NULL_HEADERS = HEADER_PREFIX + "null_headers"
CUT = HEADER_PREFIX + "cut"
FACTS = ("topic", "partition", "offset", "timestamp", "stage", "reason", "message")
ID = HEADER_PREFIX + "id"  # before the facts; letters of version 0.1.0 have none
MAX_LETTER_BYTES = 17 * 1024 * 1024  # a compressed batch may unpack to a record of gigabytes
HEAD_BYTES = 64 * 1024  # of what is too large


class Cut(msgspec.Struct, frozen=True):
    """What a key, value or all headers, of which a letter has the head only, were: their bytes, and SHA-256 of them."""

    bytes: int
    sha256: str


class Letter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rejected record, byte for byte unless it is `cut`, and the reason.

    Args:
        timestamp: Unix time in ms, -1 where the record has none.
        stage: what failed, such as ``decode``.
        reason: a slug, for counting; `message` is for people.
        id: the learner that wrote it, a slash, and which of its letters it is, from 1 on; empty where it is not known.
        cut: ``key`` and ``value``, where the letter has their first HEAD_BYTES only, and ``headers``, where it has none
            of them.
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
    cut: dict[str, Cut] = {}

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


def shorten(letter: Letter) -> Letter:
    """The letter, or one of its head where it is larger than MAX_LETTER_BYTES."""
    if letter.size_bytes <= MAX_LETTER_BYTES:
        return letter
    short: dict[str, Any] = {}
    cut: dict[str, Cut] = {}
    for name, content in (("key", letter.key), ("value", letter.value)):
        if content is not None and len(content) > HEAD_BYTES:
            short[name], cut[name] = content[:HEAD_BYTES], _describe_cut([content])
    if sum(map(len, _join_headers(letter))) > HEAD_BYTES:
        short["headers"], cut["headers"] = [], _describe_cut(_join_headers(letter))
    return msgspec.structs.replace(letter, **short, cut=cut)


def _join_headers(letter: Letter) -> Iterator[bytes]:
    for name, value in letter.headers:
        yield name.encode()
        yield value or b""


def _describe_cut(parts: Iterable[bytes]) -> Cut:
    n_bytes, hasher = 0, sha256()
    for part in parts:
        n_bytes += len(part)
        hasher.update(part)
    return Cut(n_bytes, hasher.hexdigest())


def write_headers(letter: Letter) -> list[tuple[str, bytes]]:
    """The record's headers, those with a null value as empty ones, and ours after them."""
    headers = [(name, value or b"") for name, value in letter.headers]
    headers.append((ID, letter.id.encode()))
    headers += [(HEADER_PREFIX + name, str(getattr(letter, name)).encode()) for name in FACTS]
    if letter.cut:
        headers.append((CUT, msgspec.json.encode(letter.cut)))
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
    cut: dict[str, Cut] = {}
    try:
        if headers and headers[-1][0] == NULL_HEADERS:
            nulls = {int(place) for place in (headers.pop()[1] or b"").split(b",")}
        if headers and headers[-1][0] == CUT:
            cut = msgspec.json.decode(headers.pop()[1] or b"", type=dict[str, Cut])
        facts = _read_facts(headers[-len(FACTS) :])
        if facts is None:
            return None
        del headers[-len(FACTS) :]
        id = (headers.pop()[1] or b"").decode() if headers and headers[-1][0] == ID else ""
        kept = [(name, None if i in nulls else value) for i, (name, value) in enumerate(headers)]
        return Letter(**facts, key=record.key, value=record.value, headers=kept, id=id, cut=cut)
    except ValueError:  # not our numbers, or not our text
        return None


def _read_facts(headers: list[tuple[str, bytes | None]]) -> dict[str, Any] | None:
    if [name for name, _ in headers] != [HEADER_PREFIX + name for name in FACTS]:
        return None
    facts: dict[str, Any] = {fact: (value or b"").decode() for fact, (_, value) in zip(FACTS, headers, strict=True)}
    return facts | {fact: int(facts[fact]) for fact in ("partition", "offset", "timestamp")}

"""A checkpoint's manifest.json: all but the tensors, and what every file of the checkpoint must be."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec

from flexihash.model.checkpoint.checkpoint_errors import (
    EARLIER_PROGRAM,
    OTHER_PROGRAM,
    CheckpointDamaged,
    CheckpointMismatch,
    Difference,
    raise_read_error,
)
from flexihash.model.config import MAX_PARTITIONS

FORMAT_VERSION = 3  # 1 had the fields of a record in another order, 2 had three experts and no digests
MODEL_FILE = "model.safetensors"
MANIFEST_FILE = "manifest.json"

# Large blocks, because after each one this thread asks for the interpreter lock again, and gets it only after
# the switch interval (5 ms) when the learner's thread is busy.
BLOCK_BYTES = 4 << 20

# The manifest ends with its own SHA-256: _SEAL_OPEN, 64 hex digits, _SEAL_CLOSE. The digest is that of all bytes
# before the digits, and what follows them is fixed, so that a changed byte is found wherever it lies.
_SEAL_OPEN = b',\n  "sha256": "'
_SEAL_CLOSE = b'"\n}\n'
_SEAL_BYTES = 64 + len(_SEAL_CLOSE)

# Any program can seal a manifest. What is read back into a learner is looked at, so that it is refused here by name.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_PARTITION = re.compile(r"[0-9]{1,4}")
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # all that msgspec raises on bad bytes


class FileRecord(msgspec.Struct, frozen=True):
    """What a file of a checkpoint must be."""

    size_bytes: int
    sha256: str
    """64 lower-case hex digits."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of a checkpoint but its tensors; the content of manifest.json but its own SHA-256."""

    format_version: int
    events: Count
    """Learned from so far."""
    created_at: Annotated[datetime, msgspec.Meta(tz=True)]
    """UTC. For people: the order of checkpoints is that of their counters, since clocks can go back."""
    cluster_id: str | None
    """Of the Kafka cluster that the positions belong to; None where there is none (a file)."""
    topic_ids: dict[str, str]
    """Topic name -> Kafka's id of it, which changes when a topic is deleted and created again."""
    positions: dict[str, Count]
    """"topic:partition" -> the next offset to learn from."""
    configuration: dict[str, Any]
    """The settings that the tensors depend on."""
    metrics: dict[str, Any]
    """Progressive metrics at this moment, for people. JSON has no NaN: one becomes null."""
    files: dict[str, FileRecord]
    """Every other file of the checkpoint."""


class _History(msgspec.Struct):
    beginnings: dict[str, Count] = {}
    skipped: dict[str, list[tuple[Count, Count]]] = {}
    learners: dict[str, Count] = {}


class _Metrics(msgspec.Struct):
    """What of the metrics a learner goes on from, and what `verify` compares."""

    rejected: dict[str, Count] = {}
    unlabelled: Count = 0
    poison: list[Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,4}@[0-9]{1,19}$")]] = []
    history: _History = msgspec.field(default_factory=_History)


class _Version(msgspec.Struct):
    format_version: int


def seal(manifest: Manifest) -> bytes:
    """Encode a manifest for people and programs, with its own SHA-256 as the last field."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    content = text.removesuffix(b"\n}") + _SEAL_OPEN
    return content + hashlib.sha256(content).hexdigest().encode() + _SEAL_CLOSE


def read_manifest(path: Path) -> Manifest:
    """The manifest of the checkpoint at `path`, its own bytes checked; its files are not looked at, see `verify`.

    Raises:
        CheckpointDamaged, CheckpointMismatch, CheckpointUnreadable: see `verify`.
    """
    try:
        raw = (path / MANIFEST_FILE).read_bytes()
    except OSError as cause:
        raise_read_error(path, MANIFEST_FILE, cause)
    _check_seal(path, raw)
    try:
        manifest = _decode(path, raw)
        msgspec.convert(manifest.metrics, _Metrics)
    except UNREADABLE as cause:
        raise CheckpointDamaged(path, f"{MANIFEST_FILE} is not a manifest: {cause}") from cause
    if set(manifest.files) != {MODEL_FILE}:
        raise CheckpointDamaged(path, f"{MANIFEST_FILE} names {sorted(manifest.files)} instead of {MODEL_FILE}")
    _check_positions(path, manifest)
    return manifest


def _check_positions(path: Path, manifest: Manifest) -> None:
    for place in manifest.positions:
        partition = place.rpartition(":")[2]
        if not (_PARTITION.fullmatch(partition) and int(partition) < MAX_PARTITIONS):
            reason = f"{MANIFEST_FILE} has a position of {place!r}, not of a topic, a colon and a partition below"
            raise CheckpointDamaged(path, f"{reason} {MAX_PARTITIONS}")


def _check_seal(path: Path, raw: bytes) -> None:
    content, found = raw[:-_SEAL_BYTES], raw[-_SEAL_BYTES:]
    if found != hashlib.sha256(content).hexdigest().encode() + _SEAL_CLOSE:
        raise changed(path, MANIFEST_FILE)


def _decode(path: Path, raw: bytes) -> Manifest:
    """The version first and alone: the other fields are those of this version."""
    version = msgspec.json.decode(raw, type=_Version).format_version
    if version != FORMAT_VERSION:
        advice = EARLIER_PROGRAM if version < FORMAT_VERSION else OTHER_PROGRAM
        raise CheckpointMismatch(path, [Difference("format_version", FORMAT_VERSION, version)], advice)
    return msgspec.json.decode(raw, type=Manifest)


def verify(path: Path) -> Manifest:
    """Read every byte of the checkpoint at `path` and compare it with what was written.

    Raises:
        CheckpointDamaged: a file is missing, or differs in size or content.
        CheckpointMismatch: the checkpoint has another format version.
        CheckpointUnreadable: the system refuses.
    """
    manifest = read_manifest(path)
    check_files(path, manifest)
    return manifest


def check_files(path: Path, manifest: Manifest) -> None:
    """Compare every byte of the files with the manifest; raises as `verify` does."""
    check_sizes(path, manifest)
    for name, record in manifest.files.items():
        check_file(path, name, record)


def check_sizes(path: Path, manifest: Manifest) -> None:
    """Compare the sizes of the files with the manifest, which is quick; raises as `verify` does."""
    for name, record in manifest.files.items():
        try:
            size_bytes = (path / name).stat().st_size
        except OSError as cause:
            raise_read_error(path, name, cause)
        if size_bytes != record.size_bytes:
            raise CheckpointDamaged(path, f"{name} has {size_bytes} bytes instead of {record.size_bytes}")


def check_file(path: Path, name: str, record: FileRecord) -> None:
    """Compare every byte of one file with its record; raises as `verify` does."""
    try:
        found = record_file(path / name)
    except OSError as cause:
        raise_read_error(path, name, cause)
    if found != record:
        raise changed(path, name)


def record_file(file: Path) -> FileRecord:
    """What a file is now: all of it is read.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    size_bytes = 0
    block = memoryview(bytearray(BLOCK_BYTES))
    with file.open("rb", buffering=0) as stream:
        while n_bytes := stream.readinto(block):
            digest.update(block[:n_bytes])
            size_bytes += n_bytes
    return FileRecord(size_bytes, digest.hexdigest())


def changed(path: Path, name: str) -> CheckpointDamaged:
    """The error to raise where a file's bytes are not those that were written."""
    return CheckpointDamaged(path, f"{name} is not what was written: its SHA-256 differs")


def check_configuration(
    path: Path,
    expected: Mapping[str, Any],
    found: Mapping[str, Any],
    advice: str = "choose another checkpoint_dir or set {fields}",
) -> None:
    """Compares what a checkpoint was learned with, field by field.

    Args:
        path: the checkpoint, for the message.
        advice: what to do; `fields`, each with its value in the checkpoint, is put in.

    Raises:
        CheckpointMismatch: fields differ; all of them are told.
    """
    # As JSON sees it, or a tuple in the settings would differ from the list that was read back.
    as_json = msgspec.json.decode(msgspec.json.encode(expected))
    if differences := list(find_differences(as_json, found)):
        fields = " and ".join(f"{one.field} back to {one.found!r}" for one in differences)
        raise CheckpointMismatch(path, differences, advice.format(fields=fields))


def find_differences(expected: Any, found: Any, field: str = "") -> Iterator[Difference]:
    """The fields, in order of names, that differ."""
    if not (isinstance(expected, Mapping) and isinstance(found, Mapping)):
        if expected != found:
            yield Difference(field, expected, found)
        return
    for name in sorted(expected.keys() | found.keys()):
        inner = f"{field}.{name}" if field else name
        if (name in expected) != (name in found):
            yield Difference(inner, expected.get(name), found.get(name))
        else:
            yield from find_differences(expected[name], found[name], inner)

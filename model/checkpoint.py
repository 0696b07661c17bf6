"""Checkpoints: the learner's whole state in one folder that is either complete or not there.

    <directory>/
        <events, 15 digits>-<counter, 6 digits>/     a checkpoint; the highest counter is the newest
            model.safetensors                        every tensor
            manifest.json                            everything else, and the SHA-256 of both files
        <the same>.damaged/                          one that failed its check, set aside on loading
        .saving-<the same>/  .removing-<the same>/   work under way, or left by a killed save

docs/checkpoints.md has the format byte by byte.

CheckpointError                 (a model.model_errors.ModelError)
├── CheckpointDamaged           bytes are missing or are not the ones that were written
├── CheckpointMismatch          sound, but made by another configuration or format version
├── CheckpointUnreadable        the system does not let us read it: permissions, a file in its place
└── CheckpointWriteError        it could not be saved, removed or set aside: full disk, permissions
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from flexihash.model.model_errors import ConfigurationError, ModelError

FORMAT_VERSION = 2  # 1 had the fields of a record in another order
MODEL_FILE = "model.safetensors"
MANIFEST_FILE = "manifest.json"

STEPS = (
    "prepare",
    "write_tensors",
    "sync_tensors",
    "write_manifest",
    "sync_folder",
    "rename",
    "sync_directory",
    "hide_old",
    "remove_hidden",
)
"""The steps of a save, in order; `CheckpointStore.save` says what each does."""

_NAME = re.compile(r"\d{15,}-(\d{6,})")
_DAMAGED = ".damaged"
_SAVING = ".saving-"
_REMOVING = ".removing-"

# Large blocks, because after each one this thread asks for the interpreter lock again, and gets it only after
# the switch interval (5 ms) when the learner's thread is busy.
_BLOCK_BYTES = 4 << 20

# safetensors' own limit; ours takes 2 KiB.
_MAX_HEADER_BYTES = 100_000_000
_DTYPES = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64}  # all that a model remembers is of these

# The manifest ends with its own SHA-256: _SEAL_OPEN, 64 hex digits, _SEAL_CLOSE. The digest is that of all bytes
# before the digits, and what follows them is fixed, so that a changed byte is found wherever it lies.
_SEAL_OPEN = b',\n  "sha256": "'
_SEAL_CLOSE = b'"\n}\n'
_SEAL_BYTES = 64 + len(_SEAL_CLOSE)

# An errno that says that what was written is not there any more. Any other (no permission, too many open files, a
# network file system that is away) says nothing about the checkpoint, so it must not be set aside for it.
_DAMAGE_ERRNOS = (errno.ENOENT, errno.EISDIR, errno.EIO)

_logger = logging.getLogger(__name__)


class CheckpointError(ModelError):
    """Root of everything that can go wrong with a checkpoint."""


class CheckpointDamaged(CheckpointError):
    """A checkpoint's bytes are missing or are not the ones that were written.

    Args:
        path: the checkpoint's folder, or the folder of checkpoints where none of them is sound.
        reason: what was found, without the path.
        advice: what an operator can do.
    """

    def __init__(self, path: Path, reason: str, advice: str = "use another checkpoint") -> None:
        super().__init__(f"{path} is damaged: {reason}; {advice}")
        self.path = path
        self.reason = reason


class CheckpointMismatch(CheckpointError):
    """A sound checkpoint that this program, with these settings, must not go on from.

    Args:
        path: the checkpoint's folder.
        field: what differs; dots lead into nested settings.
        expected: the value that the settings (or this program) ask for; None where they have no such field.
        found: the value in the checkpoint; None where it has no such field.
        advice: what an operator can do.
    """

    def __init__(self, path: Path, field: str, expected: object, found: object, advice: str) -> None:
        super().__init__(f"{path} has {field} = {found!r}, but {expected!r} is asked for: {advice}")
        self.path = path
        self.field = field
        self.expected = expected
        self.found = found


class CheckpointUnreadable(CheckpointError):
    """The system does not let us read a checkpoint. It may be sound, so it stays where it is."""

    def __init__(self, path: Path, cause: OSError) -> None:
        super().__init__(
            f"cannot read {path}: {_describe(cause.errno) or cause}; "
            f"make it readable for user {os.geteuid()} or choose another checkpoint_dir"
        )
        self.path = path
        self.errno = cause.errno


class CheckpointWriteError(CheckpointError):
    """A checkpoint could not be saved, removed or set aside. Those saved before are untouched."""

    def __init__(self, path: Path, cause: OSError | SafetensorError) -> None:
        self.path = path
        self.errno = _errno(cause)
        if self.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "free some space there or lower checkpoint_keep"
        elif self.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = f"make it writable for user {os.geteuid()} or choose another checkpoint_dir"
        else:
            advice = "check that disk and path, or choose another checkpoint_dir"
        super().__init__(f"cannot write {path}: {_describe(self.errno) or cause}; {advice}")


class FileRecord(msgspec.Struct, frozen=True):
    """What a file of a checkpoint must be."""

    size_bytes: int
    sha256: str
    """64 lower-case hex digits."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of a checkpoint but its tensors; the content of manifest.json but its own SHA-256."""

    format_version: int
    events: int
    """Learned from so far."""
    created_at: datetime
    """UTC. For people: the order of checkpoints is that of their counters, since clocks can go back."""
    cluster_id: str | None
    """Of the Kafka cluster that the positions belong to; None where there is none (a file)."""
    topic_ids: dict[str, str]
    """Topic name -> Kafka's id of it, which changes when a topic is deleted and created again."""
    positions: dict[str, int]
    """"topic:partition" -> the next offset to learn from."""
    configuration: dict[str, Any]
    """The settings that the tensors depend on."""
    metrics: dict[str, Any]
    """Progressive metrics at this moment, for people. JSON has no NaN: one becomes null."""
    files: dict[str, FileRecord]
    """Every other file of the checkpoint."""


class CheckpointInfo(msgspec.Struct, frozen=True):
    """One line in a list of checkpoints."""

    path: Path
    manifest: Manifest | None
    """None where it cannot be trusted; `problem` says why."""
    problem: str | None

    @property
    def size_bytes(self) -> int | None:
        """Of all files but the manifest; None where the manifest cannot be trusted."""
        return None if self.manifest is None else sum(file.size_bytes for file in self.manifest.files.values())


class SetAside(msgspec.Struct, frozen=True):
    """A damaged checkpoint that was renamed."""

    path: Path
    """Where it lies now."""
    reason: str


class Loaded(msgspec.Struct, frozen=True):
    """What `CheckpointStore.load_newest` found."""

    path: Path
    manifest: Manifest
    tensors: dict[str, torch.Tensor]
    set_aside: list[SetAside]
    """Newer ones that were damaged, newest first."""


def verify(path: Path) -> Manifest:
    """Read every byte of the checkpoint at `path` and compare it with what was written.

    Raises:
        CheckpointDamaged: a file is missing, or differs in size or content.
        CheckpointMismatch: the checkpoint has another format version.
        CheckpointUnreadable: the system refuses.
    """
    manifest = read_manifest(path)
    _check_files(path, manifest)
    return manifest


def read(path: Path, into: Mapping[str, torch.Tensor] | None = None) -> tuple[dict[str, torch.Tensor], Manifest]:
    """Verify the checkpoint at `path` and read its tensors.

    Args:
        into: contiguous CPU tensors to fill; their names, shapes and dtypes must be the checkpoint's. Each block is
            hashed where it will stay, so CheckpointDamaged leaves damaged values in them: fill them anew, or drop them.

    Returns:
        The tensors (those of `into` where given; else private copy-on-write maps of the file), and the manifest.

    Raises:
        CheckpointMismatch: also where `into` has other names, shapes or dtypes; nothing was written then.
        CheckpointDamaged, CheckpointUnreadable: see `verify`.
    """
    manifest = read_manifest(path)
    _check_sizes(path, manifest)
    file = path / MODEL_FILE
    try:
        if into is not None:
            _fill(path, manifest.files[MODEL_FILE], into)
            return dict(into), manifest
        _check_files(path, manifest)
        return load_file(file), manifest
    except OSError as cause:
        _raise_read_error(path, MODEL_FILE, cause)
    except SafetensorError as cause:
        raise CheckpointDamaged(path, f"{MODEL_FILE} is not a safetensors file: {cause}") from cause


class CheckpointStore:
    """The checkpoints of one learner in one folder.

    Args:
        directory: where they lie; made by the first save.
        keep: how many of the newest stay, at least 1.
        on_step: called with each of `STEPS` as that step begins, so that a test can crash between any two.

    Raises:
        ConfigurationError: `keep` is less than 1.
    """

    def __init__(self, directory: Path, keep: int, on_step: Callable[[str], None] = lambda step: None) -> None:
        if keep < 1:
            raise ConfigurationError(f"checkpoint_keep = {keep}: at least 1 checkpoint must stay")
        self.directory = directory
        self.keep = keep
        self._on_step = on_step
        self._one_save = threading.Lock()

    def save(
        self,
        tensors: Mapping[str, torch.Tensor],
        *,
        events: int,
        positions: Mapping[str, int],
        configuration: Mapping[str, Any],
        metrics: Mapping[str, Any],
        cluster_id: str | None = None,
        topic_ids: Mapping[str, str] | None = None,
    ) -> CheckpointInfo:
        """Save a checkpoint; when this returns, it survives a power cut.

        1. `prepare`: make the directory, remove what a killed save left, make a hidden folder.
        2. `write_tensors`: write model.safetensors in it.
        3. `sync_tensors`: force it to the disk; take its SHA-256.
        4. `write_manifest`: write manifest.json and force it to the disk.
        5. `sync_folder`: force the hidden folder's entries to the disk.
        6. `rename`: give the folder its name. From here a restart finds it.
        7. `sync_directory`: force the name to the disk. From here a power cut cannot undo it.
        8. `hide_old`: rename those beyond `keep`, so that one half removed is never taken for damaged.
        9. `remove_hidden`: remove them.

        A crash at any point leaves the checkpoints before it loadable. Meant for a thread beside the learner's: writing
        and hashing release the interpreter lock. Calls wait for one another. Nobody may change the tensors meanwhile.

        Args:
            tensors: contiguous CPU tensors, no two in the same storage.
            events, positions, configuration, metrics, cluster_id, topic_ids: see `Manifest`.

        Raises:
            CheckpointWriteError: a file operation failed. What was half written is removed. Only where step 7, 8 or 9
                failed the new checkpoint is there all the same, and saving again is harmless.
        """
        with self._one_save:
            try:
                self._on_step("prepare")  # 1
                _make_directory(self.directory)
                self._remove_hidden()
                name = f"{events:015d}-{self._last_counter() + 1:06d}"
                folder = self.directory / f"{_SAVING}{name}"
                folder.mkdir()

                self._on_step("write_tensors")  # 2
                save_file(dict(tensors), folder / MODEL_FILE)

                self._on_step("sync_tensors")  # 3
                sync(folder / MODEL_FILE)
                record = FileRecord((folder / MODEL_FILE).stat().st_size, _digest(folder / MODEL_FILE))

                self._on_step("write_manifest")  # 4
                manifest = Manifest(
                    format_version=FORMAT_VERSION,
                    events=events,
                    created_at=datetime.now(UTC),
                    cluster_id=cluster_id,
                    topic_ids=dict(topic_ids or {}),
                    positions=dict(positions),
                    configuration=dict(configuration),
                    metrics=dict(metrics),
                    files={MODEL_FILE: record},
                )
                (folder / MANIFEST_FILE).write_bytes(_seal(manifest))
                sync(folder / MANIFEST_FILE)

                self._on_step("sync_folder")  # 5
                sync(folder)

                self._on_step("rename")  # 6
                path = folder.rename(self.directory / name)

                self._on_step("sync_directory")  # 7
                sync(self.directory)

                self._on_step("hide_old")  # 8
                for old in self._paths()[self.keep :]:
                    old.rename(self.directory / f"{_REMOVING}{old.name}")

                self._on_step("remove_hidden")  # 9
                self._remove_hidden()
            except (OSError, SafetensorError) as cause:
                self._abandon()
                raise CheckpointWriteError(self.directory, cause) from cause
        return CheckpointInfo(path, manifest, None)

    def list(self) -> Sequence[CheckpointInfo]:
        """Describe every checkpoint, newest first, those set aside among them.

        Cheap: only manifests are read, and files' sizes; a flipped bit in a tensor takes `verify`.

        Raises:
            CheckpointUnreadable: the directory cannot be read. An absent one has no checkpoints.
        """
        found = [self._describe(path) for path in self._paths(damaged=True)]
        return [info for info in found if info is not None]

    def load_newest(
        self, expected_configuration: Mapping[str, Any], into: Mapping[str, torch.Tensor] | None = None
    ) -> Loaded | None:
        """Read the newest sound checkpoint.

        A damaged one is renamed to <name>.damaged, logged, named in the result, and the one before it is tried. A sound
        one that does not fit is refused: going back to an older one, or starting afresh, would be a silent jump.

        Args:
            expected_configuration: compared with the checkpoint's, as JSON sees both.
            into: tensors to fill, see `read`; where this raises, what they hold is of no use.

        Returns:
            None where the directory is absent or has no checkpoints, damaged ones included.

        Raises:
            CheckpointMismatch: the newest sound one has another configuration, format version or other tensors.
            CheckpointDamaged: there are checkpoints, and none is sound, now or since an earlier call set them aside.
            CheckpointUnreadable: the system refuses to read.
            CheckpointWriteError: a damaged one could not be renamed.
        """
        set_aside: list[SetAside] = []
        for path in self._paths():
            try:
                check_configuration(path, expected_configuration, read_manifest(path).configuration)
                tensors, manifest = read(path, into)
            except CheckpointDamaged as damage:
                set_aside.append(self._set_aside(path, damage.reason))
                continue
            return Loaded(path, manifest, tensors, set_aside)
        if damaged := self._paths(damaged=True):
            raise CheckpointDamaged(
                self.directory,
                f"none of its {len(damaged)} checkpoints is sound"
                + "".join(f"; {one.path.name}: {one.reason}" for one in set_aside),
                "put a sound copy of one there, or move all *.damaged away to start afresh",
            )
        return None

    def _paths(self, *, damaged: bool = False) -> Sequence[Path]:
        """Folders named as checkpoints, newest first; those set aside only where `damaged`."""
        try:
            entries = [Path(entry.path) for entry in os.scandir(self.directory) if entry.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as cause:
            raise CheckpointUnreadable(self.directory, cause) from cause
        paths = [path for path in entries if _counter(path) and (damaged or not path.name.endswith(_DAMAGED))]
        return sorted(paths, key=_counter, reverse=True)

    def _last_counter(self) -> int:
        return max(map(_counter, self._paths(damaged=True)), default=0)

    def _describe(self, path: Path) -> CheckpointInfo | None:
        """One line of the list; None where a save removed it meanwhile."""
        if path.name.endswith(_DAMAGED):
            return CheckpointInfo(path, None, "set aside as damaged")
        try:
            manifest = read_manifest(path)
            _check_sizes(path, manifest)
        except CheckpointError as error:
            return CheckpointInfo(path, None, str(error)) if path.exists() else None
        return CheckpointInfo(path, manifest, None)

    def _set_aside(self, path: Path, reason: str) -> SetAside:
        try:
            aside = path.rename(path.with_name(path.name + _DAMAGED))
            sync(self.directory)
        except OSError as cause:
            raise CheckpointWriteError(path, cause) from cause
        _logger.error("checkpoint %s is damaged: %s; set aside as %s, trying the one before", path, reason, aside.name)
        return SetAside(aside, reason)

    def _hidden(self) -> Iterator[Path]:
        return (path for path in self.directory.iterdir() if path.name.startswith((_SAVING, _REMOVING)))

    def _remove_hidden(self) -> None:
        for path in self._hidden():
            shutil.rmtree(path)

    def _abandon(self) -> None:
        """Remove what a failed save left, so that a full disk does not stay full; the next save tries again."""
        with contextlib.suppress(OSError):
            self._remove_hidden()


def _counter(path: Path) -> int:
    """The counter in a checkpoint's name; 0 where the name is not one."""
    match = _NAME.fullmatch(path.name.removesuffix(_DAMAGED))
    return int(match[1]) if match else 0


def _seal(manifest: Manifest) -> bytes:
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
        _raise_read_error(path, MANIFEST_FILE, cause)
    content, seal = raw[:-_SEAL_BYTES], raw[-_SEAL_BYTES:]
    if seal != hashlib.sha256(content).hexdigest().encode() + _SEAL_CLOSE:
        raise CheckpointDamaged(path, f"{MANIFEST_FILE} is not what was written: its SHA-256 differs")
    try:
        # The version first and alone: the other fields are those of this version.
        version = msgspec.json.decode(raw, type=_Version).format_version
        if version != FORMAT_VERSION:
            raise CheckpointMismatch(
                path,
                "format_version",
                FORMAT_VERSION,
                version,
                "run the version of this program that wrote it, or choose another checkpoint_dir",
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.DecodeError as cause:
        raise CheckpointDamaged(path, f"{MANIFEST_FILE} is not a manifest: {cause}") from cause
    if set(manifest.files) != {MODEL_FILE}:
        raise CheckpointDamaged(path, f"{MANIFEST_FILE} names {sorted(manifest.files)} instead of {MODEL_FILE}")
    return manifest


class _Version(msgspec.Struct):
    format_version: int


def _check_sizes(path: Path, manifest: Manifest) -> None:
    for name, record in manifest.files.items():
        try:
            size_bytes = (path / name).stat().st_size
        except OSError as cause:
            _raise_read_error(path, name, cause)
        if size_bytes != record.size_bytes:
            raise CheckpointDamaged(path, f"{name} has {size_bytes} bytes instead of {record.size_bytes}")


def _check_files(path: Path, manifest: Manifest) -> None:
    _check_sizes(path, manifest)
    for name, record in manifest.files.items():
        _check_file(path, name, record)


def _check_file(path: Path, name: str, record: FileRecord) -> None:
    try:
        digest = _digest(path / name)
    except OSError as cause:
        _raise_read_error(path, name, cause)
    if digest != record.sha256:
        raise CheckpointDamaged(path, f"{name} is not what was written: its SHA-256 differs")


def check_configuration(
    path: Path,
    expected: Mapping[str, Any],
    found: Mapping[str, Any],
    advice: str = "choose another checkpoint_dir or set {field} back to {there!r}",
) -> None:
    """Compares what a checkpoint was learned with, field by field.

    Args:
        path: the checkpoint, for the message.
        advice: what to do; `field` and `there`, its value in the checkpoint, are put in.

    Raises:
        CheckpointMismatch: a field differs; the first in order of names is told.
    """
    # As JSON sees it, or a tuple in the settings would differ from the list that was read back.
    as_json = msgspec.json.decode(msgspec.json.encode(expected))
    if difference := _first_difference(as_json, found):
        field, wanted, there = difference
        raise CheckpointMismatch(path, field, wanted, there, advice.format(field=field, there=there))


def _first_difference(expected: Any, found: Any, field: str = "") -> tuple[str, Any, Any] | None:
    """The first field, in order of names, that differs: its dotted name and both values."""
    if not (isinstance(expected, Mapping) and isinstance(found, Mapping)):
        return None if expected == found else (field, expected, found)
    for name in sorted(expected.keys() | found.keys()):
        inner = f"{field}.{name}" if field else name
        if (name in expected) != (name in found):
            return inner, expected.get(name), found.get(name)
        if difference := _first_difference(expected[name], found[name], inner):
            return difference
    return None


def _fill(path: Path, record: FileRecord, into: Mapping[str, torch.Tensor]) -> None:
    """Reads the tensors into `into`, and hashes them there: every byte once, and the bytes that will be used.

    One thread reads ahead of the one that hashes; both work outside of the interpreter lock.
    """
    with (path / MODEL_FILE).open("rb", buffering=0) as stream:
        head, entries = _read_header(stream)
        difference = _first_difference(_layout(into), {name: entry.layout for name, entry in entries.items()})
        if difference:
            _check_file(path, MODEL_FILE, record)  # a damaged header describes anything
            raise _tensor_mismatch(path, *difference)
        in_order = sorted(entries, key=lambda name: entries[name].data_offsets)
        blocks = [block for name in in_order for block in _blocks(into[name])]

        def read_block(block: memoryview) -> int:
            return _read_fully(stream, block)

        digest = hashlib.sha256(head)
        n_bytes = len(head)
        with ThreadPoolExecutor(1, thread_name_prefix="restore") as reader:
            for block, n_read in zip(blocks, reader.map(read_block, blocks), strict=True):
                digest.update(block[:n_read])
                n_bytes += n_read
    if n_bytes != record.size_bytes or digest.hexdigest() != record.sha256:
        raise CheckpointDamaged(path, f"{MODEL_FILE} is not what was written: its SHA-256 differs")


class _Entry(msgspec.Struct):
    """What the head of a safetensors file says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]

    @property
    def layout(self) -> str:
        return f"{self.shape} {_DTYPES.get(self.dtype, self.dtype)}"


def _read_header(stream: io.RawIOBase) -> tuple[bytes, dict[str, _Entry]]:
    """The head's bytes, and what they say; nothing where they say nothing."""
    length = stream.read(8) or b""
    head = length + (stream.read(min(int.from_bytes(length, "little"), _MAX_HEADER_BYTES)) or b"")
    try:
        entries = msgspec.json.decode(head[8:], type=dict[str, _Entry])
    except msgspec.DecodeError:
        entries = {}
    return head, entries


def _blocks(tensor: torch.Tensor) -> Iterator[memoryview]:
    """The tensor's memory, piece by piece."""
    content = tensor.view(-1).view(torch.uint8).numpy().data
    return (content[begin : begin + _BLOCK_BYTES] for begin in range(0, len(content), _BLOCK_BYTES))


def _read_fully(stream: io.RawIOBase, block: memoryview) -> int:
    """Fills `block`; returns how many bytes there were, fewer at the end of the file only."""
    n_bytes = 0
    while n_bytes < len(block) and (n_read := stream.readinto(block[n_bytes:])):
        n_bytes += n_read
    return n_bytes


def _tensor_mismatch(path: Path, name: str, wanted: object, found: object) -> CheckpointMismatch:
    advice = "run the version of this program that wrote it, or choose another checkpoint_dir"
    return CheckpointMismatch(path, f"tensor {name}", wanted, found, advice)


def _layout(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {name: f"{tuple(tensor.shape)} {tensor.dtype}" for name, tensor in tensors.items()}


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK_BYTES))
    with file.open("rb", buffering=0) as stream:
        while n_bytes := stream.readinto(block):
            digest.update(block[:n_bytes])
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_directory(directory: Path) -> None:
    """Make a folder and those above it, so that they survive a power cut too."""
    if not directory.is_dir():
        _make_directory(directory.parent)
        directory.mkdir()
        sync(directory.parent)


def _raise_read_error(path: Path, name: str, cause: OSError) -> NoReturn:
    if cause.errno not in _DAMAGE_ERRNOS:
        raise CheckpointUnreadable(path / name, cause) from cause
    reason = f"{name} is missing" if cause.errno == errno.ENOENT else f"{name}: {_describe(cause.errno)}"
    raise CheckpointDamaged(path, reason) from cause


def _errno(cause: OSError | SafetensorError) -> int | None:
    """safetensors reports a failed write in words only, such as "No space left on device (os error 28)"."""
    if isinstance(cause, OSError):
        return cause.errno
    match = re.search(r"\(os error (\d+)\)", str(cause))
    return int(match[1]) if match else None


def _describe(number: int | None) -> str:
    """Such as "No space left on device (errno 28, ENOSPC)"; empty where the number is not known."""
    return "" if number is None else f"{os.strerror(number)} (errno {number}, {errno.errorcode.get(number)})"

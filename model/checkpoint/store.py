"""The checkpoints of one learner: saved so that each is complete or not there, listed, and the newest one found."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from flexihash.model import durable
from flexihash.model.checkpoint.checkpoint_errors import (
    CheckpointDamaged,
    CheckpointError,
    CheckpointUnreadable,
    CheckpointWriteError,
)
from flexihash.model.checkpoint.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    MODEL_FILE,
    FileRecord,
    Manifest,
    check_configuration,
    check_sizes,
    read_manifest,
    record_file,
    seal,
)
from flexihash.model.checkpoint.retention import Retention
from flexihash.model.checkpoint.tensors import read
from flexihash.model.model_errors import ConfigurationError

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

_NAME = re.compile(r"\d{15,}-(\d{6,})((\.\d+)?\.damaged)?")
_DAMAGED = ".damaged"
_SAVING = ".saving-"
_REMOVING = ".removing-"

_logger = logging.getLogger(__name__)


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


class CheckpointStore:
    """The checkpoints of one learner in one folder.

    Args:
        directory: where they lie; made by the first save.
        keep: how many of the newest stay, at least 1; or which others too.
        on_step: called with each of `STEPS` as that step begins, so that a test can crash between any two.

    Raises:
        ConfigurationError: `keep` is less than 1.
    """

    def __init__(
        self, directory: Path, keep: int | Retention, on_step: Callable[[str], None] = lambda step: None
    ) -> None:
        self.directory = directory
        self.keep = keep if isinstance(keep, Retention) else Retention(keep)
        if self.keep.newest < 1:
            raise ConfigurationError(f"checkpoint_keep = {self.keep.newest}: at least 1 checkpoint must stay")
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
        8. `hide_old`: rename those that are kept no longer, so that one half removed is never taken for damaged.
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
        with self._one_save, self._cleaning_up():
            folder = self._prepare(events)
            record = self._write_tensors(folder, tensors)
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
            self._write_manifest(folder, manifest)
            path = self._publish(folder)
            self._remove_old()
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

        A damaged one is renamed to <name>.damaged, or <name>.2.damaged where there is one already, and so on; it is
        logged, named in the result, and the one before it is tried. A sound one that does not fit is refused: going
        back to an older one, or starting afresh, would be a silent jump.

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
            else:
                return Loaded(path, manifest, tensors, set_aside)
        self._check_none_is_damaged(set_aside)
        return None

    # --- the steps of a save -----------------------------------------------------------------------------------------

    def _prepare(self, events: int) -> Path:
        """The hidden folder of a new checkpoint."""
        self._on_step("prepare")  # 1
        durable.make_folder(self.directory)
        self._remove_hidden()
        folder = self.directory / f"{_SAVING}{events:015d}-{self._last_counter() + 1:06d}"
        folder.mkdir()
        return folder

    def _write_tensors(self, folder: Path, tensors: Mapping[str, torch.Tensor]) -> FileRecord:
        file = folder / MODEL_FILE
        self._on_step("write_tensors")  # 2
        save_file(dict(tensors), file)

        self._on_step("sync_tensors")  # 3
        durable.sync(file)
        return record_file(file)

    def _write_manifest(self, folder: Path, manifest: Manifest) -> None:
        self._on_step("write_manifest")  # 4
        durable.write(folder / MANIFEST_FILE, seal(manifest))

        self._on_step("sync_folder")  # 5
        durable.sync(folder)

    def _publish(self, folder: Path) -> Path:
        self._on_step("rename")  # 6
        path = folder.rename(folder.with_name(folder.name.removeprefix(_SAVING)))

        self._on_step("sync_directory")  # 7
        durable.sync(self.directory)
        return path

    def _remove_old(self) -> None:
        self._on_step("hide_old")  # 8
        paths = self._paths()
        kept = self.keep.choose(paths)
        for old in (path for path in paths if path not in kept):
            old.rename(self.directory / f"{_REMOVING}{old.name}")

        self._on_step("remove_hidden")  # 9
        self._remove_hidden()

    @contextlib.contextmanager
    def _cleaning_up(self) -> Iterator[None]:
        """Where a save fails, removes what it left, so that a full disk does not stay full; the next one tries again.

        Raises:
            CheckpointWriteError: a file operation failed.
        """
        try:
            yield
        except (OSError, SafetensorError) as cause:
            with contextlib.suppress(OSError):
                self._remove_hidden()
            raise CheckpointWriteError(self.directory, cause) from cause

    # --- the folders -------------------------------------------------------------------------------------------------

    def _paths(self, *, damaged: bool = False) -> Sequence[Path]:
        """Folders named as checkpoints, newest first; those set aside only where `damaged`."""
        try:
            paths = [path for path in self._named() if path.is_dir()]
        except OSError as cause:
            raise CheckpointUnreadable(self.directory, cause) from cause
        return [path for path in paths if damaged or not path.name.endswith(_DAMAGED)]

    def _named(self) -> Sequence[Path]:
        """All that is named as a checkpoint or as one set aside, the highest counter first, whatever it is."""
        if not self.directory.exists():
            return []
        return sorted(filter(_counter, self.directory.iterdir()), key=_counter, reverse=True)

    def _last_counter(self) -> int:
        return max(map(_counter, self._named()), default=0)

    def _describe(self, path: Path) -> CheckpointInfo | None:
        """One line of the list; None where a save removed it meanwhile."""
        if path.name.endswith(_DAMAGED):
            return CheckpointInfo(path, None, "set aside as damaged")
        try:
            manifest = read_manifest(path)
            check_sizes(path, manifest)
        except CheckpointError as error:
            return CheckpointInfo(path, None, str(error)) if path.exists() else None
        return CheckpointInfo(path, manifest, None)

    def _set_aside(self, path: Path, reason: str) -> SetAside:
        names = chain([_DAMAGED], (f".{number}{_DAMAGED}" for number in count(2)))
        folders = (path.with_name(path.name + name) for name in names)
        aside = next(folder for folder in folders if folder.is_symlink() or not folder.is_dir())
        try:
            aside.unlink(missing_ok=True)
            path.rename(aside)
            durable.sync(self.directory)
        except OSError as cause:
            raise CheckpointWriteError(path, cause) from cause
        _logger.error("checkpoint %s is damaged: %s; set aside as %s, trying the one before", path, reason, aside.name)
        return SetAside(aside, reason)

    def _check_none_is_damaged(self, set_aside: Sequence[SetAside]) -> None:
        """Keeps a learner from starting afresh where there was something to go on from."""
        damaged = self._paths(damaged=True)
        if damaged:
            reasons = "".join(f"; {one.path.name}: {one.reason}" for one in set_aside)
            raise CheckpointDamaged(
                self.directory,
                f"none of its {len(damaged)} checkpoints is sound{reasons}",
                "put a sound copy of one there, or move all *.damaged away to start afresh",
            )

    def _remove_hidden(self) -> None:
        for path in self.directory.iterdir():
            if path.name.startswith((_SAVING, _REMOVING)):
                _remove(path)


def _remove(path: Path) -> None:
    """Removes a folder with all that is in it, or anything else by its name: what a link leads to is not ours."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _counter(path: Path) -> int:
    """The counter in a checkpoint's name; 0 where the name is not one."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else 0

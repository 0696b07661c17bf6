"""A checkpoint opened to be read from: its model, and how it takes events and instances."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.wire import EventFormat
from flexihash.model.checkpoint.manifest import MANIFEST_FILE, Manifest, read_manifest
from flexihash.model.checkpoint.store import CheckpointStore
from flexihash.model.checkpoint.tensors import read
from flexihash.model.online import OnlineModel
from flexihash.model.tables import Tables
from flexihash.service.service_errors import SettingsError
from flexihash.service.settings import load_settings


class LearnedModel(NamedTuple):
    """A model as a checkpoint holds it, in memory of its own; `format` says how its events are read."""

    path: Path
    manifest: Manifest
    model: OnlineModel
    format: EventFormat

    def make_decoder(self, format: EventFormat) -> EventDecoder:
        """What reads events that are written so, labelled or not."""
        config = self.model.config
        return EventDecoder(format, config.task, config.n_rows, needs_label=False)


def open_checkpoint(path: Path, features_field: str | None = None) -> LearnedModel:
    """Reads a checkpoint, every byte of it verified, or the newest one in a folder of them. Nothing is written.

    Args:
        features_field: the field of an event that holds the features, where it is not that of the checkpoint.

    Raises:
        SettingsError: there is no checkpoint.
        CheckpointError: it is damaged, of another version of this program, or cannot be read.
    """
    path = _find(path)
    configuration = read_manifest(path).configuration
    if features_field is not None:
        configuration = {**configuration, "features_field": features_field, "envelope": ""}
    settings = load_settings(**configuration)
    tables = Tables.allocate(settings.model)
    _, manifest = read(path, tables.tensors)
    return LearnedModel(path, manifest, OnlineModel(tables), settings.event_format)


def _find(path: Path) -> Path:
    if not path.is_dir():
        raise SettingsError(f"{path}: there is no such folder; a checkpoint is a folder in checkpoint_dir")
    if (path / MANIFEST_FILE).exists():
        return path
    for info in CheckpointStore(path, keep=1).list():
        if info.problem is None:
            return info.path
    raise SettingsError(f"{path}: no checkpoint in this folder can be used; `flexihash inspect {path}` says why")

"""Checkpoints by age: beside the newest, one of each hour of a day and one of each day of a week."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import torch

from flexihash.model.checkpoint.manifest import MANIFEST_FILE, read_manifest, seal
from flexihash.model.checkpoint.retention import Retention
from flexihash.model.checkpoint.store import CheckpointStore

BEGIN = datetime(2026, 11, 1, 0, 3, tzinfo=UTC)


def save(store: CheckpointStore, events: int, at: datetime) -> Path:
    """A checkpoint that says that it was made then."""
    info = store.save({"x": torch.zeros(1)}, events=events, positions={}, configuration={}, metrics={})
    manifest = msgspec.structs.replace(read_manifest(info.path), created_at=at)
    (info.path / MANIFEST_FILE).write_bytes(seal(manifest))
    return info.path


def times(store: CheckpointStore) -> list[datetime]:
    return [info.manifest.created_at for info in store.list() if info.manifest is not None]


def test_one_an_hour_for_a_day_and_one_a_day_for_a_week(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, Retention(3, hourly=24, daily=7))
    every = timedelta(minutes=20)
    made = [BEGIN + every * number for number in range(9 * 72)]  # nine days
    for number, at in enumerate(made):
        save(store, number, at)
    store.save({"x": torch.zeros(1)}, events=9**9, positions={}, configuration={}, metrics={})  # prunes what came last
    found = sorted(times(store))[:-1]  # without that one, which is of today
    last = made[-1]  # 23:43 of the ninth day
    assert found[-2:] == [last - every, last]
    hourly = [at for at in found if at > last - timedelta(hours=23) and at.minute == 43]
    assert hourly == [last - timedelta(hours=n) for n in reversed(range(23))]  # today's hour is the 24th
    daily = [at for at in found if at.hour == 23 and at.minute == 43]
    assert daily == [last - timedelta(days=n) for n in reversed(range(6))]  # today is the seventh
    assert len(found) == 2 + 23 + 6 - 1 - 1  # the last is of all kinds


def test_the_number_alone_keeps_the_newest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, 2)
    for number in range(5):
        save(store, number, BEGIN + timedelta(days=number))
    assert [info.manifest.events for info in store.list() if info.manifest] == [4, 3]


def test_a_checkpoint_without_a_manifest_has_no_age(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, Retention(1, hourly=9))
    broken = save(store, 1, BEGIN)
    (broken / MANIFEST_FILE).write_bytes(b"{}")
    kept = save(store, 2, BEGIN + timedelta(hours=1))
    newest = save(store, 3, BEGIN + timedelta(hours=2))
    assert [info.path for info in store.list()] == [newest, kept]


def test_a_clock_that_goes_back_costs_no_newer_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, Retention(2, hourly=3))
    ahead = save(store, 1, BEGIN + timedelta(days=400))
    others = [save(store, number, BEGIN + timedelta(minutes=number)) for number in range(2, 6)]
    newest = save(store, 9, BEGIN)
    assert [info.path for info in store.list()] == [newest, others[-1], ahead]

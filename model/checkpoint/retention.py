"""Which checkpoints stay: the newest, and by age one of each hour and one of each day."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from flexihash.model.checkpoint.checkpoint_errors import CheckpointError
from flexihash.model.checkpoint.manifest import read_manifest


class Retention(msgspec.Struct, frozen=True):
    """How many checkpoints stay.

    Args:
        newest: of all, at least 1.
        hourly: beside these, the newest of each of so many hours; of the last in which one was saved.
        daily: the same with days. Both are counted in UTC.
    """

    newest: int
    hourly: int = 0
    daily: int = 0

    def choose(self, paths: Sequence[Path]) -> set[Path]:
        """Those of the checkpoints, newest first, that stay. One whose manifest cannot be read has no age."""
        kept = set(paths[: self.newest])
        if self.hourly or self.daily:
            times = [(path, time) for path in paths if (time := _read_time(path))]
            kept |= _newest_of_each(times, self.hourly, lambda time: (time.date(), time.hour))
            kept |= _newest_of_each(times, self.daily, lambda time: time.date())
        return kept


def _newest_of_each(
    times: Sequence[tuple[Path, datetime]], n_spans: int, find_span: Callable[[datetime], object]
) -> set[Path]:
    newest: dict[object, Path] = {}
    for path, time in times:
        newest.setdefault(find_span(time), path)
    return set(list(newest.values())[:n_spans])


def _read_time(path: Path) -> datetime | None:
    try:
        return read_manifest(path).created_at
    except CheckpointError:
        return None

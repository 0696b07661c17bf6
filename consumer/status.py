"""What the learner tells everybody else: one small file, replaced atomically a few times a second."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import msgspec

from flexihash.model import durable

STATUS_FILE = "status.json"
STATUS_MODE = 0o600
UNLABELLED = "unlabelled"  # beside the reasons for which records are rejected
CHECKPOINT_REQUEST = "checkpoint.request"  # a file beside it: the learner saves when it sees it, and removes it first
STALE_AFTER_S = 5.0  # a learner that has not written for so long is taken for dead or stuck

State = Literal[
    "starting",
    "restoring",
    "connecting",
    "learning",
    "pausing",
    "cooling",
    "blocked",
    "fenced",
    "stopping",
    "stopped",
    "failed",
]


class CheckpointStatus(msgspec.Struct, kw_only=True):
    """The newest checkpoint, and what became of the last attempt to save one."""

    path: str | None = None
    events: int = 0
    saved_at: float | None = None  # Unix time of the attempt's start, so that a waiter can compare with its request
    duration_s: float | None = None
    pause_s: float | None = None
    size_bytes: int | None = None
    error: str | None = None
    failed_at: float | None = None
    set_aside: list[str] = []

    @property
    def has_failed(self) -> bool:
        """Whether the last attempt to save failed."""
        return self.failed_at is not None and self.failed_at > (self.saved_at or 0.0)


class DeadLettersStatus(msgspec.Struct, kw_only=True):
    """Dead letters that the broker has not taken: those in memory, those on the disk, and why not the last of them."""

    waiting: int = 0
    spilled: int = 0
    error: str | None = None


class RecentStatus(msgspec.Struct, kw_only=True, frozen=True):
    """What became of the last records, 1,000 or a few more, since the learner's start.

    Args:
        untaught: those that taught nothing, by reason, the most frequent first; UNLABELLED is one.
        is_fruitless: whether that is most of them.
    """

    records: int = 0
    untaught: dict[str, int] = {}
    is_fruitless: bool = False

    @property
    def reason(self) -> str | None:
        """The most frequent one."""
        return next(iter(self.untaught), None)

    def __str__(self) -> str:
        text = f"{sum(self.untaught.values()):,} of the last {self.records:,} records taught nothing"
        if self.reason is None:
            return text
        what = "without a label" if self.reason == UNLABELLED else f"rejected as {self.reason}"
        return f"{text}, {self.untaught[self.reason]:,} of them {what}"


class LearnerStatus(msgspec.Struct, kw_only=True):
    """State of the learner at `updated_at` (Unix time).

    Args:
        tables: folder of the tables that are learned now, relative to the memory folder; None before the first.
        positions: next offset per ``topic:partition``; `end_positions` likewise, for the lag.
        rejected: rejected events by reason, since the stream's beginning; `unlabelled` events had no label.
        metrics: progressive metrics as `model.metrics` reports them.
    """

    state: State = "starting"
    error: str | None = None
    pid: int = 0
    tables: str | None = None
    topic: str = ""
    events: int = 0
    events_per_second: float = 0.0
    rejected: dict[str, int] = {}
    unlabelled: int = 0
    recent: RecentStatus = RecentStatus()
    dead_letters: DeadLettersStatus = msgspec.field(default_factory=DeadLettersStatus)
    positions: dict[str, int] = {}
    end_positions: dict[str, int] = {}
    metrics: dict[str, Any] = {}
    configuration: dict[str, Any] = {}
    checkpoint: CheckpointStatus = msgspec.field(default_factory=CheckpointStatus)
    started_at: float = 0.0
    updated_at: float = 0.0

    @property
    def lag(self) -> int:
        """Records in the topic that are not yet learned."""
        return sum(max(0, end - self.positions.get(key, 0)) for key, end in self.end_positions.items())

    @property
    def age_s(self) -> float:
        """Seconds since this was written."""
        return time.time() - self.updated_at


def write_status(directory: Path, status: LearnerStatus) -> None:
    """Replace the status file in `directory`; readers see the old one or the new one, never half.

    Raises:
        OSError: it could not be written; the old one is there still.
    """
    status.updated_at = time.time()
    content, beside = msgspec.json.encode(status), directory / f".{STATUS_FILE}"
    durable.replace(directory / STATUS_FILE, content, beside, STATUS_MODE, is_forced=False)


def read_status(directory: Path) -> LearnerStatus | None:
    """The learner's last word, or None where none has been written."""
    try:
        return msgspec.json.decode((directory / STATUS_FILE).read_bytes(), type=LearnerStatus)
    except FileNotFoundError:
        return None

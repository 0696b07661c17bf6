"""When a checkpoint is saved, and what has to be true before and after it: steps 5 to 8 of `consumer.loop`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from flexihash.consumer.consumer_errors import ConsumerError, Describe, Fenced
from flexihash.consumer.lesson import Lesson
from flexihash.consumer.standing import Standing
from flexihash.consumer.status import CheckpointStatus
from flexihash.model.checkpoint.store import Loaded
from flexihash.model.saving import Saved, Saver

FLUSH_TIMEOUT_S = 3.0  # less than `consumer.status.STALE_AFTER_S`, as nothing is reported meanwhile
AGAIN_S = 5.0  # after a save that failed

_logger = logging.getLogger(__name__)


class CheckpointSchedule:
    """Saves what a lesson has taught, from time to time or when asked. For the writer's thread, between fetches.

    Args:
        seconds: between two checkpoints.
        is_requested: asked between fetches; True saves now. Its question is thereby answered.
        describe: words for an error that goes into the status or the log.

    Attributes:
        status: the newest checkpoint, and what became of the last attempt.
    """

    def __init__(
        self,
        saver: Saver,
        lesson: Lesson,
        standing: Standing,
        seconds: float = 60.0,
        is_requested: Callable[[], bool] = lambda: False,
        describe: Describe = str,
    ) -> None:
        self.status = CheckpointStatus()
        self._saver = saver
        self._lesson = lesson
        self._standing = standing
        self._seconds = seconds
        self._ask = is_requested
        self._describe = describe
        self._is_requested = False  # the question above was answered with yes, and no save has begun since
        self._saved_at_version: tuple[int, Mapping[int, int]] = (0, {})
        self._next = 0.0

    def resume(self, loaded: Loaded) -> None:
        """Takes note of the checkpoint that the tables and the standing were restored from."""
        self._saved_at_version = self._standing.version()
        self.status = CheckpointStatus(
            path=str(loaded.path),
            events=loaded.manifest.events,
            saved_at=loaded.manifest.created_at.timestamp(),
            set_aside=[f"{aside.path}: {aside.reason}" for aside in loaded.set_aside],
        )

    def begin(self) -> None:
        """Counts the time to the next checkpoint from now on."""
        self._next = time.monotonic() + self._seconds

    def tend(self) -> None:
        """Settles a save that has ended, and begins one where it is due; without waiting."""
        self._settle(self._take_result())
        if not self._saver.is_busy and self._is_due() and self._saver.prepare():
            self._save()

    def save_now(self) -> Saved | None:
        """Saves, and waits until it is durable; None where there is nothing to save or the letters are not safe."""
        self._settle(self._take_result(wait=True))
        if self._standing.version() == self._saved_at_version or not self._save():
            return None
        saved = self._take_result(wait=True)
        self._settle(saved)
        return saved

    def close(self) -> None:
        """Waits for a save under way, and lets go of the saver."""
        self._saver.close()

    def _is_due(self) -> bool:
        self._is_requested = self._is_requested or self._ask()
        if self._is_requested:
            return True
        return time.monotonic() >= self._next and self._standing.version() != self._saved_at_version

    def _save(self) -> bool:
        self._is_requested = False
        try:
            self._lesson.letters.flush(FLUSH_TIMEOUT_S)  # 5
        except ConsumerError as error:
            self._fail(time.time(), f"not saved: {self._describe(error)}")
            return False
        version = self._standing.version()
        self._saver.begin(  # 6, 7
            events=self._lesson.model.n_events,
            positions=self._standing.positions(),
            configuration=self._lesson.configuration,
            metrics=self._lesson.describe(),
            cluster_id=self._standing.cluster_id,
            topic_ids=dict(self._standing.topic_ids),
        )
        self._saved_at_version = version
        self.begin()
        return True

    def _take_result(self, wait: bool = False) -> Saved | None:
        """What became of the save that was begun.

        Raises:
            Fenced: it was held back for a later learner. Should this one go on some day, it is to save then.
        """
        try:
            return self._saver.take_result(wait)
        except Fenced:
            self._saved_at_version = (-1, {})
            raise

    def _settle(self, saved: Saved | None) -> None:
        """Notes what became of a save; commits its positions where it is durable."""
        if saved is None:
            return
        if saved.info is None:
            self._fail(saved.started_at, self._describe(saved.error))
            return
        self.status = CheckpointStatus(
            path=str(saved.info.path),
            events=saved.info.manifest.events if saved.info.manifest else 0,
            saved_at=saved.started_at,
            duration_s=saved.duration_s,
            pause_s=saved.pause_s,
            size_bytes=saved.info.size_bytes,
            set_aside=self.status.set_aside,
        )
        _logger.info(
            "checkpoint %s saved in %.2f s; learning paused for %.1f ms",
            saved.info.path.name, saved.duration_s, saved.pause_s * 1e3,
        )  # fmt: skip
        self._standing.commit(saved.positions)  # 8

    def _fail(self, started_at: float, message: str) -> None:
        _logger.error("checkpoint failed: %s; learning goes on, and saving is tried again", message)
        self.status.error = message
        self.status.failed_at = started_at
        self._saved_at_version = (-1, {})
        self._next = time.monotonic() + min(self._seconds, AGAIN_S)

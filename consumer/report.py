"""What the learner tells of itself, a few times a second."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from flexihash.consumer.consumer_errors import Describe
from flexihash.consumer.lesson import Lesson
from flexihash.consumer.schedule import CheckpointSchedule
from flexihash.consumer.standing import Standing
from flexihash.consumer.status import LearnerStatus, RecentStatus, State

STATUS_S = 0.25
METRICS_S = 1.0  # the sliding window is measured anew for each report, which takes a few milliseconds
RATE_WINDOW_S = 5.0

_logger = logging.getLogger(__name__)


class Report:
    """Gathers the status of a learner from its parts, and hands it on.

    Args:
        on_status: gets the status each time that it is told.
        describe: words for what goes into the log.
    """

    def __init__(
        self,
        lesson: Lesson,
        standing: Standing,
        schedule: CheckpointSchedule | None,
        on_status: Callable[[LearnerStatus], None],
        describe: Describe = str,
    ) -> None:
        self.status = LearnerStatus(topic=standing.source.topic, configuration=lesson.configuration)
        self._lesson = lesson
        self._standing = standing
        self._schedule = schedule
        self._on_status = on_status
        self._describe = describe
        self._next = self._next_metrics = 0.0
        self._rates: deque[tuple[float, int]] = deque()

    def tend(self) -> None:
        """Tells, where it is due."""
        if time.monotonic() >= self._next:
            self.tell()
            self._next = time.monotonic() + STATUS_S

    def tell(self) -> None:
        """Brings the status up to date and hands it on."""
        now = time.monotonic()
        status, lesson = self.status, self._lesson
        status.events = lesson.model.n_events
        status.rejected, status.unlabelled = lesson.rejected, lesson.unlabelled
        self._tell_recent(lesson.outcomes.status)
        status.positions = self._standing.positions()
        status.end_positions = self._standing.end_positions()
        status.events_per_second = self._measure_rate(now)
        status.dead_letters = lesson.letters.status
        if self._schedule is not None:
            status.checkpoint = self._schedule.status
        if now >= self._next_metrics:
            status.metrics = lesson.model.report()
            self._next_metrics = now + METRICS_S
        self._on_status(status)

    def set_state(self, state: State, error: str | None = None) -> None:
        """Tells a state, and logs it where it is another one."""
        if (state, error) != (self.status.state, self.status.error):
            (_logger.warning if error else _logger.info)("%s%s", state, f": {error}" if error else "")
        self.status.state = state
        self.status.error = error
        self.tell()

    def _tell_recent(self, recent: RecentStatus) -> None:
        """Logs where most records begin to teach nothing, and where that ends."""
        if recent.is_fruitless != self.status.recent.is_fruitless:
            if recent.is_fruitless:
                _logger.warning("%s", self._describe(recent))
            else:
                _logger.info("most records are learned again: %s", recent)
        self.status.recent = recent

    def _measure_rate(self, now: float) -> float:
        self._rates.append((now, self.status.events))
        while now - self._rates[0][0] > RATE_WINDOW_S:
            self._rates.popleft()
        seconds = now - self._rates[0][0]
        return (self.status.events - self._rates[0][1]) / seconds if seconds > 0 else 0.0

"""The learn loop: polls a source, has its records learned, and tends what is due in between.

The order in which things become true, with the same numbers in the code (2 to 4 in `consumer.lesson`, 5 to 8 in
`consumer.schedule`):

0. Shut out every earlier learner of this topic and group; then compare cluster, topic, positions and the last record
   before each with the log.
1. Poll. The source only hands out; what counts as read is decided below.
2. Decode and hash. What cannot be learned from is told apart, with its reason.
3. Learn, chunk by chunk. A chunk moves the tables and the position under one lock.
4. Send the rejected records to the dead letters, and pass them.
5. Where a checkpoint is due: wait until every dead letter is safe, acknowledged by the broker or on the disk. No saved
   position passes an unsafe letter.
6. Copy the changed rows and the positions: one moment of the model.
7. A thread writes them and makes them durable.
8. Only then commit the offsets to the log, for lag tools; nothing ever reads them back.

Killed anywhere, the loop goes on from the newest checkpoint: its tables and its positions are of one moment, so each
record moves the model exactly once. Dead letters sent since then are sent again, and carry their origin. A record that
kills the loop itself is found by the guard, and becomes a dead letter.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import chain
from threading import Event as StopSignal

from flexihash.consumer.consumer_errors import ConsumerError, Describe, Fenced
from flexihash.consumer.fence import Fence
from flexihash.consumer.lesson import Lesson
from flexihash.consumer.records import Fetch
from flexihash.consumer.report import Report
from flexihash.consumer.schedule import FLUSH_TIMEOUT_S, CheckpointSchedule
from flexihash.consumer.standing import Standing
from flexihash.consumer.status import LearnerStatus
from flexihash.consumer.yielding import Yielder
from flexihash.model.checkpoint.store import Loaded

POLL_S = 0.5
REFRESH_S = 5.0  # between looks for new partitions, and for a broker that went away
RETRY_S = 1.0  # after a failure that may pass
COOL_DOWN_S = 20.0  # for a machine that is out of memory to get over it
TEND_S = 0.25  # meanwhile


class LearnLoop:
    """Learns from one source until told to stop.

    Args:
        standing: of the lesson's model in the source.
        schedule: None keeps no checkpoints.
        on_status: gets the loop's status a few times a second.
        fence: shuts out other learners; None where there can be none.
        describe: words for what goes into the status or the log.
    """

    def __init__(
        self,
        lesson: Lesson,
        standing: Standing,
        schedule: CheckpointSchedule | None = None,
        on_status: Callable[[LearnerStatus], None] = lambda status: None,
        fence: Fence | None = None,
        describe: Describe = str,
    ) -> None:
        self.report = Report(lesson, standing, schedule, on_status, describe)
        self._lesson = lesson
        self._standing = standing
        self._schedule = schedule
        self._fence = fence
        self._describe = describe
        self._give_way = Yielder()
        self._next_refresh = 0.0
        self._next_lease = 0.0

    @property
    def status(self) -> LearnerStatus:
        """The last word of the loop."""
        return self.report.status

    def resume(self, loaded: Loaded) -> None:
        """Takes over the positions and counts of a checkpoint whose tensors the tables already hold."""
        self._standing.resume(loaded.manifest)
        self._lesson.resume(loaded.manifest.metrics)
        if self._schedule is not None:
            self._schedule.resume(loaded)

    def start(self) -> None:
        """Connects and begins at the tables' positions, or where the source begins a cold start. May be called again.

        Raises:
            ConsumerError: a `retriable` one may be tried again.
            PositionsLost: the log is another one, or does not go on where the tables stand.
            Fenced: a later learner has come.
        """
        if self._fence is not None:
            self._fence.acquire()  # 0
        identity = self._standing.begin()
        self._lesson.begin(self._standing.source.topic, identity.topic_id)
        if self._schedule is not None:
            self._schedule.begin()
        self._keep_lease()
        self._next_refresh = time.monotonic() + REFRESH_S

    def run(self, stop: StopSignal) -> None:
        """Learns until `stop` is set, then saves a last checkpoint.

        Raises:
            ConsumerError: one that a person has to mend; what was learned until then is saved first.
            Fenced: a later learner has come; nothing is saved any more.
        """
        self.report.set_state("learning")
        try:
            while not stop.is_set():
                self._learn(self._poll(stop), stop)
        except Fenced:
            raise
        except ConsumerError:
            self._save()
            raise
        self.report.set_state("stopping")
        self._save()

    def tend(self) -> None:
        """Dead letters, checkpoints and status, where they are due."""
        if self.status.state != "connecting":  # where the source reaches nobody, they would not either
            self._lesson.letters.tend()
        if self._schedule is not None:
            self._schedule.tend()
        self.report.tend()

    def _learn(self, fetches: list[Fetch], stop: StopSignal) -> None:
        """Takes one poll's fetches, until told to stop."""
        self._give_way()
        for part in chain.from_iterable(map(self._lesson.split, fetches)):
            if not self._make_room(stop) or not self._cool_down(part, stop):
                break
            self._lesson.apply(part)
            self._give_way()
            self.tend()
            if stop.is_set():
                break
        self.tend()

    def _cool_down(self, part: Fetch, stop: StopSignal) -> bool:
        """Holds learning for COOL_DOWN_S where that is due; False where told to stop meanwhile."""
        if not self._lesson.needs_rest(part):
            return True
        where = f"{self.status.topic}[{part.partition}]@{part.offsets[0]}"
        why = f"a learner was killed while it applied {where} alone; it is tried once more in {COOL_DOWN_S:g} s"
        self.report.set_state("cooling", why)
        deadline = time.monotonic() + COOL_DOWN_S
        while not stop.is_set() and time.monotonic() < deadline:
            self._hold(stop, min(TEND_S, deadline - time.monotonic()))
        self._go_on()
        return not stop.is_set()

    def _make_room(self, stop: StopSignal) -> bool:
        """Holds learning while there are as many dead letters in memory as may be; False where told to stop first."""
        letters = self._lesson.letters
        while not letters.has_room():
            if stop.is_set():
                return False
            try:
                letters.flush(FLUSH_TIMEOUT_S)
            except ConsumerError as error:
                self.report.set_state("pausing", self._describe(error))
                self._hold(stop, RETRY_S)
        self._go_on()
        return True

    def _hold(self, stop: StopSignal, seconds: float) -> None:
        """Waits while nothing is learned, as a learner that is at work all the same."""
        self.tend()
        if time.monotonic() >= self._next_lease:
            try:
                self._keep_lease()
            except ConsumerError as error:
                if not error.retriable:
                    raise
                self._next_lease = time.monotonic() + REFRESH_S
        stop.wait(seconds)

    def _poll(self, stop: StopSignal) -> list[Fetch]:
        try:
            if time.monotonic() >= self._next_refresh:
                self._keep_lease()
                self._standing.refresh()
                if self.status.state == "connecting":  # the broker was away: is it the one that it was?
                    self._standing.check_records()
                self._next_refresh = time.monotonic() + REFRESH_S
            fetches = self._standing.source.poll(POLL_S)  # 1
        except ConsumerError as error:
            if not error.retriable:
                raise
            self.report.set_state("connecting", self._describe(error))
            self._next_refresh = 0.0
            stop.wait(RETRY_S)
            return []
        self._go_on()
        return fetches

    def _keep_lease(self) -> None:
        """Says that this learner is at work, where no later one has come."""
        if self._fence is not None:
            self._fence.check()
            self._fence.renew(self._lesson.model.tables.positions().get(0, 0))
        self._next_lease = time.monotonic() + REFRESH_S

    def _go_on(self) -> None:
        if self.status.state != "learning":
            self.report.set_state("learning")

    def _save(self) -> None:
        """Saves a last checkpoint, and tells what became of it and of the letters."""
        if self._schedule is not None:
            self._schedule.save_now()
        self.report.tell()

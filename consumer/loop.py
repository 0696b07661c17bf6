"""The learn loop: from a source's records to a moved model, and to checkpoints that make restarts exact.

The order in which things become true, with the same numbers in the code:

0. Shut out every earlier learner of this topic and group; then compare cluster, topic and positions with the log.
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

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from threading import Event as StopSignal
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from flexihash.consumer.consumer_errors import ConsumerError, Fenced, IdentityChanged
from flexihash.consumer.fence import Fence
from flexihash.consumer.guard import PoisonGuard
from flexihash.consumer.records import LOST, Fetch, Identity, Record, Source
from flexihash.consumer.status import CheckpointStatus, DeadLettersStatus, LearnerStatus
from flexihash.consumer.wire import EventDecoder, EventFormat
from flexihash.consumer.yielding import Yielder
from flexihash.model.checkpoint.store import Loaded
from flexihash.model.config import ModelConfig
from flexihash.model.online import OnlineModel
from flexihash.model.saving import Saved, Saver

POLL_S = 0.5
STATUS_S = 0.25
METRICS_S = 1.0  # the sliding window is measured anew for each report, which takes a few milliseconds
REFRESH_S = 5.0  # between looks for new partitions, and for a broker that went away
RETRY_S = 1.0  # after a failure that may pass
RATE_WINDOW_S = 5.0
FLUSH_TIMEOUT_S = 3.0  # less than `consumer.status.STALE_AFTER_S`, as nothing is reported meanwhile

OnChangedIdentity = Literal["stop", "lose", "keep"]

_logger = logging.getLogger(__name__)


class Letters(Protocol):
    """Where rejected records go. What inherits from it need only take and keep them."""

    @property
    def status(self) -> DeadLettersStatus:
        """How many are not where they belong."""
        return DeadLettersStatus()

    def has_room(self) -> bool:
        """Whether another fetch's records may be sent; else a flush has to come first."""
        return True

    def send(self, record: Record, stage: str, reason: str, message: str) -> None:
        """Takes one rejected record; never raises, whatever the broker does."""

    def tend(self) -> None:
        """Goes on with what failed before, where it is time to; called between fetches. Does not wait for answers."""
        return

    def flush(self, timeout_s: float) -> None:
        """Returns once all that were taken are safe.

        Raises:
            ConsumerError: they are not, yet.
        """


class LearnLoop:
    """Learns from one source until told to stop.

    Args:
        model: over tables that nobody else writes.
        saver: None keeps no checkpoints.
        checkpoint_seconds: between two checkpoints.
        is_checkpoint_requested: asked between polls; True saves now. Its question is thereby answered.
        on_status: gets the loop's status a few times a second.
        fence: shuts out other learners; None where there can be none.
        guard: finds records that make the learner die; None where nobody would start it again.
        on_changed_identity: what `start` does where the positions are of another cluster or topic: raise (stop), hand
            them to the source as lost (lose), or go on with them all the same (keep).
    """

    def __init__(
        self,
        model: OnlineModel,
        source: Source,
        decoder: EventDecoder,
        letters: Letters,
        saver: Saver | None = None,
        checkpoint_seconds: float = 60.0,
        is_checkpoint_requested: Callable[[], bool] = lambda: False,
        on_status: Callable[[LearnerStatus], None] = lambda status: None,
        fence: Fence | None = None,
        guard: PoisonGuard | None = None,
        on_changed_identity: OnChangedIdentity = "stop",
    ) -> None:
        self.model = model
        self.status = LearnerStatus(
            topic=source.topic, configuration=describe_configuration(model.config, decoder.format)
        )
        self._source = source
        self._decoder = decoder
        self._letters = letters
        self._saver = saver
        self._checkpoint_seconds = checkpoint_seconds
        self._is_checkpoint_requested = is_checkpoint_requested
        self._on_status = on_status
        self._fence = fence
        self._guard = guard
        self._on_changed_identity = on_changed_identity
        self._give_way = Yielder()
        self._is_requested = False  # the question above was answered with yes, and no save has begun since
        self._foreign_positions: dict[str, int] = {}  # of other topics that this model has learned from
        self._topic_ids: dict[str, str] = {}
        self._cluster_id: str | None = None
        self._saved_at_version: tuple[int, Mapping[int, int]] = (0, {})
        self._next_checkpoint = self._next_status = self._next_metrics = self._next_refresh = 0.0
        self._rates: deque[tuple[float, int]] = deque()

    def resume(self, loaded: Loaded) -> None:
        """Takes over the positions and counts of a checkpoint whose tensors the tables already hold."""
        manifest = loaded.manifest
        own, self._foreign_positions = self._divide(manifest.positions)
        self.model.set_positions(own)
        self._topic_ids = dict(manifest.topic_ids)
        self._cluster_id = manifest.cluster_id
        self._saved_at_version = (self.model.n_events, self.model.tables.positions())
        self.status.rejected = dict(manifest.metrics.get("rejected", {}))
        self.status.unlabelled = int(manifest.metrics.get("unlabelled", 0))
        self.status.checkpoint = CheckpointStatus(
            path=str(loaded.path),
            events=manifest.events,
            saved_at=manifest.created_at.timestamp(),
            set_aside=[f"{aside.path}: {aside.reason}" for aside in loaded.set_aside],
        )

    def start(self) -> None:
        """Connects and begins at the tables' positions, or where the source begins a cold start. May be called again.

        Raises:
            ConsumerError: a `retriable` one may be tried again.
            PositionsLost: the log is another one, or does not go on where the tables stand.
            Fenced: a later learner has come.
        """
        if self._fence is not None:
            self._fence.acquire()  # 0
        identity = self._source.identity()
        positions = self.model.tables.positions()
        started = self._source.start(self._check_identity(identity, positions))
        self._tell_jumps(positions, started)
        self.model.set_positions(started)
        self._cluster_id = identity.cluster_id or self._cluster_id
        if identity.topic_id:
            self._topic_ids[self._source.topic] = identity.topic_id
        if self._guard is not None and (poison := self._guard.begin(identity.topic_id or self._source.topic)):
            where = f"{self._source.topic}[{poison.partition}]@{poison.offset}"
            _logger.error("%s made the learner die again and again: from now on it is a dead letter", where)
        self._next_checkpoint = time.monotonic() + self._checkpoint_seconds
        self._next_refresh = time.monotonic() + REFRESH_S

    def run(self, stop: StopSignal) -> None:
        """Learns until `stop` is set, then saves a last checkpoint.

        Raises:
            ConsumerError: one that a person has to mend; what was learned until then is saved first.
            Fenced: a later learner has come; nothing is saved any more.
        """
        self._set_state("learning")
        try:
            while not stop.is_set():
                fetches = self._poll(stop)  # 1
                self._give_way()
                for fetch in fetches:
                    if not self._make_room(stop):
                        break
                    self.apply(fetch)
                    self._give_way()
                    self.tend()
                    if stop.is_set():
                        break
                self.tend()
        except Fenced:
            raise
        except ConsumerError:
            self.checkpoint_now()
            raise
        self._set_state("stopping")
        self.checkpoint_now()

    def _make_room(self, stop: StopSignal) -> bool:
        """Holds learning while there are as many dead letters in memory as may be; False where told to stop first."""
        while not self._letters.has_room():
            if stop.is_set():
                return False
            try:
                self._letters.flush(FLUSH_TIMEOUT_S)
            except ConsumerError as error:
                self._set_state("pausing", str(error))
                self.tend()
                stop.wait(RETRY_S)
        if self.status.state != "learning":
            self._set_state("learning")
        return True

    def apply(self, fetch: Fetch) -> None:
        """Learns from one fetch, and moves its partition's position past it."""
        if self._guard is None:
            self._apply(fetch)
            return
        for part in self._guard.split(fetch):
            if self._guard.is_poison(part):
                message = "the learner died each time that it was about to learn from it"
                self._reject(part.record(0), "learn", "poison", message)
                self.model.advance(part.partition, part.position)
                continue
            with self._guard.applying(part):
                self._apply(part)

    def _apply(self, fetch: Fetch) -> None:
        decoded = self._decoder.decode(fetch.values)  # 2
        next_offsets = np.array(fetch.offsets, np.int64)[decoded.kept] + 1
        learned = self.model.learn(decoded.batch, decoded.labels, decoded.weights, fetch.partition, next_offsets)  # 3
        for index, rejected in decoded.rejections:  # 4
            self._reject(fetch.record(index), "decode", rejected.reason, str(rejected))
        for index in decoded.kept[~learned.is_learned]:
            message = "learning from it would leave the range of float32; nothing of it was learned"
            self._reject(fetch.record(int(index)), "learn", "not_finite", message)
        self.status.unlabelled += decoded.n_unlabelled
        self.model.advance(fetch.partition, fetch.position)

    def checkpoint_now(self) -> Saved | None:
        """Saves, and waits until it is durable; None where there is nothing to save or the letters are not safe."""
        if self._saver is None:
            return None
        self._settle(self._saver.take_result(wait=True))
        if self._version() == self._saved_at_version or not self._begin_checkpoint():
            return None
        saved = self._saver.take_result(wait=True)
        self._settle(saved)
        return saved

    def report(self) -> LearnerStatus:
        """The status, brought up to date and handed on."""
        now = time.monotonic()
        self.status.events = self.model.n_events
        self.status.positions = self._positions()
        ends = self._source.end_positions()
        self.status.end_positions = {f"{self._source.topic}:{partition}": end for partition, end in ends.items()}
        self.status.events_per_second = self._measure_rate(now)
        self.status.dead_letters = self._letters.status
        if now >= self._next_metrics:
            self.status.metrics = self.model.report()
            self._next_metrics = now + METRICS_S
        self._on_status(self.status)
        return self.status

    def _poll(self, stop: StopSignal) -> list[Fetch]:
        try:
            if time.monotonic() >= self._next_refresh:
                if self._fence is not None:
                    self._fence.check()
                for partition, position in self._source.refresh().items():
                    _logger.info("%s[%d] is new: learning from %d on", self._source.topic, partition, position)
                    self.model.advance(partition, position)
                self._next_refresh = time.monotonic() + REFRESH_S
            fetches = self._source.poll(POLL_S)
        except ConsumerError as error:
            if not error.retriable:
                raise
            self._set_state("connecting", str(error))
            stop.wait(RETRY_S)
            return []
        if self.status.state != "learning":
            self._set_state("learning")
        return fetches

    def tend(self) -> None:
        """Dead letters, checkpoints and status, where they are due."""
        if self.status.state != "connecting":  # where the source reaches nobody, they would not either
            self._letters.tend()
        if self._saver is not None:
            self._settle(self._saver.take_result())
            if not self._saver.is_busy and self._is_checkpoint_due() and self._saver.prepare():
                self._begin_checkpoint()
        if time.monotonic() >= self._next_status:
            self.report()
            self._next_status = time.monotonic() + STATUS_S

    def _is_checkpoint_due(self) -> bool:
        self._is_requested = self._is_requested or self._is_checkpoint_requested()
        if self._is_requested:
            return True
        return time.monotonic() >= self._next_checkpoint and self._version() != self._saved_at_version

    def _begin_checkpoint(self) -> bool:
        assert self._saver is not None
        self._is_requested = False
        try:
            self._letters.flush(FLUSH_TIMEOUT_S)  # 5
        except ConsumerError as error:
            self._fail_checkpoint(time.time(), f"not saved: {error}")
            return False
        self.status.dead_letters = self._letters.status
        version = self._version()
        metrics = {
            **self.model.report(),
            "rejected": dict(self.status.rejected),  # the thread that writes it comes later than this moment
            "unlabelled": self.status.unlabelled,
            "poison": self._guard.positions() if self._guard else [],
        }
        self._saver.begin(  # 6, 7
            events=self.model.n_events,
            positions=self._positions(),
            configuration=self.status.configuration,
            metrics=metrics,
            cluster_id=self._cluster_id,
            topic_ids=dict(self._topic_ids),
        )
        self._saved_at_version = version
        self._next_checkpoint = time.monotonic() + self._checkpoint_seconds
        return True

    def _settle(self, saved: Saved | None) -> None:
        """Notes what became of a save; commits its positions where it is durable."""
        if saved is None:
            return
        if saved.info is None:
            self._fail_checkpoint(saved.started_at, str(saved.error))
            return
        self.status.checkpoint = CheckpointStatus(
            path=str(saved.info.path),
            events=saved.info.manifest.events if saved.info.manifest else 0,
            saved_at=saved.started_at,
            duration_s=saved.duration_s,
            pause_s=saved.pause_s,
            size_bytes=saved.info.size_bytes,
            set_aside=self.status.checkpoint.set_aside,
        )
        _logger.info(
            "checkpoint %s saved in %.2f s; learning paused for %.1f ms",
            saved.info.path.name, saved.duration_s, saved.pause_s * 1e3,
        )  # fmt: skip
        self._source.commit(self._divide(saved.positions)[0])  # 8

    def _fail_checkpoint(self, started_at: float, message: str) -> None:
        _logger.error("checkpoint failed: %s; learning goes on, and saving is tried again", message)
        self.status.checkpoint.error = message
        self.status.checkpoint.failed_at = started_at
        self._saved_at_version = (-1, {})
        self._next_checkpoint = time.monotonic() + min(self._checkpoint_seconds, 5 * RETRY_S)

    def _reject(self, record: Record, stage: str, reason: str, message: str) -> None:
        self.status.rejected[reason] = self.status.rejected.get(reason, 0) + 1
        _logger.debug("%s[%d]@%d: %s", record.topic, record.partition, record.offset, message)
        self._letters.send(record, stage, reason, message)

    def _version(self) -> tuple[int, Mapping[int, int]]:
        return self.model.n_events, self.model.tables.positions()

    def _positions(self) -> dict[str, int]:
        own = {f"{self._source.topic}:{p}": position for p, position in self.model.tables.positions().items()}
        return {**self._foreign_positions, **own}

    def _divide(self, positions: Mapping[str, int]) -> tuple[dict[int, int], dict[str, int]]:
        """This source's positions by partition, and the others as they are."""
        own, foreign = {}, {}
        for key, position in positions.items():
            topic, _, partition = key.rpartition(":")
            if topic == self._source.topic:
                own[int(partition)] = position
            else:
                foreign[key] = position
        return own, foreign

    def _check_identity(self, identity: Identity, positions: dict[int, int]) -> dict[int, int]:
        """The positions, where they are of this cluster and topic; else what was chosen for that case."""
        try:
            if positions:
                check_identity(self._source.topic, self._cluster_id, self._topic_ids.get(self._source.topic), identity)
        except IdentityChanged as changed:
            if self._on_changed_identity == "stop":
                raise
            _logger.warning("%s; going on as chosen", changed)
            return positions if self._on_changed_identity == "keep" else dict.fromkeys(positions, LOST)
        return positions

    def _tell_jumps(self, before: Mapping[int, int], after: Mapping[int, int]) -> None:
        for partition in sorted(before.keys() | after.keys()) if before else ():
            place = f"{self._source.topic}[{partition}]"
            left, begun = before.get(partition), after.get(partition)
            if left is None:
                _logger.info("%s is new: learning from %s on", place, begun)
            elif left != begun:
                _logger.warning("%s goes on at %s instead of %s, as chosen", place, begun, left)

    def _measure_rate(self, now: float) -> float:
        self._rates.append((now, self.status.events))
        while now - self._rates[0][0] > RATE_WINDOW_S:
            self._rates.popleft()
        seconds = now - self._rates[0][0]
        return (self.status.events - self._rates[0][1]) / seconds if seconds > 0 else 0.0

    def _set_state(self, state: Any, error: str | None = None) -> None:
        if (state, error) != (self.status.state, self.status.error):
            (_logger.warning if error else _logger.info)("%s%s", state, f": {error}" if error else "")
        self.status.state = state
        self.status.error = error
        self.report()


def check_identity(topic: str, cluster_id: str | None, topic_id: str | None, found: Identity) -> None:
    """Compares the ids that positions belong to with those found; None on either side is not known, and passes.

    Raises:
        IdentityChanged: they differ.
    """
    for kind, expected, there in (("cluster", cluster_id, found.cluster_id), ("topic", topic_id, found.topic_id)):
        if expected and there and expected != there:
            raise IdentityChanged(kind, topic, expected, there)


def describe_configuration(config: ModelConfig, format: EventFormat) -> dict[str, Any]:
    """What the tables depend on: all that must be equal for a checkpoint to be gone on from. Limits may change."""
    return {
        **msgspec.to_builtins(config),
        "label_field": format.label_field,
        "features_field": format.features_field,
        "ignored_features": list(format.ignored_features),
        "categorical_features": list(format.rules.categorical_features),
        "numeric_features": list(format.rules.numeric_features),
    }

"""The learner's memory as an API process sees it: its last status, and the tables that it learns into."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from consumer.status import STALE_AFTER_S, STATUS_FILE, LearnerStatus, read_status
from model.config import ModelConfig
from model.features import Feature, hash_features
from model.learner import OnlineModel
from model.tables import Tables
from service.messages import Prediction, Version

CHECKPOINT_REQUEST = "checkpoint.request"  # the learner saves when it sees this file, and removes it first
POLL_S = 0.1  # how often the status file is looked at: two stats, and a read of 2 KiB when it changed

STATES = {
    "starting": "the learner is starting",
    "restoring": "the learner is restoring a checkpoint",
    "connecting": "the learner is connecting to the broker",
    "blocked": "the learner waits until someone has acted",
    "fenced": "the learner has stopped for another one",
    "pausing": "the learner waits until its dead letters are safe",
    "stopping": "the learner is stopping",
    "stopped": "the learner has stopped",
    "failed": "the learner has failed and waits for someone to mend the cause",
}

log = structlog.stdlib.get_logger("memory")


class AttachedModel:
    """A model that another process teaches. For one thread only: all its answers share one scratch space."""

    def __init__(self, directory: Path, topic: str) -> None:
        self._tables = Tables.attach(directory)
        self._model = OnlineModel(self._tables)
        self._topic = topic

    def predict(self, events: Sequence[Sequence[Feature]]) -> tuple[list[Prediction], Version]:
        """Predictions for flat events, and the version that they belong to."""
        batch = hash_features(events, self._tables.config.n_rows)
        with self._tables.reading():
            predictions, version = self._model.predict(batch), self._version()
        pairs = zip(predictions.values.tolist(), predictions.scores.tolist(), strict=True)
        return [Prediction(value, score) for value, score in pairs], version

    def embed(self, events: Sequence[Sequence[Feature]]) -> tuple[list[list[float]], Version]:
        """Embeddings (12 numbers each) of flat events, and the version that they belong to."""
        batch = hash_features(events, self._tables.config.n_rows)
        with self._tables.reading():
            embeddings, version = self._model.embed(batch), self._version()
        return embeddings.tolist(), version

    def read_version(self) -> Version:
        """What has been learned so far."""
        with self._tables.reading():
            return self._version()

    def occupancy(self) -> float:
        """Share of the table's rows that an event ever moved; takes milliseconds on a large table."""
        return self._model.occupancy()

    def close(self) -> None:
        """Lets go of the lock file; whoever still computes with the tables may finish."""
        self._tables.close()

    def _version(self) -> Version:
        positions = self._tables.positions()
        return Version(
            self._model.n_events,
            {f"{self._topic}:{partition}": position for partition, position in positions.items()},
        )


class Memory:
    """Follows the learner through its memory folder, which need not exist yet.

    `status` is the learner's last word. `model` is the newest generation of tables; it outlives its learner, so that
    answers stay what they were until the next learner's tables are ready.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.status: LearnerStatus | None = None
        self.model: AttachedModel | None = None
        self._is_warm = False
        self._error: str | None = None
        self._status_seen = (0, 0)
        self._attached_inode = 0

    async def follow(self) -> None:
        """Compiles the kernels, then keeps `status` and `model` new until cancelled."""
        started = time.perf_counter()
        await asyncio.to_thread(warm_kernels)
        log.info("kernels ready", seconds=round(time.perf_counter() - started, 3))
        self._is_warm = True
        while True:
            self.refresh()
            await asyncio.sleep(POLL_S)

    def refresh(self) -> None:
        """Reads the status where it changed, and attaches to the tables that it names where they are others.

        Whatever goes wrong here, answers go on from the tables at hand, and /readyz tells.
        """
        try:
            self._read_status()
            self._attach()
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            if message != self._error:
                log.warning("cannot read the learner's memory", directory=str(self.directory), error=message)
            self._error = message
        else:
            self._error = None

    def explain_unready(self) -> str | None:
        """Why answers do not follow the stream now, for people; None where they do."""
        if not self._is_warm:
            return "the prediction kernels are being compiled"
        if reason := self.explain_learner():
            return reason
        if self._error is not None:
            return f"the tables in {self.directory} cannot be read: {self._error}"
        return None if self.model else "the learner has made no tables yet"

    def explain_learner(self) -> str | None:
        """Why the learner is not learning, for people; None where it is."""
        status = self.status
        if status is None:
            path = self.directory / STATUS_FILE
            return f"{path} cannot be read: {self._error}" if self._error else f"no learner has reported yet in {path}"
        has_ended = status.state in ("stopped", "failed")
        if status.age_s > STALE_AFTER_S and not has_ended:
            return f"the learner has not reported for {status.age_s:.0f} s; it was {status.state}"
        if status.state == "learning":
            return None
        return STATES[status.state] + (f": {status.error}" if status.error else "")

    def close(self) -> None:
        """Lets go of the tables."""
        if self.model is not None:
            self.model.close()
            self.model = None

    def _read_status(self) -> None:
        try:
            found = (self.directory / STATUS_FILE).stat()
        except FileNotFoundError:
            self.status, self._status_seen = None, (0, 0)
            return
        seen = (found.st_ino, found.st_mtime_ns)
        if seen != self._status_seen:
            self.status = None  # where the next line fails, the old word no longer holds
            self.status, self._status_seen = read_status(self.directory), seen

    def _attach(self) -> None:
        if self.status is None or self.status.tables is None:
            return
        directory = self.directory / self.status.tables
        inode = directory.stat().st_ino  # not the name: a folder that was emptied begins to count anew
        if inode == self._attached_inode:
            return
        model = AttachedModel(directory, self.status.topic)
        self.close()
        self.model, self._attached_inode = model, inode
        log.info("attached to tables", directory=str(directory), events=model.read_version().events)


def warm_kernels() -> None:
    """Compiles the kernel that predicts, or loads it from Numba's cache, so that no request waits for it."""
    model = OnlineModel(Tables.create(ModelConfig(n_rows=2)))
    model.predict(hash_features([[("warm", 1.0)]], 2))

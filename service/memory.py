"""The learner's memory as an API process sees it: its last status, and the tables that it learns into."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.status import STALE_AFTER_S, STATUS_FILE, LearnerStatus, read_status
from flexihash.consumer.wire import EventFormat
from flexihash.model import contexts
from flexihash.model.config import ModelConfig
from flexihash.model.features import Batch, hash_features
from flexihash.model.model_errors import TablesHeld
from flexihash.model.online import OnlineModel
from flexihash.model.pooled import Choice, Embedded, embed
from flexihash.model.tables import PATIENCE_S, Tables
from flexihash.model.tasks import Task
from flexihash.service.advice import advise
from flexihash.service.folders import check_memory
from flexihash.service.messages import Version
from flexihash.service.phrasing import TOP_K, phrase
from flexihash.service.problems import unavailable
from flexihash.service.service_errors import FolderError

POLL_S = 0.1  # how often the status file is looked at: two stats, and a read of 2 KiB when it changed

READ_S = 2.0  # that an answer waits for a learner that holds the tables; a busy machine may keep one from working
RETRY_S = 0.01  # between two tries meanwhile
LITTLE_ROOM_BYTES = 1 << 20  # with so little in its folder, a learner that is silent may be one that cannot write

STATES = {
    "starting": "the learner is starting",
    "restoring": "the learner is restoring a checkpoint",
    "connecting": "the learner is connecting to the broker",
    "blocked": "the learner waits until someone has acted",
    "fenced": "the learner has stopped for another one",
    "pausing": "the learner waits until its dead letters are safe",
    "cooling": "the learner rests before it tries a record again",
    "stopping": "the learner is stopping",
    "stopped": "the learner has stopped",
    "failed": "the learner has failed and waits for someone to mend the cause",
}

Result = TypeVar("Result")

log = structlog.stdlib.get_logger("memory")


class AttachedModel:
    """A model that another process teaches. For one event loop only: all its answers share one scratch space.

    Whoever is to read waits until the learner lets it in, without keeping the loop from other work.

    Raises:
        Problem: 503, by all that reads; the learner did not let it in within `READ_S`.
    """

    def __init__(self, directory: Path, topic: str) -> None:
        self._tables = Tables.attach(directory)
        self._model = OnlineModel(self._tables)
        self._topic = topic
        self._held_since: float | None = None

    @property
    def is_removed(self) -> bool:
        """Whether the tables' files are gone, so that they take room only because they are attached here."""
        return self._tables.directory is not None and not self._tables.directory.exists()

    @property
    def n_rows(self) -> int:
        """Of the table, by which whoever asks must hash."""
        return self._tables.config.n_rows

    async def predict(self, batch: Batch, top_k: int = TOP_K) -> tuple[list[Any], Version]:
        """Predictions for hashed events, as the task says them, and the version that they belong to."""
        names, found, n_known, version = await self._read(
            lambda: (
                self._model.class_names(),
                self._model.predict(batch),
                self._model.count_known(batch),
                self._version(),
            )
        )
        return phrase(self._model.config, names, found, n_known, batch.sizes, top_k), version

    async def embed(self, batch: Batch, choice: Choice) -> tuple[list[Embedded], Version]:
        """Embeddings of hashed events, all of them one item, and the version that they belong to.

        Raises:
            ConfigurationError: this model has no embeddings of that choice.
        """
        embedded, version = await self._read(lambda: (embed(self._model, batch, choice), self._version()))
        return [embedded], version

    async def read_progress(self) -> tuple[Version, Callable[[], dict[str, Any]]]:
        """What has been learned so far, and what makes the report of that moment: of a copy, of half a megabyte."""
        return await self._read(lambda: (self._version(), self._model.copy_report()))

    def explain_hold(self) -> str | None:
        """Why answers wait in vain for the tables, for people; None where they do not."""
        held_s = time.monotonic() - self._held_since if self._held_since is not None else 0.0
        return f"the learner has held its tables for {held_s:.0f} s" if held_s >= READ_S else None

    def look_again(self) -> None:
        """Notices that the tables are free again, where an answer has found them held."""
        if self._held_since is not None:
            with suppress(TablesHeld):
                self._try(lambda: None, PATIENCE_S)

    def occupancy(self) -> float:
        """Share of the table's rows that an event ever moved; takes milliseconds on a large table."""
        return self._model.occupancy()

    def embedding_occupancy(self) -> float | None:
        """Share of the rows whose context embedding was ever moved; None where there are none. As quick."""
        table = self._tables.tensors.get(contexts.TABLE)
        return None if table is None else contexts.share_learned(table)

    def close(self) -> None:
        """Lets go of the lock file; whoever still computes with the tables may finish."""
        self._tables.close()

    async def _read(self, compute: Callable[[], Result]) -> Result:
        deadline = time.monotonic() + READ_S
        while True:
            try:
                return self._try(compute, PATIENCE_S if self._held_since is None else 0.0)
            except TablesHeld as error:
                if time.monotonic() >= deadline:
                    raise unavailable(f"{error}, and did not let go within {READ_S:g} s", "tables_held") from error
            await asyncio.sleep(RETRY_S)

    def _try(self, compute: Callable[[], Result], patience_s: float) -> Result:
        try:
            with self._tables.reading(patience_s):
                self._held_since = None
                return compute()
        except TablesHeld:
            self._held_since = self._held_since or time.monotonic()
            raise

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

    Args:
        config: of the models to come, so that their kernels are compiled by then.
    """

    def __init__(self, directory: Path, config: ModelConfig = ModelConfig()) -> None:  # noqa: B008
        self.directory = directory
        self._config = config
        self.status: LearnerStatus | None = None
        self.model: AttachedModel | None = None
        self._is_warm = False
        self._error: str | None = None
        self._status_seen = (0, 0)
        self._attached_inode = 0

    async def follow(self) -> None:
        """Compiles the kernels, then keeps `status` and `model` new until cancelled."""
        started = time.perf_counter()
        await asyncio.to_thread(warm_kernels, self._config)
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
            if self.model is not None:
                self.model.look_again()
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
        if self.model is not None and (reason := self.model.explain_hold()):
            return reason  # first, as a learner that is stopped while it holds them does not report either
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
            if self._error:
                return f"{path} cannot be read: {self._error}"
            return f"no learner has reported yet in {path}{self._explain_silence()}"
        has_ended = status.state in ("stopped", "failed")
        if status.age_s > STALE_AFTER_S and not has_ended:
            silence = self._explain_silence()
            return f"the learner has not reported for {status.age_s:.0f} s; it was {status.state}{silence}"
        if status.state == "learning":
            return None
        return STATES[status.state] + (f": {status.error}" if status.error else "")

    def warnings(self) -> list[str]:
        """What an operator should look at although answers follow the stream, for people."""
        if self.status is None:
            return []
        checkpoint, letters = self.status.checkpoint, self.status.dead_letters
        warnings = [f"a checkpoint was damaged and is set aside: {aside}" for aside in checkpoint.set_aside]
        if checkpoint.has_failed:
            warnings.append(f"the last checkpoint was not saved: {checkpoint.error}")
        if self.status.recent.is_fruitless:
            warnings.append(advise(self.status.recent))
        if letters.spilled:
            why = f": {letters.error}" if letters.error else ""
            warnings.append(f"{letters.spilled} dead letters wait on the disk{why}")
        return warnings

    def close(self) -> None:
        """Lets go of the tables."""
        if self.model is not None:
            self.model.close()
            self.model, self._attached_inode = None, 0

    def _explain_silence(self) -> str:
        """What may keep a learner that works from telling so, for the end of a sentence."""
        try:
            n_bytes = shutil.disk_usage(self.directory).free
        except OSError:
            return ""
        return f"; {self.directory} has {n_bytes:,} bytes left: make room there" if n_bytes < LITTLE_ROOM_BYTES else ""

    def _read_status(self) -> None:
        try:
            check_memory(self.directory)
            found = (self.directory / STATUS_FILE).stat()
        except FileNotFoundError:
            self.status, self._status_seen = None, (0, 0)
            return
        except (OSError, FolderError):
            self.status, self._status_seen = None, (0, 0)  # nor is the old word one to believe
            raise
        seen = (found.st_ino, found.st_mtime_ns)
        if seen != self._status_seen:
            self.status = None  # where the next line fails, the old word no longer holds
            self.status, self._status_seen = read_status(self.directory), seen

    def _attach(self) -> None:
        if self.status is None:
            return
        if self.status.tables is None:
            self._make_room()
            return
        directory = self.directory / self.status.tables
        inode = directory.stat().st_ino  # not the name: a folder that was emptied begins to count anew
        if inode == self._attached_inode:
            return
        model = AttachedModel(directory, self.status.topic)
        self.close()
        self.model, self._attached_inode = model, inode
        log.info("attached to tables", directory=str(directory))

    def _make_room(self) -> None:
        """Lets go of tables that a learner has removed before it has others: it needs their room for these."""
        if self.model is not None and self.model.is_removed:
            log.warning("no room for two tables: answers stop until the learner is restored")
            self.close()


def warm_kernels(config: ModelConfig) -> None:
    """Compiles what answers by such a model, or loads it from Numba's cache, so that no request waits for it."""
    config = msgspec.structs.replace(config, n_rows=2, embeddings=False, crosses=())
    decoder = EventDecoder(EventFormat(), Task.BINARY, config.n_rows)
    decoder.warm_up()
    model = OnlineModel(Tables.create(config))
    batch = hash_features([[("warm", 1.0)]], config.n_rows)
    model.predict(batch)
    model.find_rows(batch)
    model.report()

"""The learner process, which alone writes the tables: a child of the supervisor, or run by itself without HTTP."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import structlog

from consumer.dead_letters import DeadLetters
from consumer.errors import ConsumerError, TopicNotFound
from consumer.kafka import KafkaSource, create_topic
from consumer.loop import RETRY_S, LearnLoop, describe_configuration
from consumer.status import LearnerStatus, write_status
from consumer.wire import EventDecoder
from model.checkpoint import CheckpointStore
from model.errors import ModelError
from model.learner import OnlineModel
from model.saving import Saver
from model.tables import Tables
from service.errors import LearnerBusy, ServiceError, SettingsError
from service.logs import configure_logs
from service.memory import CHECKPOINT_REQUEST
from service.settings import Settings, load_settings
from service.supervisor import MUST_MEND

LOCK_FILE = "learner.lock"
TABLES_PREFIX = "tables-"
IDLE_S = 1.0  # between two words of a learner that waits for somebody to act

log = structlog.stdlib.get_logger("learner")


class Learner:
    """Restores, connects, learns, and tells about it in the memory folder.

    Raises:
        LearnerBusy: another learner holds the folder.
    """

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._directory = settings.memory
        self._lock = _hold(self._directory)
        self._status = LearnerStatus(state="starting", topic=settings.topic, pid=os.getpid(), started_at=time.time())

    def run(self) -> None:
        """Works until told to stop.

        Raises:
            ModelError, ConsumerError: what somebody must mend before a learner can go on.
        """
        self._publish(self._status)
        try:
            self._work()
        except (ModelError, ConsumerError) as error:
            self._status.state, self._status.error = "failed", str(error)
            self._publish(self._status)
            raise
        self._status.state, self._status.error = "stopped", None
        self._publish(self._status)

    def _work(self) -> None:
        settings = self._settings
        self._status.state = "restoring"
        self._publish(self._status)
        store = CheckpointStore(settings.checkpoint_dir, settings.checkpoint_keep)
        directory = self._directory / f"{TABLES_PREFIX}{time.time_ns()}"
        tables = Tables.create(settings.model, directory)
        loaded = store.load_newest(describe_configuration(settings.model, settings.event_format), tables.tensors)
        model = OnlineModel(tables)
        decoder = EventDecoder(settings.event_format, settings.task, settings.n_rows)
        model.warm_up()
        decoder.warm_up()
        saver = Saver(store, tables)
        source = KafkaSource(settings.connection, settings.topic, settings.group_id, settings.start_at)
        letters = DeadLetters(settings.connection, settings.topic)
        loop = LearnLoop(
            model,
            source,
            decoder,
            letters,
            saver,
            settings.checkpoint_seconds,
            self._take_checkpoint_request,
            self._publish,
        )
        loop.status.pid, loop.status.started_at = self._status.pid, self._status.started_at
        loop.status.tables = directory.name
        self._status = loop.status
        if loaded is not None:
            loop.resume(loaded)
            log.info("restored", checkpoint=loaded.path.name, events=model.n_events)
        loop.report()  # from here the API serves these tables, whether Kafka is there or not
        _remove_other_tables(directory)
        try:
            if self._connect(loop):
                loop.run(self._stop)
        finally:
            saver.close()
            letters.close()
            source.close()

    def _connect(self, loop: LearnLoop) -> bool:
        """Starts the loop, however long the broker takes to come; False where told to stop first."""
        while not self._stop.is_set():
            try:
                loop.start()
            except TopicNotFound:
                if not self._settings.create_topic:
                    raise
                create_topic(self._settings.connection, self._settings.topic)
            except ConsumerError as error:
                if not error.retriable:
                    raise
                if loop.status.error != str(error):
                    log.warning("connecting", error=str(error))
                loop.status.state, loop.status.error = "connecting", str(error)
                loop.report()
                self._stop.wait(RETRY_S)
            else:
                log.info("learning", topic=self._settings.topic, positions=loop.status.positions)
                return True
        return False

    def _publish(self, status: LearnerStatus) -> None:
        write_status(self._directory, status)

    def _take_checkpoint_request(self) -> bool:
        try:
            (self._directory / CHECKPOINT_REQUEST).unlink()
        except FileNotFoundError:
            return False
        return True


def _hold(directory: Path) -> int:
    """Takes the memory folder for this process's life; the kernel lets go of it when the process dies."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise LearnerBusy(
            f"another learner works in {directory}: stop it, or give this one another FLEXIHASH_MEMORY_DIR"
        ) from None
    return lock


def _remove_other_tables(directory: Path) -> None:
    """Removes what earlier learners left; who has it mapped keeps it until it attaches to ours."""
    for path in directory.parent.glob(f"{TABLES_PREFIX}*"):
        if path != directory:
            shutil.rmtree(path, ignore_errors=True)


def main() -> int:
    """Runs a learner with the settings of the environment; returns the exit code."""
    stop = threading.Event()

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    try:
        settings = load_settings()
    except SettingsError as error:  # before there are logs, which are by these settings
        print(error, file=sys.stderr)
        return MUST_MEND
    configure_logs(settings, "learner")
    try:
        Learner(settings, stop).run()
    except (ServiceError, ModelError, ConsumerError) as error:
        log.error(str(error))
        return MUST_MEND
    return 0


if __name__ == "__main__":
    sys.exit(main())

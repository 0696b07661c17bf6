"""The learner process, which alone writes the tables: a child of the supervisor, or run by itself without HTTP."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import msgspec
import structlog

from flexihash.consumer.consumer_errors import ConsumerError, Fenced, PositionsLost, TopicNotFound
from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.fence import Fence
from flexihash.consumer.guard import PoisonGuard
from flexihash.consumer.kafka.source import KafkaSource
from flexihash.consumer.lesson import Lesson, Letters, NoLetters, describe_configuration
from flexihash.consumer.letter_box import DeadLetters
from flexihash.consumer.loop import RETRY_S, LearnLoop
from flexihash.consumer.schedule import CheckpointSchedule
from flexihash.consumer.standing import OnChangedIdentity, Standing, check_topics
from flexihash.consumer.status import CHECKPOINT_REQUEST, LearnerStatus, State, write_status
from flexihash.model.checkpoint.store import CheckpointStore, Loaded
from flexihash.model.config import ModelConfig
from flexihash.model.model_errors import ConfigurationError, ModelError
from flexihash.model.online import OnlineModel
from flexihash.model.saving import Saver, Shadow
from flexihash.model.tables import Tables
from flexihash.service.advice import advise
from flexihash.service.folders import (
    LEARNER_LOCK,
    TABLES_PREFIX,
    explain_exposure,
    hold_checkpoints,
    hold_memory,
    remove_tables,
)
from flexihash.service.logs import configure_logs
from flexihash.service.service_errors import ServiceError, SettingsError
from flexihash.service.settings import Settings, load_settings
from flexihash.service.supervisor import LAST_EXIT, MUST_MEND

BLOCKED_S = 5.0  # between looks whether a person has acted
IDLE_S = 1.0  # between two words of a learner that waits for somebody to act
ROOM_S = 5.0  # for API processes to let go of removed tables, which they notice within a fraction of a second
ROOM_RETRY_S = 0.1

log = structlog.stdlib.get_logger("learner")


class Learner:
    """Restores, connects, learns, and tells about it in the memory folder.

    Raises:
        LearnerBusy: another learner holds a folder.
        FolderError: a folder cannot be written, or the memory's is not ours alone.
    """

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._directory = settings.memory
        settings.check_former_checkpoints()
        self._locks = [hold_memory(settings.memory, LEARNER_LOCK), hold_checkpoints(settings.checkpoints)]
        if exposure := explain_exposure(settings.memory):
            log.warning("the memory folder is not safe from others", directory=str(settings.memory), cause=exposure)
        self._guard = _open_guard(settings.checkpoints)
        self._silence: str | None = None  # why nothing can be told just now
        self._status = LearnerStatus(state="starting", topic=settings.topic, pid=os.getpid(), started_at=time.time())

    def run(self) -> None:
        """Works until told to stop.

        Raises:
            ModelError, ConsumerError: what somebody must mend before a learner can start.
        """
        self._publish(self._status)
        lost: PositionsLost | None = None
        try:
            while (lost := self._work(is_fresh=lost is not None)) is not None:
                log.warning("a fresh model is started, as chosen by on_lost_position", cause=advise(lost))
        except (ModelError, ConsumerError) as error:
            self._status.state, self._status.error = "failed", advise(error)
            self._publish(self._status)
            raise
        self._status.state, self._status.error = "stopped", None
        self._publish(self._status)

    def _work(self, is_fresh: bool) -> PositionsLost | None:
        """Restores, unless told to begin anew, and learns; returns why it must begin anew, None where told to stop."""
        settings = self._settings
        self._status.state = "restoring"
        self._publish(self._status)
        directory = self._directory / f"{TABLES_PREFIX}{time.time_ns()}"
        with ExitStack() as stack:
            fence = Fence(settings.kafka_topic, settings.group_id)
            stack.callback(fence.close)
            store = CheckpointStore(settings.checkpoints, settings.retention, _confirm_before_rename(fence))
            decoder = EventDecoder(settings.event_format, settings.task, settings.n_rows, not settings.embeddings)
            laps = _Laps()
            model, loaded = self._restore(directory, store, decoder, is_fresh, laps)
            loop = self._compose(model, decoder, store, fence, stack)
            loop.status.tables = directory.name
            if loaded is not None:
                loop.resume(loaded)
                log.info("restored", checkpoint=loaded.path.name, events=model.n_events, seconds=laps.seconds)
            loop.report.tell()  # from here the API serves these tables, whether Kafka is there or not
            remove_tables(self._directory, but=directory)  # who has them mapped keeps them until it attaches to ours
            try:
                self._learn(loop, fence)
            except PositionsLost as lost:
                return lost.with_traceback(None)  # which would keep these tables in memory beside the next ones
        return None

    def _restore(
        self, directory: Path, store: CheckpointStore, decoder: EventDecoder, is_fresh: bool, laps: _Laps
    ) -> tuple[OnlineModel, Loaded | None]:
        """The model in fresh tables, and the checkpoint that they were filled from."""
        settings = self._settings
        with ThreadPoolExecutor(1, thread_name_prefix="warm-up") as beside:
            warmed = beside.submit(_warm_up, settings.model, decoder)
            tables = self._allocate(directory)
            laps.end("tables")
            configuration = describe_configuration(settings.model, settings.event_format)
            loaded = None if is_fresh else store.load_newest(configuration, tables.tensors)
            if loaded is None:
                tables.initialize()
            elif not settings.adopt:
                check_topics(loaded.path, loaded.manifest.positions, settings.topic)
            laps.end("checkpoint")
            warmed.result()
        model = OnlineModel(tables)
        laps.end("kernels")
        return model, loaded

    def _allocate(self, directory: Path) -> Tables:
        """Fresh tables. Where there is no room for them beside those of a learner that died, these go first.

        Raises:
            ConfigurationError: there is no room for them alone either.
        """
        try:
            return Tables.allocate(self._settings.model, directory)
        except ConfigurationError as error:
            if not remove_tables(self._directory):
                raise
            log.warning("those of the learner before are removed first; answers stop until it is restored", cause=error)
        deadline = time.monotonic() + ROOM_S
        while True:
            try:
                return Tables.allocate(self._settings.model, directory)
            except ConfigurationError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(ROOM_RETRY_S)

    def _compose(
        self, model: OnlineModel, decoder: EventDecoder, store: CheckpointStore, fence: Fence, stack: ExitStack
    ) -> LearnLoop:
        """The loop and its parts, which the stack closes."""
        settings, choice = self._settings, self._settings.on_lost_position
        source = _source_class(settings.kafka_client)(
            settings.kafka_topic,
            settings.group_id,
            settings.start_at,
            on_lost=choice if choice in ("earliest", "latest") else "stop",
            describe=advise,
        )
        stack.callback(source.close)
        letters = self._open_letters(stack)
        lesson = Lesson(model, decoder, letters, self._guard, settings.skip_until)
        on_changed: OnChangedIdentity = (
            "keep" if choice == "keep" else "lose" if choice in ("earliest", "latest") else "stop"
        )
        standing = Standing(model, source, on_changed, advise)
        schedule = CheckpointSchedule(
            Saver(store, model.tables),
            lesson,
            standing,
            settings.checkpoint_seconds,
            self._take_checkpoint_request,
            advise,
        )
        stack.callback(schedule.close)
        loop = LearnLoop(lesson, standing, schedule, self._publish, fence, advise)
        loop.status.pid, loop.status.started_at = self._status.pid, self._status.started_at
        self._status = loop.status
        return loop

    def _open_letters(self, stack: ExitStack) -> Letters:
        """Where rejected records go; the stack closes it."""
        if not self._settings.dead_letter_topic:
            log.info("records that cannot be learned from are counted, and not kept: dead_letter_topic is empty")
            return NoLetters()
        letters = DeadLetters(self._settings.kafka_topic, self._settings.dead_letter_dir, advise)
        stack.callback(letters.close)
        return letters

    def _learn(self, loop: LearnLoop, fence: Fence) -> None:
        """Learns until told to stop. Once learning has begun, what a person has to act on is waited for.

        Raises:
            PositionsLost: and the choice is to start a fresh model.
            ConsumerError: learning could not begin, and a person has to act.
        """
        settings = self._settings
        has_begun = False
        while not self._stop.is_set():
            try:
                loop.start()
                has_begun = True
                log.info("learning", topic=settings.topic, positions=loop.status.positions)
                loop.run(self._stop)
            except Fenced as fenced:
                self._wait(loop, "fenced", fenced, until=fence.is_free)
                fence.reset()
            except ConsumerError as error:
                is_lost = isinstance(error, PositionsLost)
                if error.retriable:
                    self._wait(loop, "connecting", error, RETRY_S)
                elif isinstance(error, TopicNotFound) and settings.create_topic and not has_begun:
                    settings.kafka_topic.create()
                elif (is_lost and settings.on_lost_position == "fresh") or not (is_lost or has_begun):
                    raise
                else:
                    self._wait(loop, "blocked", error, BLOCKED_S)
        fence.release()

    def _wait(
        self,
        loop: LearnLoop,
        state: State,
        error: ConsumerError,
        seconds: float = math.inf,
        until: Callable[[], bool] = lambda: False,
    ) -> None:
        """Tells the error, and waits for so long, until what is asked once in IDLE_S is true, or until told to stop."""
        text = advise(error)
        if (loop.status.state, loop.status.error) != (state, text):
            (log.warning if error.retriable else log.error)(state, error=text)
        loop.status.state, loop.status.error = state, text
        deadline = time.monotonic() + seconds
        while not self._stop.is_set() and time.monotonic() < deadline and not until():
            loop.report.tell()
            self._stop.wait(min(IDLE_S, deadline - time.monotonic()))

    def _publish(self, status: LearnerStatus) -> None:
        """Tells; where the memory folder takes no more, learning goes on and only the log tells."""
        try:
            write_status(self._directory, status)
        except OSError as error:
            silence = f"cannot report in {self._directory}: {error.strerror}; make room there. Learning goes on"
            if silence != self._silence:
                log.error(silence)
            self._silence = silence
            return
        if self._silence is not None:
            log.info("reporting again", directory=str(self._directory))
        self._silence = None

    def _take_checkpoint_request(self) -> bool:
        try:
            (self._directory / CHECKPOINT_REQUEST).unlink()
        except FileNotFoundError:
            return False
        return True


def _source_class(client: str) -> type[KafkaSource]:
    if client == "confluent":
        from flexihash.consumer.kafka.confluent import ConfluentSource

        return ConfluentSource
    return KafkaSource


def _warm_up(config: ModelConfig, decoder: EventDecoder) -> None:
    """Loads, or compiles, what the first event or the first checkpoint would wait for."""
    tables = Tables.create(msgspec.structs.replace(config, n_rows=2))
    OnlineModel(tables).warm_up()
    Shadow(tables).refresh()
    decoder.warm_up()


class _Laps:
    """How long each stage of a start takes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begin = time.perf_counter()

    def end(self, stage: str) -> None:
        """Notes the seconds since the stage before ended."""
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._begin, 3)
        self._begin = now


def _open_guard(directory: Path) -> PoisonGuard:
    may_be_killed = os.environ.get(LAST_EXIT, "") in ("", str(-signal.SIGKILL))
    return PoisonGuard(directory, may_be_killed=may_be_killed)


def _confirm_before_rename(fence: Fence) -> Callable[[str], None]:
    """A step hook of the checkpoints: nothing gets a checkpoint's name once a later learner has come."""

    def confirm(step: str) -> None:
        if step == "rename":
            try:
                fence.check()
            except Fenced:
                raise
            except ConsumerError as error:  # the broker is away: whichever learner saves, what it saves is exact
                log.info("saving without knowing of other learners", error=advise(error))

    return confirm


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
        log.error(advise(error))
        return MUST_MEND
    return 0

"""Learning from a file of events, by the same lesson as from a topic."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event as StopSignal
from typing import Any, Generic, TypeVar

import msgspec

from flexihash.consumer.consumer_errors import LabelsUnfit
from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.formats.file_source import FileSource
from flexihash.consumer.formats.reader import Format
from flexihash.consumer.history import read_history
from flexihash.consumer.lesson import Lesson, Letters
from flexihash.consumer.records import Record
from flexihash.consumer.sample import Sample, Taken
from flexihash.consumer.schedule import CheckpointSchedule
from flexihash.consumer.standing import Standing
from flexihash.consumer.wire import EventFormat, EventReader
from flexihash.model.checkpoint.retention import Retention
from flexihash.model.checkpoint.store import CheckpointStore
from flexihash.model.config import ModelConfig
from flexihash.model.online import OnlineModel
from flexihash.model.saving import Saver
from flexihash.model.tables import Tables

MAX_SAMPLES = 5  # of rejected events, shown with their reason
MAX_EXAMPLES = 7  # of labels, shown where they are unfit
MIN_UNFIT = 2  # labels; one is a slip
MAX_UNFIT_SHARE = 0.01  # of the labels that are numbers; more are no slips
MAX_TEXTS_SHARE = 0.5  # of those and the texts


class FileReport(msgspec.Struct, kw_only=True):
    """What `learn_file` did.

    Args:
        events: learned from in this run; `seconds` is its time without start-up.
        rejected: counts by reason, `rejected_samples` the first few messages.
        metrics: progressive metrics, over all that the model ever learned.
        features: what the features of the first `sampled` events of this run were taken for.
    """

    events: int
    seconds: float
    events_per_second: float
    rejected: dict[str, int]
    rejected_samples: list[str]
    unlabelled: int
    metrics: dict[str, Any]
    features: dict[str, Taken] = {}
    sampled: int = 0
    checkpoint: str | None = None


Label = TypeVar("Label", float, str)


class _Unfit(Generic[Label]):
    """Labels of one kind that the task does not learn."""

    def __init__(self) -> None:
        self.n_labels = 0
        self.examples: set[Label] = set()

    def add(self, label: Label) -> None:
        self.n_labels += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.add(label)


class _Rejected(Letters):
    """Dead letters of a file: the file itself still has them, so the first few are only shown, and labels counted."""

    def __init__(self, path: Path, reader: EventReader) -> None:
        self.first: list[tuple[Record, str]] = []
        self._path = path
        self._reader = reader
        self._numbers = _Unfit[float]()  # labels that are numbers, and not what the task learns
        self._texts = _Unfit[str]()

    def send(self, record: Record, stage: str, reason: str, message: str) -> None:
        if len(self.first) < MAX_SAMPLES:
            self.first.append((record, message))
        if reason == "bad_label":
            for label in self._reader.find_labels(record.value or b""):
                self._note(label)

    def flush(self, timeout_s: float) -> None:
        pass

    def check_labels(self, n_learned: int) -> None:
        """Looks whether the labels are of another task, when so many were fit.

        Raises:
            LabelsUnfit: they are; what is learned of the others is of no use.
        """
        for unfit, most in ((self._numbers, MAX_UNFIT_SHARE), (self._texts, MAX_TEXTS_SHARE)):
            n_labels = n_learned + unfit.n_labels
            if unfit.n_labels >= MIN_UNFIT and unfit.n_labels > most * n_labels:
                raise LabelsUnfit(self._path, unfit.n_labels, n_labels, unfit.examples, self._reader.task)

    def _note(self, label: object) -> None:
        if isinstance(label, int | float):
            self._numbers.add(label)
        elif isinstance(label, str):
            self._texts.add(label)


def learn_file(
    path: Path,
    model_config: ModelConfig,
    event_format: EventFormat,
    checkpoint_dir: Path | None = None,
    checkpoint_keep: int | Retention = 3,
    on_progress: Callable[[int, int, int], None] = lambda bytes_done, bytes_total, events: None,
    checkpoint_seconds: float = 60.0,
    stop: StopSignal | None = None,
    file_format: Format | None = None,
) -> FileReport:
    """Learns from `path`, event by event, each predicted before it is learned from.

    With `checkpoint_dir` it goes on from the newest checkpoint there, in the file too where it has been learned from
    before, and saves one at the end.

    Args:
        file_format: where it is not what its name or its first bytes say.

    Raises:
        FileUnreadable: see `FileSource`.
        LabelMissing: no column of a table has the name of the label.
        LabelsUnfit: more labels than can be slips are numbers that the task does not know, or most of them texts.
        CheckpointError: the checkpoint cannot be gone on from.
    """
    with ExitStack() as stack:
        source = FileSource(path, file_format)
        stack.callback(source.close)
        for name in event_format.label_names:
            source.check_label(name)
        model, event_format = OnlineModel(Tables.create(model_config)), source.fit(event_format)
        decoder = EventDecoder(event_format, model_config.task, model_config.n_rows, not model_config.embeddings)
        rejected = _Rejected(path, decoder)
        lesson, standing = Lesson(model, decoder, rejected), Standing(model, source)
        schedule = None
        if checkpoint_dir is not None:
            store = CheckpointStore(checkpoint_dir, checkpoint_keep)
            schedule = _restore(store, lesson, standing, checkpoint_seconds)
            stack.callback(schedule.close)
        model.warm_up()
        decoder.warm_up()
        n_before = model.n_events
        standing.begin()
        lesson.begin(source.topic, None)
        columns = source.columns if not event_format.features_field else None
        sample, start = Sample(decoder, columns), time.perf_counter()
        for _ in _read_to_end(source, lesson, sample, schedule, stop):
            rejected.check_labels(model.n_events - n_before)
            on_progress(source.done_bytes, source.size_bytes, model.n_events - n_before)
        seconds = time.perf_counter() - start
        if schedule is not None:
            _save_last(schedule)
        n_events = model.n_events - n_before
        return FileReport(
            events=n_events,
            seconds=seconds,
            events_per_second=n_events / seconds if seconds > 0 else 0.0,
            rejected=lesson.rejected,
            rejected_samples=[f"{source.place(record.offset)}: {message}" for record, message in rejected.first],
            unlabelled=lesson.unlabelled,
            metrics=model.report(),
            features=sample.describe(),
            sampled=sample.n_events,
            checkpoint=schedule.status.path if schedule is not None else None,
        )


def _restore(store: CheckpointStore, lesson: Lesson, standing: Standing, seconds: float) -> CheckpointSchedule:
    """Goes on from the newest checkpoint, where there is one. The counts are those of this run."""
    tables = lesson.model.tables
    loaded = store.load_newest(lesson.configuration, tables.tensors)
    schedule = CheckpointSchedule(Saver(store, tables), lesson, standing, seconds)
    if loaded is not None:
        standing.resume(loaded.manifest)
        lesson.history = read_history(loaded.manifest.metrics)
        schedule.resume(loaded)
    schedule.begin()
    return schedule


def _read_to_end(
    source: FileSource, lesson: Lesson, sample: Sample, schedule: CheckpointSchedule | None, stop: StopSignal | None
) -> Iterator[None]:
    """Learns the file, or until told to stop; yields after each poll."""
    while not source.is_at_end and not (stop is not None and stop.is_set()):
        for fetch in source.poll(0.0):
            sample.note(fetch.values)
            lesson.apply(fetch)
        if schedule is not None:
            schedule.tend()
        yield


def _save_last(schedule: CheckpointSchedule) -> None:
    saved = schedule.save_now()
    if saved is not None and saved.error is not None:
        raise saved.error

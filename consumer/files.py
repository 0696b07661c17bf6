"""Learning from a file of one JSON event a line, by the same lesson as from a topic."""

from __future__ import annotations

import gzip
import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from threading import Event as StopSignal
from typing import IO, Any, cast

import msgspec

from flexihash.consumer.consumer_errors import FileUnreadable, LabelsUnfit
from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.history import read_history
from flexihash.consumer.lesson import Lesson, Letters
from flexihash.consumer.records import Fetch, Identity, Record
from flexihash.consumer.schedule import CheckpointSchedule
from flexihash.consumer.standing import Standing
from flexihash.consumer.wire import EventFormat, EventReader
from flexihash.model.checkpoint.retention import Retention
from flexihash.model.checkpoint.store import CheckpointStore
from flexihash.model.config import ModelConfig
from flexihash.model.online import OnlineModel
from flexihash.model.saving import Saver
from flexihash.model.tables import Tables

FETCH_LINES = 2_000
MAX_SAMPLES = 5  # of rejected events, shown with their reason
MAX_EXAMPLES = 7  # of labels, shown where they are unfit
MIN_UNFIT = 2  # labels; one is a slip
MAX_UNFIT_SHARE = 0.01  # of the labels; more are no slips
STDIN = "-"


class FileSource:
    """The lines of a file (``.gz`` too; ``-`` for standard input) as a `Source` with one partition.

    A line's offset is that of its last byte, so that the position after it is where the next line begins.
    """

    def __init__(self, path: Path) -> None:
        self.topic = str(path) if str(path) == STDIN else str(path.resolve())
        self.size_bytes = 0  # on the disk; 0 where it is not known
        self._path = path
        self._file: IO[bytes] | None = None
        self._raw: IO[bytes] | None = None
        self._position = 0
        self.is_at_end = False

    @property
    def done_bytes(self) -> int:
        """Bytes read so far, as `size_bytes` counts them."""
        return self._raw.tell() if self._raw is not None and self._raw.seekable() else self._position

    def identity(self) -> Identity:
        """A file has no identity but its name."""
        return Identity(None, None)

    def read(self, offsets: Mapping[int, int]) -> dict[int, Record]:
        """Nothing: a file is taken for what its name says."""
        return {}

    def start(self, positions: Mapping[int, int]) -> dict[int, int]:
        """Opens the file at its position.

        Raises:
            FileUnreadable: it cannot be opened, or is shorter than what was learned from it before.
        """
        self.close()
        self._position = positions.get(0, 0)
        try:
            self._open()
        except OSError as error:
            raise FileUnreadable(f"cannot read {self._path}: {error.strerror or error}") from error
        return {0: self._position}

    def _open(self) -> None:
        if self.topic == STDIN:
            self._position = 0
            self._file = sys.stdin.buffer
            return
        self._raw = self._path.open("rb")
        self.size_bytes = self._path.stat().st_size
        is_compressed = self._path.suffix == ".gz"
        self._file = cast(IO[bytes], gzip.GzipFile(fileobj=self._raw)) if is_compressed else self._raw
        if self._file.seek(self._position) < self._position or (not is_compressed and self.size_bytes < self._position):
            raise FileUnreadable(
                f"{self._path} was learned up to byte {self._position}, but is shorter now: "
                "it is another file; give it another name, or another checkpoint folder"
            )

    def poll(self, timeout_s: float) -> list[Fetch]:
        """The next lines; nothing at the end of the file."""
        assert self._file is not None
        offsets: list[int] = []
        values: list[bytes | None] = []
        position = self._position
        try:
            while len(values) < FETCH_LINES and (line := self._file.readline()):
                position += len(line)
                if not line.isspace():
                    offsets.append(position - 1)
                    values.append(line)
        except (OSError, EOFError) as error:
            raise FileUnreadable(f"cannot read {self._path} after byte {position}: {error}") from error
        self.is_at_end = not values
        self._position = position
        if not values:
            return []

        def build_record(index: int) -> Record:
            return Record(self.topic, 0, offsets[index], -1, None, values[index], ())

        return [Fetch(0, offsets, values, build_record)]

    def end_positions(self) -> dict[int, int]:
        """Not known: a file is read to its end."""
        return {}

    def commit(self, positions: Mapping[int, int]) -> None:
        """A file keeps no positions."""

    def refresh(self) -> dict[int, int]:
        """A file has one partition."""
        return {}

    def close(self) -> None:
        """Closes the file."""
        if self._raw is not None:
            self._raw.close()


class FileReport(msgspec.Struct, kw_only=True):
    """What `learn_file` did.

    Args:
        events: learned from in this run; `seconds` is its time without start-up.
        rejected: counts by reason, `rejected_samples` the first few messages.
        metrics: progressive metrics, over all that the model ever learned.
    """

    events: int
    seconds: float
    events_per_second: float
    rejected: dict[str, int]
    rejected_samples: list[str]
    unlabelled: int
    metrics: dict[str, Any]
    checkpoint: str | None = None


class _Rejected(Letters):
    """Dead letters of a file: the file itself still has them, so the first few are only shown, and labels counted."""

    def __init__(self, path: Path, reader: EventReader) -> None:
        self.first: list[tuple[Record, str]] = []
        self._path = path
        self._reader = reader
        self._n_unfit = 0  # labels that are numbers, and not what the task learns
        self._examples: set[float] = set()

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
        n_labels = n_learned + self._n_unfit
        if self._n_unfit >= MIN_UNFIT and self._n_unfit > MAX_UNFIT_SHARE * n_labels:
            raise LabelsUnfit(self._path, self._n_unfit, n_labels, self._examples, self._reader.task)

    def _note(self, label: object) -> None:
        if isinstance(label, int | float):
            self._n_unfit += 1
            if len(self._examples) < MAX_EXAMPLES:
                self._examples.add(label)


def learn_file(
    path: Path,
    model_config: ModelConfig,
    event_format: EventFormat,
    checkpoint_dir: Path | None = None,
    checkpoint_keep: int | Retention = 3,
    on_progress: Callable[[int, int, int], None] = lambda bytes_done, bytes_total, events: None,
    checkpoint_seconds: float = 60.0,
    stop: StopSignal | None = None,
) -> FileReport:
    """Learns from `path`, event by event, each predicted before it is learned from.

    With `checkpoint_dir` it goes on from the newest checkpoint there, in the file too where it has been learned from
    before, and saves one at the end.

    Raises:
        FileUnreadable: see `FileSource`.
        LabelsUnfit: more labels than can be slips are numbers that the task does not know.
        CheckpointError: the checkpoint cannot be gone on from.
    """
    model = OnlineModel(Tables.create(model_config))
    decoder = EventDecoder(event_format, model_config.task, model_config.n_rows, not model_config.embeddings)
    source, rejected = FileSource(path), _Rejected(path, decoder)
    lesson, standing = Lesson(model, decoder, rejected), Standing(model, source)
    with ExitStack() as stack:
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
        stack.callback(source.close)
        start = time.perf_counter()
        for _ in _read_to_end(source, lesson, schedule, stop):
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
        rejected_samples=[
            f"{path}:{line_number(path, record.offset)}: {message}" for record, message in rejected.first
        ],
        unlabelled=lesson.unlabelled,
        metrics=model.report(),
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
    source: FileSource, lesson: Lesson, schedule: CheckpointSchedule | None, stop: StopSignal | None
) -> Iterator[None]:
    """Learns the file, or until told to stop; yields after each poll."""
    while not source.is_at_end and not (stop is not None and stop.is_set()):
        for fetch in source.poll(0.0):
            lesson.apply(fetch)
        if schedule is not None:
            schedule.tend()
        yield


def _save_last(schedule: CheckpointSchedule) -> None:
    saved = schedule.save_now()
    if saved is not None and saved.error is not None:
        raise saved.error


def line_number(path: Path, offset: int) -> str:
    """The line that holds the byte at `offset`; for a stream that is gone, the byte."""
    if str(path) == STDIN:
        return f"byte {offset}"
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        n_lines = 0
        while offset > 0 and (block := cast(io.BufferedIOBase, file).read(min(offset, 1 << 20))):
            n_lines += block.count(b"\n")
            offset -= len(block)
    return str(n_lines + 1)

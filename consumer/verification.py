"""Whether a checkpoint is, bit for bit, what the log implies: its records are learned again, without a stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event as StopSignal

import msgspec
import torch

from flexihash.consumer.consumer_errors import PositionOutOfRange
from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.history import read_history
from flexihash.consumer.lesson import Lesson, NoLetters
from flexihash.consumer.loop import REFRESH_S
from flexihash.consumer.records import Fetch, Source
from flexihash.consumer.standing import Standing, check_identity
from flexihash.consumer.wire import EventFormat
from flexihash.model.checkpoint.manifest import Manifest
from flexihash.model.checkpoint.tensors import read
from flexihash.model.config import ModelConfig
from flexihash.model.online import OnlineModel
from flexihash.model.tables import Tables

SILENCE_S = 10.0  # a log that says nothing for so long has no more records before the end: compaction took them


class Verdict(msgspec.Struct, kw_only=True):
    """What came of it.

    Args:
        checkpoint, older: the folders; `older` is None where the log was learned from its beginning.
        is_ordered: whether tensors could be compared. Where the positions are of several partitions they cannot: in
            which order these were mixed is not in the log. Then the counts alone are compared.
        events: learned again; `seconds` is the time that it took.
        differences: for people; none where the checkpoint is what the log implies.
    """

    checkpoint: str
    older: str | None
    is_ordered: bool
    events: int
    seconds: float
    differences: list[str]


def verify_checkpoint(
    path: Path,
    source: Source,
    config: ModelConfig,
    format: EventFormat,
    older: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    stop: StopSignal | None = None,
) -> Verdict:
    """Learns the log up to the positions of the checkpoint at `path` and compares.

    Args:
        source: reads the topic that the checkpoint learned; a cold start of it begins at the log's first record.
        config, format: as the checkpoint's configuration has them.
        older: a checkpoint to begin from, where the log no longer holds what came before it.
        on_progress: gets offsets passed and offsets in all, over all partitions.
        stop: when set, ends it early; the verdict is then of no use.

    Raises:
        CheckpointError: a checkpoint cannot be read.
        IdentityChanged: the topic is not the one that was learned.
        PositionOutOfRange: the log does not hold all that has to be learned.
    """
    tensors, manifest = read(path)
    model = OnlineModel(Tables.create(config))
    lesson = Lesson(
        model, EventDecoder(format, config.task, config.n_rows, needs_label=not config.embeddings), NoLetters()
    )
    until = {int(key.rpartition(":")[2]): position for key, position in manifest.positions.items()}
    _begin(lesson, source, manifest, until, older)
    is_ordered = len(until) == 1
    n_before, begin = model.n_events, time.perf_counter()
    skipped = read_history(manifest.metrics).skipped
    _learn_until(lesson, source, until, _find_poison(manifest), skipped, on_progress, stop or StopSignal())
    return Verdict(
        checkpoint=str(path),
        older=str(older) if older else None,
        is_ordered=is_ordered,
        events=model.n_events - n_before,
        seconds=time.perf_counter() - begin,
        differences=[
            *(_compare_tensors(_forget_gone(model.tables.tensors, tensors), tensors) if is_ordered else ()),
            *_compare_counts(lesson, manifest),
        ],
    )


def _begin(lesson: Lesson, source: Source, manifest: Manifest, until: Mapping[int, int], older: Path | None) -> None:
    """Has the source stand where the older checkpoint, or the log, begins; it holds all that comes before `until`."""
    standing = Standing(lesson.model, source)
    tables = lesson.model.tables
    if older is not None:
        _, begun = read(older, tables.tensors)
        standing.resume(begun)
        lesson.resume(begun.metrics)
    check_identity(source.topic, manifest.cluster_id, manifest.topic_ids.get(source.topic), source.identity())
    source.start(until)  # or the log would end before it
    standing.begin()
    if older is None:
        _check_beginning(source.topic, tables.positions())


def _check_beginning(topic: str, positions: Mapping[int, int]) -> None:
    for partition, position in positions.items():
        if position > 0:
            raise PositionOutOfRange(topic, partition, 0, position, None)


def _learn_until(
    lesson: Lesson,
    source: Source,
    until: Mapping[int, int],
    poison: set[tuple[int, int]],
    skipped: Mapping[str, list[tuple[int, int]]],
    on_progress: Callable[[int, int], None],
    stop: StopSignal,
) -> None:
    first = lesson.model.tables.positions()
    total = sum(until[partition] - first.get(partition, 0) for partition in until)
    heard = looked = time.monotonic()
    while left := _count_left(lesson, until):
        on_progress(total - left, total)
        for fetch in source.poll(0.5):
            heard = time.monotonic()
            if stop.is_set():
                return
            ranges = skipped.get(f"{source.topic}:{fetch.partition}", [])
            _learn_part(lesson, fetch, until.get(fetch.partition, 0), poison, ranges)
        if time.monotonic() > looked + REFRESH_S:
            source.refresh()  # a broker that went away is silent too: this tells the difference
            looked = time.monotonic()
        if time.monotonic() > heard + SILENCE_S:
            break
    on_progress(total, total)
    for partition, position in until.items():
        if lesson.model.tables.positions().get(partition) != position:
            lesson.model.advance(partition, position)


def _learn_part(
    lesson: Lesson, fetch: Fetch, until: int, poison: set[tuple[int, int]], skipped: Sequence[tuple[int, int]]
) -> None:
    """Learns the records before `until` that are not poison and were not skipped."""
    wanted = [index for index, offset in enumerate(fetch.offsets) if offset < until]
    read = [index for index in wanted if not any(a <= fetch.offsets[index] < b for a, b in skipped)]
    if poisoned := [index for index in read if (fetch.partition, fetch.offsets[index]) in poison]:
        lesson.count("poison", len(poisoned))
    kept = [index for index in read if index not in poisoned]
    if kept:
        offsets, values = [fetch.offsets[index] for index in kept], [fetch.values[index] for index in kept]
        lesson.apply(Fetch(fetch.partition, offsets, values, lambda index: fetch.record(kept[index]), fetch.faults))
    if wanted:
        lesson.advance(fetch.cut(0, len(wanted)))
    elif lesson.model.tables.positions().get(fetch.partition, until) < until:  # compaction took the last records
        lesson.model.advance(fetch.partition, until)


def _count_left(lesson: Lesson, until: Mapping[int, int]) -> int:
    positions = lesson.model.tables.positions()
    return sum(max(0, end - positions.get(partition, 0)) for partition, end in until.items())


def _find_poison(manifest: Manifest) -> set[tuple[int, int]]:
    places = (place.split("@") for place in manifest.metrics.get("poison", ()))
    return {(int(partition), int(offset)) for partition, offset in places}


def _forget_gone(implied: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same, where the log no longer holds a partition's last record with the digest that was found."""
    digests = implied["digests"]
    return {**implied, "digests": torch.where(digests == 0, found["digests"], digests)}


def _compare_tensors(implied: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> list[str]:
    return [line for name in implied if (line := _compare_bits(name, implied[name], found[name]))]


def _compare_bits(name: str, implied: torch.Tensor, found: torch.Tensor) -> str | None:
    differs = (implied.view(torch.uint8) != found.view(torch.uint8)).reshape(len(implied), -1).any(1)
    rows = torch.nonzero(differs).flatten()
    return f"{name}: {len(rows):,} of {len(differs):,} rows differ, row {int(rows[0])} first" if len(rows) else None


def _compare_counts(lesson: Lesson, manifest: Manifest) -> list[str]:
    counts = (
        ("events", lesson.model.n_events, manifest.events),
        ("weight", lesson.model.report()["weight"], manifest.metrics["weight"]),
        ("rejected", lesson.rejected, manifest.metrics["rejected"]),
        ("unlabelled", lesson.unlabelled, manifest.metrics["unlabelled"]),
    )
    return [f"{name}: {found} instead of {implied}" for name, implied, found in counts if implied != found]

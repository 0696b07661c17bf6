"""How fast does a file become hashed rows? `python -m bench --only files`, about a minute.

The same flights, one flat event each, as NDJSON, CSV and Parquet, plain and packed. Reading alone gives an event as
JSON; what follows is the learner's decoding, the same for all. Every way takes turns in one process; each figure is the
median of the process's CPU time.
"""

from __future__ import annotations

import csv
import gzip
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import zstandard
from pyarrow import parquet

from bench.results import Row
from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.formats.file_source import FileSource
from flexihash.consumer.wire import EventFormat
from flexihash.model.tasks import Task
from flexihash.producer.flights import flights

N_FLIGHTS = 50_000
N_TURNS = 5
N_ROWS = 1 << 18
YARDSTICK = "flights.ndjson"
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda content: gzip.compress(content, 6),
    ".zst": zstandard.ZstdCompressor().compress,
}


def write_files(folder: Path) -> list[Path]:
    """The flights in every way, the yardstick first."""
    rows = [{**_read_numbers(event["features"]), "label": event["label"]} for event in flights(N_FLIGHTS)]
    encoder = msgspec.json.Encoder()
    (folder / YARDSTICK).write_bytes(b"".join(encoder.encode(row) + b"\n" for row in rows))
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "flights.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "flights.parquet")
    for name in (YARDSTICK, "flights.csv"):
        for suffix, pack in PACKINGS.items():
            (folder / f"{name}{suffix}").write_bytes(pack((folder / name).read_bytes()))
    return sorted(folder.iterdir(), key=lambda path: path.name != YARDSTICK)


def _read_numbers(features: dict[str, Any]) -> dict[str, Any]:
    """The same where CSV cannot tell a text of digits from a number."""
    return {name: int(value) if str(value).isdigit() else value for name, value in features.items()}


def time_reading_us(path: Path, decoder: EventDecoder | None) -> float:
    """CPU time an event, in us; without a decoder, of reading alone."""
    source = FileSource(path)
    begin, n_events = time.process_time(), 0
    source.start({})
    while fetches := source.poll(0.0):
        for fetch in fetches:
            n_events += len(fetch if decoder is None else decoder.decode(fetch.values).kept)
    elapsed_s = time.process_time() - begin
    source.close()
    assert n_events == N_FLIGHTS
    return elapsed_s * 1e6 / n_events


def time_files_us(paths: Sequence[Path]) -> dict[Path, tuple[float, float]]:
    """Of each file, the medians of reading alone and of reading and decoding."""
    decoder = EventDecoder(EventFormat(features_field=""), Task.BINARY, N_ROWS)
    decoder.warm_up()
    times_us: dict[Path, list[tuple[float, float]]] = {path: [] for path in paths}
    order = random.Random(0)
    for _ in range(N_TURNS):
        for path in order.sample(paths, len(paths)):
            times_us[path].append((time_reading_us(path, None), time_reading_us(path, decoder)))
    return {path: tuple(map(statistics.median, zip(*times, strict=True))) for path, times in times_us.items()}  # type: ignore[misc]


def measure(say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Every way, beside plain NDJSON."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        medians_us = time_files_us(write_files(Path(folder)))
        yardstick_us = medians_us[Path(folder) / YARDSTICK]
        for path, found_us in medians_us.items():
            note = f"{path.stat().st_size / N_FLIGHTS:.0f} bytes an event"
            for what, median_us, beside_us in zip(("read", "read and decoded"), found_us, yardstick_us, strict=True):
                ratio = median_us / beside_us
                rows.append(
                    Row("files", path.name, f"CPU time, {what}", median_us, "us/event", ratio, "to NDJSON", note=note)
                )
    say("flights")
    return rows, []

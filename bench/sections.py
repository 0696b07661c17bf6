"""The benchmarks in turn, each in a process of its own, so that none is in the memory or the threads of another.

They are not in `__main__`, which a process that is started anew cannot import.
"""

from __future__ import annotations

import importlib
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from bench.machine import describe_machine
from bench.results import Row, Run

SECTIONS = {
    "learning": "from JSON bytes to the updated table on flights, and how well it predicts, beside the peers",
    "quality": "progressive loss on public streams, beside the peers",
    "classes": "progressive loss of many classes, and labels, on public streams, beside the peers",
    "embeddings": "is like beside like: context embeddings beside those made offline; speed with them and without",
    "decode": "from JSON bytes to hashed rows, beside msgspec alone",
    "files": "from a file to hashed rows: CSV and Parquet, plain and packed, beside NDJSON",
    "kafka": "from the topic to the table, beside the bare client",
    "http": "predictions over HTTP, idle and under ingest, beside a bare route",
    "start": "from the command to the first prediction, with kernels cached and with none",
    "checkpoint": "pause, duration, size, and recovery from SIGKILL",
    "memory": "bytes a row, and both processes as distinct features grow to 10^8",
    "pooling": "the library's pooling beside torch's and the upstream way",
}
"""Each is a module of this folder with `measure(say) -> (rows, what was left out)`."""


def run_section(name: str) -> tuple[list[Row], list[str]]:
    """The section's rows, and what it left out; for a process of its own."""
    module = importlib.import_module(f"bench.{name}")
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"  {time.monotonic() - start:5.0f} s  {text}", file=sys.stderr, flush=True)

    rows, skipped = module.measure(say)
    return rows, skipped


def run(names: list[str]) -> Run:
    """The sections in turn; one that fails does not stop the others."""
    found = Run(describe_machine(), {}, [], [], {})
    begin = time.monotonic()
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name}: {SECTIONS[name]}", file=sys.stderr, flush=True)
        start = time.monotonic()
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as worker:
            try:
                rows, skipped = worker.submit(run_section, name).result()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit too: a section tells so what is missing
                found.failed[name] = f"{type(error).__name__}: {error}"
            else:
                found.rows.extend(rows)
                found.skipped.extend(f"{name}: {reason}" for reason in skipped)
        found.seconds[name] = time.monotonic() - start
        print(f"  {name} took {found.seconds[name]:.0f} s", file=sys.stderr, flush=True)
    print(f"all took {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return found

"""Who has the core while an answer waits for one: explains the p99 of predictions under ingest.

    sudo env KAFKA_HOME=... .venv/bin/python -m bench.waits [--turns 5]

The kernel's own trace of its scheduler (tracefs, for root alone) tells when the API's thread that answers, or wrk's
that asks, was ready to run and did not, and who ran on that core meanwhile. wrk corrects its percentiles for the
requests that it would have sent during a wait, so a p99 is high where such waits fill more than 1% of the time.
Predictions of one instance on one connection, while the learner works through a backlog, and then at rest.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from bench.http import BARE_CASE, SECONDS, TOPIC, make_bodies, run_case
from bench.load import Load, name_client
from bench.processes import running
from bench.topics import broker, fill
from flexihash.producer.events import encode
from flexihash.producer.flights import flights
from rig.ports import find_free_port

CLIENT = "wrk"
TRACE = Path("/sys/kernel/tracing")
EVENTS = ("sched_switch", "sched_wakeup")
BUFFER_KIB = 60_000  # for each core: 2 s are some 100,000 lines
LONG_S = 0.0003  # of waiting: about what an answer takes
N_PASSES = 10
N_SHOWN = 12
SETTLE_S = 3.0  # of learning, before the first turn

_LINE = re.compile(r"\[(\d+)\] \S+ +([\d.]+): (\w+): (.*)")
_SWITCH = re.compile(r"prev_comm=.* prev_pid=(\d+) prev_prio=\d+ prev_state=(\S+) ==> next_comm=(.*) next_pid=(\d+)")
_WAKEUP = re.compile(r"pid=(\d+) prio=-?\d+ target_cpu=(\d+)")
_PROCESSES = {
    "flexihash.service.child learner": "learner",
    "flexihash.service.child api": "API",
    "kafka.Kafka": "broker",
    "tansu": "broker",
    "bench.waits": "this program",
}
"""What stands in a process's command line, and what it is."""


Shares = dict[str, float]


class Span(NamedTuple):
    """A stretch of one core's time: which thread had it, and the name that the kernel gives it."""

    begin: float
    end: float
    thread: int
    name: str


class Wait(NamedTuple):
    """A thread was ready to run, and was not run."""

    thread: int
    core: int
    begin: float
    end: float


@contextmanager
def tracing() -> Iterator[None]:
    """The scheduler's trace is on.

    Raises:
        SystemExit: this kernel has none, or does not let us.
    """
    try:
        (TRACE / "tracing_on").write_text("0")
        (TRACE / "buffer_size_kb").write_text(str(BUFFER_KIB))
        (TRACE / "trace").write_text("")
        for event in EVENTS:
            (TRACE / "events/sched" / event / "enable").write_text("1")
    except OSError as error:
        raise SystemExit(f"cannot trace: {error}; run it as root, after `mount -t tracefs none {TRACE}`") from error
    try:
        (TRACE / "tracing_on").write_text("1")
        yield
    finally:
        (TRACE / "tracing_on").write_text("0")
        for event in EVENTS:
            (TRACE / "events/sched" / event / "enable").write_text("0")


def parse(trace: str) -> tuple[dict[int, list[Span]], list[Wait]]:
    """Who had each core when, and every thread's waits."""
    spans: dict[int, list[Span]] = defaultdict(list)
    running_now: dict[int, tuple[float, int, str]] = {}
    ready: dict[int, tuple[float, int]] = {}
    waits = []
    for line in trace.splitlines():
        found = _LINE.search(line)
        if not found:
            continue
        core, at, event, rest = int(found[1]), float(found[2]), found[3], found[4]
        if event == "sched_wakeup" and (woken := _WAKEUP.search(rest)):
            ready.setdefault(int(woken[1]), (at, int(woken[2])))
        elif event == "sched_switch" and (switch := _SWITCH.match(rest)):
            before, state, name, after = int(switch[1]), switch[2], switch[3], int(switch[4])
            if core in running_now:
                spans[core].append(Span(running_now[core][0], at, *running_now[core][1:]))
            running_now[core] = (at, after, name)
            if state.startswith("R"):
                ready[before] = (at, core)
            else:
                ready.pop(before, None)  # woken while it still ran
            if after in ready:
                since, where = ready.pop(after)
                waits.append(Wait(after, where, since, at))
    return spans, waits


class Names:
    """Which process a thread belongs to, as far as it still runs; asked while it does."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}

    def look(self) -> None:
        """Notes all threads that there are now."""
        for folder in Path("/proc").glob("[0-9]*/task/[0-9]*"):
            thread = int(folder.name)
            with contextlib.suppress(OSError):
                command = Path("/proc", folder.parts[2], "cmdline").read_bytes().replace(b"\0", b" ").decode()
                for part, name in _PROCESSES.items():
                    if part in command:
                        self._known[thread] = name

    def of(self, thread: int, fallback: str) -> str:
        """The process, or what the kernel calls the thread; 0 is a core that sleeps, or that its host has taken."""
        return "nobody: the core slept" if thread == 0 else self._known.get(thread, fallback)


def blame(spans: dict[int, list[Span]], waits: list[Wait], threads: set[int], names: Names) -> Shares:
    """Seconds of the long waits of these threads, by who had the core."""
    seconds: Shares = defaultdict(float)
    for wait in waits:
        if wait.thread in threads and wait.end - wait.begin >= LONG_S:
            for span in spans[wait.core]:
                overlap = min(span.end, wait.end) - max(span.begin, wait.begin)
                if overlap > 0:
                    seconds[names.of(span.thread, span.name)] += overlap
    return seconds


def busiest(spans: dict[int, list[Span]], process: str, names: Names) -> int:
    """The thread of a process that ran longest: the one that answers, or that asks."""
    used: dict[int, float] = defaultdict(float)
    for span in chain.from_iterable(spans.values()):
        if names.of(span.thread, span.name) == process:
            used[span.thread] += span.end - span.begin
    return max(used, key=used.__getitem__)


def trace_load(port: int, bodies: dict[int, list[bytes]], names: Names) -> tuple[Load, Shares]:
    """One load, and the share of its time that its two threads waited, by who had the core."""
    with tracing():
        load = run_case(port, bodies, BARE_CASE)
    names.look()
    spans, waits = parse((TRACE / "trace").read_text())
    threads = {busiest(spans, process, names) for process in ("API", CLIENT)}
    return load, {who: seconds / load.seconds for who, seconds in blame(spans, waits, threads, names).items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.waits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--turns", type=int, default=5, help=f"of {SECONDS:g} s, under ingest and at rest (%(default)s)"
    )
    turns = parser.parse_args().turns
    if name_client() != CLIENT:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    with tracing():
        pass
    bodies, messages = make_bodies(), list(encode(flights()))
    n = N_PASSES * len(messages)
    found: dict[str, list[tuple[Load, Shares]]] = {"under ingest": [], "idle": []}
    names = Names()
    with broker() as servers, tempfile.TemporaryDirectory() as folder:
        fill(servers, TOPIC, chain.from_iterable(repeat(messages, N_PASSES)))
        port = find_free_port()
        settings: dict[str, object] = {"bootstrap_servers": servers, "topic": TOPIC, "port": port}
        with running(["flexihash", "serve"], settings, Path(folder)) as service:
            service.wait(lambda: service.status().events > 0)
            time.sleep(SETTLE_S)
            for _ in range(turns):
                load = trace_load(port, bodies, names)
                if service.status().events >= n:
                    print("the backlog was too short for more turns", file=sys.stderr)
                    break
                found["under ingest"].append(load)
            if not found["under ingest"]:
                raise SystemExit(f"{n:,} events were learned within one turn: make N_PASSES larger")
            service.wait(lambda: service.status().events >= n)
            time.sleep(SETTLE_S)
            found["idle"] = [trace_load(port, bodies, names) for _ in range(turns)]
    show(found)


def show(found: dict[str, list[tuple[Load, Shares]]]) -> None:
    """Medians of the percentiles, means of the shares."""
    table = Table("", *found, title="one instance a request, one connection", title_justify="left")
    for field in ("p50_ms", "p99_ms", "p999_ms"):
        table.add_row(
            field, *(f"{statistics.median(getattr(load, field) for load, _ in turns):.2f}" for turns in found.values())
        )
    table.add_section()
    whole = {name: sum(sum(shares.values()) for _, shares in turns) / len(turns) for name, turns in found.items()}
    table.add_row("waited, % of the time", *(f"{100 * share:.2f}" for share in whole.values()))
    means: dict[str, Shares] = defaultdict(lambda: defaultdict(float))
    for name, turns in found.items():
        for _, shares in turns:
            for who, share in shares.items():
                means[who][name] += share / len(turns)
    for who, share_of in sorted(means.items(), key=lambda item: -sum(item[1].values()))[:N_SHOWN]:
        table.add_row(f"  while the core had {who}", *(f"{100 * share_of[name]:.2f}" for name in found))
    Console().print(table)


if __name__ == "__main__":
    main()

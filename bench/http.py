"""Predictions over HTTP, at rest and while the learner works through a backlog, beside a bare route.

Real parts: a broker, `flexihash serve`, a client in a process of its own. Latency is that of one connection, which asks
for one answer after the other; the rate is that of eight at once. First comes ingest, turn after turn for as long as
the backlog lasts, then rest; in turns with the bare route, which is one process with the API's own server settings.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain, cycle, repeat
from pathlib import Path
from typing import NamedTuple

import httpx

from bench.load import HOST, Load, name_client, send
from bench.processes import Measured, running
from bench.results import Row
from bench.topics import HAS_CONFLUENT, broker, fill
from flexihash.producer.events import encode
from flexihash.producer.flights import flights
from rig.ports import find_free_port

TOPIC = "flights"
N_PASSES = 10 if HAS_CONFLUENT else 3  # of all flights in the backlog: learning must last for several turns
N_TURNS = 3  # at rest
WORKERS = (1, 2)
N_INSTANCES = (1, 100)
N_CONNECTIONS = {"latency": 1, "rate": 8}
SECONDS = 2.0
N_BODIES = 100
SETTLE_S = 1.0
N_LOOKS = 20  # new connections that must all be answered before the first measurement


class Case(NamedTuple):
    """One kind of load: what each request holds, and whether latency or rate is looked at."""

    n_instances: int
    kind: str


CASES = [Case(n_instances, kind) for n_instances in N_INSTANCES for kind in N_CONNECTIONS]
BARE_CASE = Case(1, "latency")  # of the bare route under ingest: what a busy machine does to any server


def make_bodies() -> dict[int, list[bytes]]:
    """Requests of so many instances, all different flights."""
    features = [flight["features"] for flight in flights(N_BODIES * max(N_INSTANCES))]
    return {
        n: [json.dumps({"instances": features[k * n : (k + 1) * n]}).encode() for k in range(N_BODIES)]
        for n in N_INSTANCES
    }


def run_case(port: int, bodies: dict[int, list[bytes]], case: Case) -> Load:
    """One measurement."""
    return send(port, bodies[case.n_instances], N_CONNECTIONS[case.kind], SECONDS)


@contextmanager
def bare_route() -> Iterator[int]:
    """The port of the constant route, while it is served."""
    port = find_free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.constant", str(port)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            with closing(socket.socket()) as probe:
                if probe.connect_ex((HOST, port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the bare route is not served")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def under_ingest(
    service: Measured, port: int, n: int, runs: Mapping[Case | None, Callable[[], Load]]
) -> tuple[dict[Case | None, list[Load]], float]:
    """The loads, in turn, that ended before the backlog did, and the events learned a second meanwhile."""

    def is_ready() -> bool:
        """Whether whoever takes a new connection answers, again and again: any of the workers may take it."""
        try:
            return service.status().events > 0 and all(
                httpx.get(f"http://{HOST}:{port}/readyz", timeout=5).status_code == 200 for _ in range(N_LOOKS)
            )
        except httpx.TransportError:
            return False

    service.wait(is_ready)
    found: dict[Case | None, list[Load]] = {case: [] for case in runs}
    start, before, rate = time.perf_counter(), service.status().events, 0.0
    for case, run in cycle(runs.items()):
        load = run()
        if service.status().events >= n:
            break
        found[case].append(load)
        rate = (service.status().events - before) / (time.perf_counter() - start)
    return found, rate


def measure(say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Every number of workers in turn, each on a service that begins at the topic's first record."""
    bodies, messages = make_bodies(), list(encode(flights()))
    n = N_PASSES * len(messages)
    rows: list[Row] = []
    skipped: list[str] = []
    with broker() as servers, tempfile.TemporaryDirectory() as folder, bare_route() as bare_port:
        fill(servers, TOPIC, chain.from_iterable(repeat(messages, N_PASSES)))
        del messages
        say(f"{n:,} records are in the topic; the client is {name_client()}")
        bare: dict[Case, list[Load]] = {case: [] for case in CASES}
        for workers in WORKERS:
            port = find_free_port()
            settings: dict[str, object] = {
                "bootstrap_servers": servers, "topic": TOPIC, "port": port, "workers": workers,
            }  # fmt: skip
            with running(["flexihash", "serve"], settings, Path(folder, str(workers))) as service:
                run, run_bare = partial(run_case, port, bodies), partial(run_case, bare_port, bodies)
                runs = {case: partial(run, case) for case in CASES} | {None: partial(run_bare, BARE_CASE)}
                found, rate = under_ingest(service, port, n, runs)
                bare_busy = found.pop(None)
                busy = {case: loads for case, loads in found.items() if loads}
                turns = [len(loads) for loads in found.values()]
                say(f"{workers} workers, under ingest of {rate:,.0f} events/s: {min(turns)} to {max(turns)} turns")
                service.wait(lambda: service.status().events >= n)
                time.sleep(SETTLE_S)
                idle: dict[Case, list[Load]] = {case: [] for case in CASES}
                for _ in range(N_TURNS):
                    for case in CASES:
                        idle[case].append(run(case))
                        if workers == 1:
                            bare[case].append(run_bare(case))
                say(f"{workers} workers, idle")
            rows += service_rows(workers, idle, busy, rate, bare)
            if bare_busy:
                who = f"bare route, under ingest beside {name_workers(workers)}"
                rows += load_rows(who, BARE_CASE, bare_busy, bare[BARE_CASE], "to idle")
            skipped += [
                f"{workers} workers, {case.n_instances} instances, {case.kind} under ingest: the backlog was too short"
                for case in CASES
                if case not in busy
            ]
    rows += [row for case in CASES for row in load_rows("bare route", case, bare[case])]
    return rows, skipped


def name_workers(workers: int) -> str:
    return f"{workers} worker" + ("s" if workers > 1 else "")


def median_of(loads: Iterable[Load], field: str) -> float:
    """Over the turns."""
    return float(statistics.median(getattr(load, field) for load in loads))


def rate_of(loads: Iterable[Load]) -> float:
    """Requests a second, the median turn."""
    return statistics.median(load.n_requests / load.seconds for load in loads)


def load_rows(
    who: str, case: Case, loads: list[Load], yardstick: list[Load] | None = None, what: str = "", compare: str = ""
) -> list[Row]:
    """Predictions a second, or three percentiles of latency; as ratios to the yardstick.

    Args:
        compare: the measures whose ratio `--check` looks at.
    """
    name = f"{who}, {case.n_instances} a request"
    if case.kind == "rate":
        rate = rate_of(loads)
        ratio = rate / rate_of(yardstick) if yardstick else None
        better = "higher" if "rate" in compare.split() else None
        return [Row("http", name, "rate", rate * case.n_instances, "predictions/s", ratio, what, better)]
    rows = []
    for field, measure in (("p50_ms", "p50"), ("p99_ms", "p99"), ("p999_ms", "p99.9")):
        value = median_of(loads, field)
        ratio = value / median_of(yardstick, field) if yardstick else None
        better = "lower" if measure in compare.split() else None
        rows.append(Row("http", name, measure, value, "ms", ratio, what, better))
    return rows


def service_rows(
    workers: int,
    idle: dict[Case, list[Load]],
    busy: dict[Case, list[Load]],
    rate: float,
    bare: dict[Case, list[Load]],
) -> list[Row]:
    """At rest against the bare route, and under ingest against rest."""
    who = name_workers(workers)
    rows = []
    for case in CASES:
        rows += load_rows(f"{who}, idle", case, idle[case], bare[case], "to the bare route", "rate p50")
    for case, loads in busy.items():
        rows += load_rows(f"{who}, under ingest", case, loads, idle[case], "to idle", "rate p50")
    if busy:
        rows.append(Row("http", f"{who}, under ingest", "learning", rate, "events/s"))
    return rows

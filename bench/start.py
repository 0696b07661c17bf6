"""From nothing running to the first prediction: with compiled kernels at hand, and with none.

The second is what a container on another processor than its image's goes through. The service learns from a broker that
is up, into an empty table.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from bench.load import HOST, PATH
from bench.processes import running
from bench.results import Row
from bench.topics import broker, fill
from flexihash.producer.events import encode
from flexihash.producer.flights import flights
from rig.ports import find_free_port

TOPIC = "flights"
N_EVENTS = 1_000
N_TURNS = 3
KINDS = ("kernels cached", "nothing compiled")


def first_prediction_s(servers: str, kernels: Path, folder: Path, body: dict[str, object]) -> float:
    """Seconds from the command to the first answer of 200."""
    port = find_free_port()
    settings = {"bootstrap_servers": servers, "topic": TOPIC, "port": port}

    def is_answered() -> bool:
        try:
            return httpx.post(f"http://{HOST}:{port}{PATH}", json=body, timeout=30).status_code == 200
        except httpx.TransportError:
            return False

    begin = time.perf_counter()
    with running(["flexihash", "serve"], settings, folder, {"NUMBA_CACHE_DIR": str(kernels)}) as service:
        service.wait(is_answered)
        took_s = time.perf_counter() - begin
        service.wait(lambda: service.status().events >= N_EVENTS)  # or it would be ended while it compiles
    return took_s


def measure(say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Both kinds in turn; each turn compiles into a folder of its own, and then starts with that folder."""
    events = list(flights(N_EVENTS))
    body: dict[str, object] = {"instances": [events[0]["features"]]}
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with broker() as servers, tempfile.TemporaryDirectory() as folder:
        fill(servers, TOPIC, encode(events))
        for turn in range(N_TURNS):
            kernels = Path(folder, f"kernels-{turn}")
            for kind in reversed(KINDS):
                where = Path(folder, f"{kind} {turn}")
                found[kind].append(first_prediction_s(servers, kernels, where, body))
            say(f"turn {turn + 1} of {N_TURNS}")
    rows = []
    for kind, seconds in found.items():
        note = f"median of {N_TURNS}, longest {max(seconds):.2f}"
        rows.append(Row("start", kind, "first prediction", statistics.median(seconds), "s", note=note))
    return rows, []

"""Latency of predictions over HTTP while the learner works through a backlog, beside the same service at rest.

    python -m bench.serving [--events 600000] [--json]

One run, real parts: a broker, `flexihash serve`, a client on one kept-alive connection that asks for one prediction
after the other. The two phases have equally many requests, or as many as the backlog lasts for.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from consumer.kafka import KafkaConnection
from consumer.publisher import Publisher
from consumer.status import LearnerStatus, read_status
from producer import encode
from producer.flights import flights
from service.embedded_broker import EmbeddedBroker

TOPIC = "flights"
READY_S = 300.0
N_DISTINCT = 50_000  # flights, over and over
MAX_REQUESTS = 5_000


def measure(client: httpx.Client, instances: list[bytes], until: Callable[[int], bool]) -> list[float]:
    """Milliseconds of each request, until told to end."""
    latencies: list[float] = []
    for body in cycle(instances):
        if until(len(latencies)):
            return latencies
        start = time.perf_counter()
        client.post("/v1/predictions", content=body, headers={"content-type": "application/json"}).raise_for_status()
        latencies.append((time.perf_counter() - start) * 1e3)
    return latencies


def summarize(latencies: list[float]) -> dict[str, float]:
    p50, p99, p999 = np.percentile(latencies, [50, 99, 99.9])
    return {"requests": len(latencies), "p50_ms": float(p50), "p99_ms": float(p99), "p999_ms": float(p999)}


def run(n_events: int) -> dict[str, Any]:
    """Both phases, and the rate of learning in the first."""
    distinct = list(flights(N_DISTINCT))
    instances = [json.dumps({"instances": [flight["features"]]}).encode() for flight in distinct[:500]]
    with EmbeddedBroker() as broker, tempfile.TemporaryDirectory() as folder:
        with Publisher(KafkaConnection(broker.bootstrap_servers), TOPIC) as publisher:
            publisher.create_topic()
            for event in islice(cycle(list(encode(distinct))), n_events):
                publisher.send(event)
            publisher.flush()
        memory = Path(f"/dev/shm/flexihash-bench-{os.getpid()}")
        port = 18_437
        environment = {
            **os.environ,
            "FLEXIHASH_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "FLEXIHASH_TOPIC": TOPIC,
            "FLEXIHASH_PORT": str(port),
            "FLEXIHASH_MEMORY_DIR": str(memory),
            "FLEXIHASH_CHECKPOINT_DIR": folder,
        }
        service = subprocess.Popen(
            [sys.executable, "-P", "-m", "service", "serve"], env=environment, stderr=subprocess.DEVNULL
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                return _measure_both(client, instances, memory, n_events)
        finally:
            service.terminate()
            service.wait(90)
            shutil.rmtree(memory, ignore_errors=True)


def _measure_both(client: httpx.Client, instances: list[bytes], memory: Path, n_events: int) -> dict[str, Any]:
    def status() -> LearnerStatus:
        return read_status(memory) or LearnerStatus()

    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            if client.get("/readyz").status_code == 200 and status().events > 0:
                break
        except httpx.TransportError:
            time.sleep(0.02)
    begin, n_before = time.perf_counter(), status().events
    measure(client, instances, lambda n: n >= 50)  # the connection, the caches
    busy = measure(client, instances, lambda n: n >= MAX_REQUESTS or status().events >= n_events)
    rate = (status().events - n_before) / (time.perf_counter() - begin)
    while status().events < n_events and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2.0)
    idle = measure(client, instances, lambda n: n >= max(len(busy), 1_000))
    return {"events_per_second": rate, "ingest": summarize(busy), "idle": summarize(idle)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=600_000, help="backlog to learn from meanwhile")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = run(arguments.events)
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"learning {found['events_per_second']:,.0f} events/s meanwhile, one prediction a request, milliseconds\n")
    print("            requests     p50     p99   p99.9")
    for phase in ("idle", "ingest"):
        row = found[phase]
        print(f"  {phase:8} {row['requests']:10,} {row['p50_ms']:7.2f} {row['p99_ms']:7.2f} {row['p999_ms']:7.2f}")
    ratios = [found["ingest"][name] / found["idle"][name] for name in ("p50_ms", "p99_ms", "p999_ms")]
    print("  ratio              " + " ".join(f"{ratio:7.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()

"""From SIGKILL of the learner to learning again, and what a checkpoint costs meanwhile, on a table of 1 GiB.

    python -m bench.recovery [--n-rows 8388608] [--rounds 5] [--json]

One run, real parts: a broker, `flexihash serve`, and a stream of users and items without end that touches a good part
of the rows. Two checkpoints are saved while the learner works through a backlog as fast as it can: the first of all
rows, the second of those that changed since. Then the learner is killed, round after round, while events arrive. The
supervisor waits before a restart: 0.2 s for the first death in half a minute, twice as long for each one after it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bench.processes import Measured
from bench.topics import broker, fill
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.publisher import Publisher
from flexihash.model import kernel
from flexihash.model.tables import Tables
from flexihash.producer.events import Event, encode
from flexihash.producer.pacing import replay
from rig.service import SERVE

TOPIC = "visits"
N_BACKLOG = 400_000
TRICKLE_PER_S = 1_000.0  # while the learner is killed
STAGES = ("noticed", "imports", "tables", "checkpoint", "kernels", "connect", "first event")


def visits(seed: int) -> Iterator[Event]:
    """Users that mostly come once, items that come back, and a price: five new rows in two events."""
    draw = random.Random(seed)
    while True:
        features: dict[str, str | float] = {
            "user": f"u{int(draw.random() * 4_000_000)}",
            "item": f"i{int(1e6 * draw.random() ** 3)}",
            "shop": f"s{int(draw.random() * 1000)}",
            "price": round(draw.lognormvariate(3.0, 0.8), 2),
        }
        yield {"features": features, "label": int(draw.random() < 0.2), "id": "", "timestamp": ""}


class Recovering(Measured):
    """`flexihash serve` on a table of `n_rows`, its log read as it is written."""

    def __init__(self, bootstrap_servers: str, n_rows: int, folder: Path) -> None:
        settings = {
            "bootstrap_servers": bootstrap_servers,
            "topic": TOPIC,
            "n_rows": n_rows,
            "checkpoint_keep": 1,
            "checkpoint_seconds": 86_400,
            "log_format": "json",
        }
        super().__init__(SERVE, settings, folder)

    def logged(self, process: str, event: str, after: float) -> dict[str, Any] | None:
        """The first such line since `after` (Unix time), with its own time as `at`."""
        for text in self.log.splitlines():
            line: dict[str, Any] = json.loads(text)
            line["at"] = datetime.fromisoformat(line["timestamp"]).timestamp()
            if line["at"] > after and line["process"] == process and line["event"] == event:
                return line
        return None


def measure_checkpoint(service: Recovering, at_event: int) -> dict[str, Any]:
    """Saves one in the midst of ingest."""
    service.wait(lambda: service.status().events >= at_event)
    events = service.status().events
    saved = service.http.post("/v1/checkpoints").raise_for_status().json()
    return {name: saved[name] for name in ("pause_s", "duration_s", "size_bytes")} | {
        "events": saved["events"],
        "learned_meanwhile": service.status().events - events,
    }


def measure_recovery(service: Recovering) -> dict[str, float]:
    """Kills the learner; seconds of each stage until it learned the first event that no checkpoint holds."""
    service.wait_ready()
    pid = service.status().pid
    killed_at = time.time()
    os.kill(pid, signal.SIGKILL)
    service.wait(lambda: service.status().pid not in (0, pid) and service.status().tables is not None)
    status = service.status()
    assert status.tables is not None
    tables = Tables.attach(service.memory / status.tables)
    restored_events = status.checkpoint.events
    service.wait(lambda: bool(tables.tensors["state"][kernel.EVENTS] > restored_events))
    learned_at = time.time()
    tables.close()
    service.wait(lambda: service.logged("learner", "restored", killed_at) is not None)
    started = service.logged("serve", "learner started", killed_at)
    restored = service.logged("learner", "restored", killed_at)
    learning = service.logged("learner", "learning", killed_at)
    assert started is not None and restored is not None and learning is not None
    return {
        "noticed": started["at"] - killed_at,
        "imports": status.started_at - started["at"],
        **restored["seconds"],
        "connect": learning["at"] - restored["at"],
        "first event": learned_at - learning["at"],
        "in all": learned_at - killed_at,
    }


def run(n_rows: int, n_rounds: int) -> dict[str, Any]:
    """Both checkpoints, then the rounds."""
    with broker() as servers, tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        fill(servers, TOPIC, encode(islice(visits(0), N_BACKLOG)))
        publisher = Publisher(Topic(KafkaConnection(servers), TOPIC))
        service = Recovering(servers, n_rows, Path(folder)).start()
        try:
            checkpoints = [measure_checkpoint(service, N_BACKLOG // 4)]
            with held(service.status().pid):  # so that producer and learner do not share the cores
                fill(servers, TOPIC, encode(islice(visits(1), N_BACKLOG)))
            checkpoints.append(measure_checkpoint(service, N_BACKLOG + N_BACKLOG // 4))
            with trickling(publisher, seed=2):
                rounds = [measure_recovery(service) for _ in range(n_rounds)]
        finally:
            service.close()
            publisher.close()
    return {"n_rows": n_rows, "checkpoints": checkpoints, "rounds": rounds}


@contextmanager
def held(pid: int) -> Iterator[None]:
    """A process that stands still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def trickling(publisher: Publisher, seed: int) -> Iterator[None]:
    """Events that go on arriving."""
    stop = threading.Event()
    arguments = (encode(visits(seed)), publisher.send, TRICKLE_PER_S)
    thread = threading.Thread(target=replay, args=arguments, kwargs={"stop": stop})
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def main() -> None:
    """Print the results as tables, or as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-rows", type=int, default=1 << 23, help="rows of the table, a power of two")
    parser.add_argument("--rounds", type=int, default=5, help="times that the learner is killed")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    found = run(arguments.n_rows, arguments.rounds)
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"{found['n_rows']:,} rows, {found['checkpoints'][0]['size_bytes'] / 2**20:,.0f} MiB\n")
    print("checkpoint       at event   pause ms   duration s   learned meanwhile")
    for name, row in zip(("of all rows", "of changes"), found["checkpoints"], strict=True):
        print(
            f"  {name:12} {row['events']:10,} {row['pause_s'] * 1e3:10.1f} {row['duration_s']:12.1f}"
            f" {row['learned_meanwhile']:15,}"
        )
    print("\nfrom SIGKILL to learning again, seconds     median      max")
    for stage in (*STAGES, "in all"):
        seconds = [row.get(stage, 0.0) for row in found["rounds"]]
        print(f"  {stage:36} {statistics.median(seconds):12.2f} {np.max(seconds):8.2f}")


if __name__ == "__main__":
    main()

"""The recovery soak: kills the real service on a real broker again and again, then compares with the log.

    python -m tests.recovery.soak --rounds 1000

Rounds come in segments of their own topic, service and checkpoints. The topics have one partition and three in turn,
labels of yes or no, of many classes, and several at once. A round lets the service learn, kills something at a random
moment, and waits until events are learned again. At a segment's end the newest checkpoint must hold all that the topic
holds, and be what `flexihash verify` finds in it: bit for bit on one partition, each event exactly once on three. An
event's weight is its own, and sums of weights are exact, so that a lost event and a doubled one cannot make up for each
other. No event may be found to be poison: none is.

The seed decides what is killed and when, as far as the machine's own timing lets it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from flexihash.consumer.consumer_errors import ConsumerError
from flexihash.consumer.guard import MARK_FILE
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.source import KafkaSource
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.publisher import Publisher
from flexihash.consumer.verification import verify_checkpoint
from flexihash.consumer.wire import EventFormat
from flexihash.model.checkpoint.store import STEPS, CheckpointStore
from flexihash.model.config import ModelConfig
from flexihash.model.tasks import Task
from rig.broker import KafkaNode, open_broker
from rig.service import ServiceStuck, kill
from tests.integration import served
from tests.integration.served import N_ROWS
from tests.recovery.learner import BUG, BUGS, FAULT_FILE, LEARN

SEGMENT_ROUNDS = 10
EVENTS_PER_SECOND = 1_500.0
BAD_EVERY = 500  # one event in so many is malformed
NESTED_EVERY = 20  # one in so many takes the long way of decoding
FIRST_NESTED_S = 2.0  # after a learner begins to learn: it has met its first nested event by then
HELD_S = 0.1  # at one mark of the poison guard; records take microseconds, polls of them milliseconds
WEIGHT_UNIT = 2.0**-20  # sums of up to 2^32 of it are exact in float64
CHECKPOINT_S = 0.3
QUIET_S = 0.4  # a kill comes within so long after events are learned again
PATIENCE_S = 120.0  # only a hang lasts so long
TASKS = (Task.BINARY, Task.MULTICLASS, Task.MULTILABEL)  # in turn, with one partition and with three
KINDS = {"learner": 0.25, "nested": 0.05, "learn": 0.1, "step": 0.25, "api": 0.08, "group": 0.15, "broker": 0.12}


class Mismatch(Exception):
    """What was learned is not what the log implies."""


def make_label(task: Task, odds: float, item: int, number: int) -> Any:
    """A label of the task; classes and labels come into use one after the other."""
    if task is Task.BINARY:
        return int(odds > 0)
    known = 2 + min(number // 500, 8)
    if task is Task.MULTICLASS:
        return f"class {(item + (odds > 0)) % known}"
    return [f"label {k}" for k in range(known) if (item >> k & 1) ^ (odds > k - 1)]


def make_events(seed: int, task: Task = Task.BINARY) -> Iterator[bytes]:
    """Endless events: every row of the table gets its share, weights are exact, some are malformed."""
    rng = np.random.default_rng(seed)
    for number in itertools.count(1):
        if number % BAD_EVERY == 0:
            yield b'{"features": {"user": 1'
            continue
        user, item = rng.integers(20_000), rng.integers(500)
        x = float(rng.standard_normal())
        features = {"user": f"u{user}", "item": f"i{item}", "x": x, "n": int(item % 7)}
        yield msgspec.json.encode(
            {
                "features": {"nested": features} if number % NESTED_EVERY == 0 else features,
                "label": make_label(task, x + item % 5 - 2 - float(rng.logistic()), int(item), number),
                "weight": 1.0 + number % (1 << 20) * WEIGHT_UNIT,
            }
        )


class Feeder:
    """Publishes events at a steady rate until stopped, whatever becomes of the broker meanwhile."""

    def __init__(self, connection: KafkaConnection, topic: str, events: Iterator[bytes]) -> None:
        self._publisher = Publisher(Topic(connection, topic))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._feed, args=(events,))
        self._thread.start()

    def _feed(self, events: Iterator[bytes]) -> None:
        begin, sent = time.monotonic(), 0
        while not self._stop.wait(0.02):
            due = int((time.monotonic() - begin) * EVENTS_PER_SECOND) - sent
            try:
                for event in itertools.islice(events, min(due, 500)):
                    self._publisher.send(event, str(sent).encode())
                    sent += 1
            except ConsumerError:  # the log is what counts, not what was meant for it
                self._stop.wait(0.1)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(ConsumerError):
            self._publisher.flush()
        self._publisher.close()


class Service(served.Service):
    """`tests.recovery.serve` on a topic, in a folder of its own."""

    patience_s = PATIENCE_S
    stop_s = PATIENCE_S
    look_s = 0.005

    def __init__(
        self, connection: KafkaConnection, topic: str, folder: Path, extra: Mapping[str, str] | None = None
    ) -> None:
        self.topic = topic
        self.fault_file = folder / "fault"
        settings = {
            "FLEXIHASH_GROUP_ID": topic,
            "FLEXIHASH_CHECKPOINT_SECONDS": str(CHECKPOINT_S),
            "FLEXIHASH_LOG_FORMAT": "json",
            FAULT_FILE: str(self.fault_file),
        }
        super().__init__(connection, topic, folder, **settings, **(extra or {}))
        self.command = ("tests.recovery.serve",)

    def api_pid(self) -> int:
        """Of the newest API worker, as the supervisor logged it."""
        lines = (line for line in self.log.splitlines() if '"api-1 started"' in line)
        return int(json.loads(list(lines)[-1])["pid"])

    def wait_progress(self, old_pid: int = 0) -> None:
        """Until a learner, another than `old_pid`, has learned something."""
        seen: dict[int, int] = {}

        def has_progressed() -> bool:
            status = self.status()
            if status.pid == old_pid or status.state != "learning":
                return False
            return status.events > seen.setdefault(status.pid, status.events)

        self.wait(has_progressed, "learning")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it, which must go well."""
        if (code := super().stop(number)) != 0:
            raise Mismatch(f"exit code {code}; see {self.folder / 'log'}")
        return code


@dataclass
class Report:
    """What the soak did and found; times are seconds from a kill until events are learned again."""

    seed: int
    broker: str
    rounds: int = 0
    events: int = 0
    segments: int = 0
    seconds: float = 0.0
    recovery_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    mismatches: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """A table for people and docs/reliability.md."""
        lines = [
            f"{self.rounds} rounds in {self.segments} segments on {self.broker}, seed {self.seed}, {self.events:,} "
            f"events, {self.seconds / 60:.0f} minutes: {len(self.mismatches)} mismatches",
            "",
            "| killed | times | recovery p50, s | p99, s |",
            "| --- | ---: | ---: | ---: |",
        ]
        every = [time_s for times in self.recovery_s.values() for time_s in times]
        for kind, times in [*sorted(self.recovery_s.items()), ("all", every)]:
            p50, p99 = np.quantile(times, (0.5, 0.99)) if times else (np.nan, np.nan)
            lines.append(f"| {kind} | {len(times)} | {p50:.2f} | {p99:.2f} |")
        return "\n".join([*lines, *(f"MISMATCH {line}" for line in self.mismatches)])


class Soak:
    """Runs segments against one broker."""

    def __init__(
        self,
        kafka: KafkaNode | None,
        connection: KafkaConnection,
        folder: Path,
        kinds: Sequence[str],
        extra: Mapping[str, str],
        report: Report,
    ) -> None:
        self._kafka = kafka
        self._connection = connection
        self._folder = folder
        self._kinds = [kind for kind in kinds if kind != "broker" or kafka is not None]
        self._extra = extra
        self._report = report

    def run_segment(self, number: int, n_rounds: int) -> None:
        """One segment.

        Raises:
            Mismatch: it was not as if nothing had been killed.
        """
        rng = random.Random(f"{self._report.seed} {number}")
        n_partitions, task = 1 if number % 2 == 0 else 3, TASKS[number % len(TASKS)]
        topic = f"soak-{os.getpid()}-{self._report.seed}-{number}"
        Topic(self._connection, topic).create(n_partitions)
        extra = {**self._extra, "FLEXIHASH_TASK": str(task)}
        service = Service(self._connection, topic, self._folder / topic, extra)
        feeder = Feeder(self._connection, topic, make_events(self._report.seed + number, task))
        try:
            service.start()
            service.wait_progress()
            for _ in range(n_rounds):
                self._run_round(service, rng)
            feeder.stop()
            ends = self._read_ends(topic, n_partitions)
            service.wait(lambda: service.status().positions == ends, f"positions {ends}")
            service.stop()
            self._report.events += self._compare(service, task, ends)
            self._report.segments += 1
        finally:
            feeder.stop()
            service.close()
        shutil.rmtree(service.folder)

    def _run_round(self, service: Service, rng: random.Random) -> None:
        weights = [KINDS[kind] for kind in self._kinds]
        kind = rng.choices(self._kinds, weights)[0]
        delay_s, step = rng.uniform(0.0, QUIET_S), rng.choice(STEPS)
        time.sleep(delay_s)
        pid = service.status().pid
        begin = time.monotonic()
        if kind == "learner":
            kill(pid)
        elif kind == "nested":
            pid = self._kill_thrice(service, rng)
        elif kind in ("learn", "step"):
            service.fault_file.write_text(LEARN if kind == "learn" else step)
            service.wait(lambda: not service.fault_file.exists(), f"{kind} {step}")
            begin = time.monotonic()
        elif kind == "api":
            api_pid = service.api_pid()
            kill(api_pid)
            service.wait(lambda: service.api_pid() != api_pid and service.is_ready(), "an API")
        elif kind == "group":
            service.kill()
            service.start()
        else:
            assert self._kafka is not None
            self._kafka.kill()
            time.sleep(rng.uniform(0.0, 1.0))
            self._kafka.start()
        service.wait_progress(0 if kind in ("api", "broker") else pid)
        self._report.recovery_s[f"in step {step}" if kind == "step" else kind].append(time.monotonic() - begin)
        self._report.rounds += 1

    def _kill_thrice(self, service: Service, rng: random.Random) -> int:
        """Kills the learner, and then three new ones, each in the midst of what takes it long; the last's pid."""
        pid, marks = service.status().pid, {b""}
        kill(pid)
        for _ in range(3):
            pid = _wait_learner(service, pid)
            marks.add(_wait_mark(service.folder / "checkpoints" / MARK_FILE, marks, rng.uniform(0.0, FIRST_NESTED_S)))
            kill(pid)
        return pid

    def _read_ends(self, topic: str, n_partitions: int) -> dict[str, int]:
        """The log's ends, found by reading: what a broker lists may be too low."""
        source = KafkaSource(Topic(self._connection, topic))
        source.start({})
        quiet_at = time.monotonic() + 3.0
        while time.monotonic() < quiet_at:
            if source.poll(0.5):
                quiet_at = time.monotonic() + 3.0
        ends = source.end_positions()
        source.close()
        assert len(ends) == n_partitions
        return {f"{topic}:{partition}": end for partition, end in ends.items()}

    def _compare(self, service: Service, task: Task, ends: dict[str, int]) -> int:
        newest = CheckpointStore(service.folder / "checkpoints", 3).list()[0]
        assert newest.manifest is not None, newest.problem
        if poison := newest.manifest.metrics["poison"]:
            raise Mismatch(f"{newest.path}: good events were condemned as poison: {poison}")
        if newest.manifest.positions != ends:
            raise Mismatch(f"{newest.path} ends at {newest.manifest.positions}, the log at {ends}")
        source = KafkaSource(Topic(self._connection, service.topic))
        config = ModelConfig(task=task, n_rows=N_ROWS, embeddings=True)
        verdict = verify_checkpoint(newest.path, source, config, EventFormat())
        source.close()
        if verdict.differences:
            raise Mismatch(f"{newest.path}: {'; '.join(verdict.differences)}")
        return verdict.events


def _wait_learner(service: Service, old_pid: int) -> int:
    """Until another one learns; its pid."""
    service.wait(lambda: service.status().pid != old_pid and service.status().state == "learning", "a learner")
    return service.status().pid


def _wait_mark(file: Path, known: set[bytes], timeout_s: float) -> bytes:
    """Until a learner has applied something for HELD_S, and not what a killed one had marked; the mark."""
    begin = since = time.monotonic()
    mark = b""
    while (now := time.monotonic()) - begin < timeout_s:
        found = file.read_bytes().strip()
        if found != mark:
            mark, since = found, now
        elif now - since >= HELD_S and mark not in known and b'"is_read":true' not in mark:
            break
        time.sleep(Service.look_s)
    return mark


def run(
    rounds: int,
    seed: int,
    kinds: Sequence[str],
    folder: Path,
    extra: Mapping[str, str],
    report_file: Path | None = None,
) -> Report:
    """Runs so many rounds, until the first mismatch or SIGINT; each segment rewrites the report.

    Args:
        extra: environment variables for the service.
    """
    report = Report(seed, "Apache Kafka" if os.environ.get("KAFKA_HOME") else "Tansu")
    begin = time.monotonic()
    try:
        with open_broker(folder / "kafka") as broker:
            kafka = broker if isinstance(broker, KafkaNode) else None
            soak = Soak(kafka, KafkaConnection(broker.bootstrap_servers), folder, kinds, extra, report)
            for number in itertools.count():
                if (left := rounds - report.rounds) <= 0:
                    break
                try:
                    soak.run_segment(number, min(SEGMENT_ROUNDS, left))
                except (Mismatch, ServiceStuck) as mismatch:
                    report.mismatches.append(f"segment {number}: {mismatch}")
                    break
                report.seconds = time.monotonic() - begin
                if report_file is not None:
                    report_file.write_text(report.describe() + "\n")
                print(f"{report.rounds} of {rounds} rounds, {report.seconds:.0f} s", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("interrupted: the report is of what was done", file=sys.stderr)
    report.seconds = time.monotonic() - begin
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.recovery.soak", description="Kill the service, and compare.")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what is killed and when")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="what is killed")
    parser.add_argument("--report", type=Path, help="a file for the report so far, rewritten after each segment")
    parser.add_argument("--client", default="kafka-python", help="FLEXIHASH_KAFKA_CLIENT of the service")
    parser.add_argument("--bug", choices=BUGS, help="plant a bug, to see that it is found")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="flexihash-soak-"))
    extra = {"FLEXIHASH_KAFKA_CLIENT": arguments.client, **({BUG: arguments.bug} if arguments.bug else {})}
    report = run(arguments.rounds, arguments.seed, arguments.kinds, folder, extra, arguments.report)
    print(report.describe())
    if report.mismatches:
        print(f"logs and checkpoints: {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())

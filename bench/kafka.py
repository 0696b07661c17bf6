"""From the topic to the table: the real learner process, beside the bare client's own poll loop on the same topic.

All are timed by wall clock from the first record to the last, after each has connected; the broker works on the other
core meanwhile. They take turns.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path

from kafka import TopicPartition

from bench.processes import cpu_s, running
from bench.results import Row
from bench.topics import HAS_CONFLUENT, NO_CONFLUENT, broker, fill
from flexihash.consumer.kafka.client import open_consumer
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.model import kernel
from flexihash.model.tables import Tables
from flexihash.producer.events import encode
from flexihash.producer.flights import flights

TOPIC = "flights"
N_PASSES = 2  # of all flights, into the topic
N_TURNS = 3
POLL_RECORDS = 256  # either client reads the most records a second with; with 4096 it is half of that
POLL_S = 0.5


def read_by_kafka_python(servers: str, n: int) -> float:
    """Seconds for `n` records by a consumer set up as the learner's is, and nothing done with them."""
    consumer = open_consumer(KafkaConnection(servers))
    try:
        partition = TopicPartition(TOPIC, 0)
        consumer.assign([partition])
        consumer.seek(partition, 0)
        got, start = 0, 0.0
        while got < n:
            for records in consumer.poll(timeout_ms=int(POLL_S * 1e3), max_records=POLL_RECORDS).values():
                start = start or time.perf_counter()
                got += len(records)
        return time.perf_counter() - start
    finally:
        consumer.close()


def read_by_confluent(servers: str, n: int) -> float:
    """Seconds for `n` records by `consume`, each one's value looked at."""
    from confluent_kafka import Consumer
    from confluent_kafka import TopicPartition as Partition

    from flexihash.consumer.kafka.confluent import QUEUE_BACKOFF_MS

    settings = {"bootstrap.servers": servers, "group.id": "bench", "enable.auto.commit": False}
    consumer = Consumer({**settings, "fetch.queue.backoff.ms": QUEUE_BACKOFF_MS})
    try:
        consumer.assign([Partition(TOPIC, 0, 0)])
        got, start = 0, 0.0
        while got < n:
            messages = consumer.consume(POLL_RECORDS, POLL_S)
            start = start or (time.perf_counter() if messages else 0.0)
            got += sum(message.value() is not None for message in messages)
        return time.perf_counter() - start
    finally:
        consumer.close()


def learn(servers: str, client: str, n: int, folder: Path) -> tuple[float, float]:
    """Seconds by wall clock and by the learner's CPU for each of the records; by the learner alone, without an API."""
    settings: dict[str, object] = {
        "bootstrap_servers": servers, "topic": TOPIC, "checkpoint_seconds": 86_400, "kafka_client": client
    }  # fmt: skip
    with running(["flexihash.service.child", "learner"], settings, folder) as service:
        service.wait(lambda: service.status().tables is not None)
        tables = Tables.attach(service.memory / str(service.status().tables))
        state = tables.tensors["state"].numpy()
        service.wait(lambda: state[kernel.EVENTS] > 0)
        start, start_cpu_s, before = time.perf_counter(), cpu_s(service.pid), state[kernel.EVENTS]
        service.wait(lambda: state[kernel.EVENTS] >= n)
        seconds, used_s = time.perf_counter() - start, cpu_s(service.pid) - start_cpu_s
        tables.close()
        return seconds / (n - before), used_s / (n - before)


def measure(say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Both clients bare, and the learner with each that it can use."""
    messages = list(encode(flights()))
    n = N_PASSES * len(messages)
    bare: dict[str, Callable[[str, int], float]] = {"kafka-python": read_by_kafka_python}
    skipped = []
    if HAS_CONFLUENT:
        bare["confluent"] = read_by_confluent
    else:
        skipped.append(NO_CONFLUENT)
    read_s: dict[str, list[float]] = {client: [] for client in bare}
    learn_s: dict[str, list[tuple[float, float]]] = {client: [] for client in bare}
    with broker() as servers, tempfile.TemporaryDirectory() as folder:
        fill(servers, TOPIC, chain.from_iterable(repeat(messages, N_PASSES)))
        say(f"{n:,} records are in the topic")
        for turn in range(N_TURNS):
            for client, read in bare.items():
                read_s[client].append(read(servers, n) / n)
                say(f"bare {client}: {1 / read_s[client][-1]:,.0f} records/s")
            for client in bare:
                learn_s[client].append(learn(servers, client, n, Path(folder, f"{client}-{turn}")))
                say(f"learner, {client}: {1 / learn_s[client][-1][0]:,.0f} records/s")
    rows = []
    for client in bare:
        bare_s = statistics.median(read_s[client])
        rows.append(Row("kafka", f"bare {client}", "rate", 1 / bare_s, "records/s"))
        wall_s = statistics.median(wall for wall, _ in learn_s[client])
        used_s = statistics.median(used for _, used in learn_s[client])
        case = f"learner, {client}"
        rows += [
            Row("kafka", case, "rate", 1 / wall_s, "records/s", bare_s / wall_s, "to the bare client", "higher"),
            Row("kafka", case, "CPU time", used_s * 1e6, "us/record"),
        ]
    return rows, skipped

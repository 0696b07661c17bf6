"""How fast do JSON bytes become hashed rows? `python -m bench --only decode`, about half a minute.

Polls of 2,000 messages, of five kinds: real flights (nine strings and an integer), the same with patterns that say of
which kind features are, the same with their departure as a time, the same as rows in Debezium's envelopes with a string
for a label, and ten floats in full length. The ways, each with all that it needs:

- msgspec only: the bytes are parsed to dicts, and nothing more. The yardstick.
- parsed: what every message took before the fast path, and what unusual ones still take: parse, flatten, hash.
- decode: what the learner calls. Nearly all of these messages go through the compiled loop of `consumer.scan`.

All ways take turns in one process on one thread; each figure is the median of that thread's CPU time.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import msgspec

from bench.results import Better, Row
from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.wire import EventFormat
from flexihash.model.features import FeatureRules, hash_features
from flexihash.model.tasks import Task
from flexihash.producer.events import encode
from flexihash.producer.flights import flights

POLL_MESSAGES = 2_000
N_POLLS = 5
N_TURNS = 21
N_ROWS = 1 << 18
YARDSTICK = "msgspec only"
OURS = "decode"
ENVELOPES = EventFormat(envelope="debezium", features_field="", label_field="status", positive_labels=("late",))

PATTERNS = EventFormat(rules=FeatureRules(categorical_features=("*_id", "fl*"), numeric_features=("dist*",)))


def add_time(flight: Mapping[str, Any]) -> bytes:
    """A flight with its departure among the features."""
    return msgspec.json.encode({**flight, "features": {**flight["features"], "departure": flight["timestamp"]}})


def make_numbers() -> list[bytes]:
    """Events of ten random floats."""
    rng = random.Random(0)
    events = (
        {"features": {f"x{k}": rng.gauss(0.0, 1.0) for k in range(10)}, "label": rng.randint(0, 1)}
        for _ in range(N_POLLS * POLL_MESSAGES)
    )
    return list(map(msgspec.json.encode, events))


def wrap(flight: dict[str, Any], n: int) -> bytes:
    """A flight as the row that a change inserts."""
    row = {"id": n, **flight["features"], "status": "late" if flight["label"] else "on time"}
    source = {
        "version": "2.7.0.Final",
        "connector": "postgresql",
        "name": "airport",
        "ts_ms": 1_700_000_000_000 + n,
        "snapshot": "false",
        "db": "airport",
        "sequence": f'["{24_023_128 + n}","{24_023_128 + n}"]',
        "schema": "public",
        "table": "flights",
        "txId": 555 + n,
        "lsn": 24_023_128 + n,
        "xmin": None,
    }
    change = {"before": None, "after": row, "source": source, "transaction": None, "op": "c", "ts_ms": source["ts_ms"]}
    return msgspec.json.encode(change)


def make_ways(format: EventFormat) -> dict[str, Callable[[list[bytes]], object]]:
    """Each way takes one poll."""
    decoder = EventDecoder(format, Task.BINARY, N_ROWS)
    decoder.warm_up()
    parse = msgspec.json.Decoder().decode

    def parse_only(messages: list[bytes]) -> None:
        for message in messages:
            parse(message)

    def parse_and_hash(messages: list[bytes]) -> object:
        return hash_features([decoder.decode_one(message).features for message in messages], N_ROWS)

    return {YARDSTICK: parse_only, "parsed": parse_and_hash, OURS: decoder.decode}


def time_ways_us(messages: list[bytes], format: EventFormat) -> dict[str, float]:
    """Each way's median CPU time a message, in us."""
    polls = [messages[begin : begin + POLL_MESSAGES] for begin in range(0, len(messages), POLL_MESSAGES)]
    ways = make_ways(format)
    times_us: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(0)
    for _ in range(N_TURNS):
        for name in order.sample(list(ways), len(ways)):
            start = time.thread_time()
            for poll in polls:
                ways[name](poll)
            times_us[name].append((time.thread_time() - start) * 1e6 / len(messages))
    return {name: statistics.median(times) for name, times in times_us.items()}


def measure(say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Every way for each kind of event."""
    rows = []
    some_flights = list(islice(flights(), N_POLLS * POLL_MESSAGES))
    for kind, messages, format in (
        ("flights", list(encode(some_flights)), EventFormat()),
        ("flights by patterns", list(encode(some_flights)), PATTERNS),
        ("flights with a time", list(map(add_time, some_flights)), EventFormat()),
        ("flights in envelopes", list(map(wrap, some_flights, range(len(some_flights)))), ENVELOPES),
        ("ten floats", make_numbers(), EventFormat()),
    ):
        medians_us = time_ways_us(messages, format)
        for name, median_us in medians_us.items():
            ratio = median_us / medians_us[YARDSTICK]
            better: Better | None = "lower" if name == OURS else None
            note = f"{statistics.mean(map(len, messages)):.0f} bytes"
            rows.append(
                Row(
                    "decode",
                    f"{kind}, {name}",
                    "CPU time",
                    median_us,
                    "us/event",
                    ratio,
                    "to msgspec",
                    better,
                    note=note,
                )
            )
        say(kind)
    return rows, []

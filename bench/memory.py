"""What memory it takes: bytes a row, and both processes as distinct features grow from 10^4 to 10^8.

The events hold 100 features that no event had before. Kafka is left out, to feed them fast: a process of its own
decodes and learns them as the learner does, on tables that a real API process has attached and answers from meanwhile.
`python -m bench.memory FOLDER` is the learning process.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np

from bench.load import HOST, PATH
from bench.processes import resident_bytes
from bench.results import Row
from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.status import LearnerStatus, write_status
from flexihash.consumer.wire import EventFormat
from flexihash.model.config import ModelConfig
from flexihash.model.kernel.experts import DIM
from flexihash.model.online import OnlineModel
from flexihash.model.tables import Tables, layout
from flexihash.model.tasks import Task

N_ROWS = 1 << 18
N_NEW = 100  # features of one event, all new
POLL_EVENTS = 1_000
COUNTS = (10**4, 10**6, 10**7, 10**8)
BUDGET_S = 75.0  # a slow machine ends with fewer than 10^8, and says so
REPORT_S = 1.0
N_REQUESTS = 300
NUMBER = b"%09d"
TABLES = "tables-bench"
STOP_S = 30.0


def new_features(first: int) -> list[bytes]:
    """POLL_EVENTS messages whose features count on from `first`, made by writing digits into a template."""
    feature = b'"f' + NUMBER % 0 + b'":"a"'
    template = b'{"features":{' + b",".join([feature] * N_NEW) + b'},"label":0}'
    block = np.tile(np.frombuffer(template, np.uint8), (POLL_EVENTS, 1))  # (B, bytes)
    begins = len(b'{"features":{"f') + np.arange(N_NEW) * (len(feature) + 1)
    left = (first + np.arange(POLL_EVENTS * N_NEW)).reshape(POLL_EVENTS, N_NEW)
    for digit in range(len(NUMBER % 0) - 1, -1, -1):
        block[:, begins + digit] = ord("0") + left % 10
        left = left // 10
    block[:, len(template) - 2] += np.arange(POLL_EVENTS, dtype=np.uint8) % 2
    size, data = len(template), block.tobytes()
    return [data[begin : begin + size] for begin in range(0, len(data), size)]


def learn(folder: Path) -> None:
    """Learns up to each of COUNTS and waits for a line on standard input after it; prints features and seconds."""
    tables = Tables.create(ModelConfig(n_rows=N_ROWS), folder / TABLES)
    model, decoder = OnlineModel(tables), EventDecoder(EventFormat(), Task.BINARY, N_ROWS)
    model.warm_up()
    decoder.warm_up()
    n, used_s, deadline = 0, 0.0, time.monotonic() + BUDGET_S
    reported = 0.0
    for count in COUNTS:
        while n < count and time.monotonic() < deadline:
            messages = new_features(n)[: -(-(count - n) // N_NEW)]
            start = time.thread_time()
            decoded = decoder.decode(messages)
            learned = model.learn(decoded.batch, decoded.labels, decoded.weights)
            used_s += time.thread_time() - start
            assert learned.is_learned.all()
            n += len(messages) * N_NEW
            if time.monotonic() > reported + REPORT_S:
                reported = time.monotonic()
                _report(folder, model)
        _report(folder, model)
        print(json.dumps({"features": n, "seconds": used_s}), flush=True)
        sys.stdin.readline()


def _report(folder: Path, model: OnlineModel) -> None:
    now = time.time()
    write_status(
        folder, LearnerStatus(state="learning", pid=os.getpid(), tables=TABLES, events=model.n_events, updated_at=now)
    )


def measure(say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Bytes a row; then both processes at each count."""
    sizes = {name: int(np.prod(shape)) * dtype.itemsize for name, (shape, dtype) in layout(ModelConfig()).items()}
    each = sum(sizes[name] for name in ("table", "numbers", "touched")) / ModelConfig().n_rows
    rows = [Row("memory", "one row", "size", each, "bytes", each / (4 * DIM), f"to the {DIM} floats served", "lower")]
    folder = Path(f"/dev/shm/flexihash-bench-{os.getpid()}")
    folder.mkdir(mode=0o700)
    try:
        rows += list(_grow(folder, say))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    reached = max((row.value for row in rows if row.measure == "distinct features"), default=0.0)
    skipped = [] if reached >= COUNTS[-1] else [f"10^8 features take more than {BUDGET_S:.0f} s here: {reached:,.0f}"]
    return rows, skipped


def _grow(folder: Path, say: Callable[[str], None]) -> Iterator[Row]:
    with (
        tempfile.TemporaryDirectory() as checkpoints,
        socket.create_server((HOST, 0)) as listening,
        subprocess.Popen(
            [sys.executable, "-m", "bench.memory", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as learner,
    ):
        settings = {"FLEXIHASH_MEMORY_DIR": str(folder), "FLEXIHASH_CHECKPOINT_DIR": checkpoints}
        api = subprocess.Popen(
            [sys.executable, "-m", "flexihash.service.child", "api", "--fd", str(listening.fileno())],
            env={**os.environ, **settings},
            pass_fds=[listening.fileno()],
            stderr=subprocess.DEVNULL,
        )
        try:
            yield from _steps(learner, api.pid, listening.getsockname()[1], say)
        finally:
            learner.kill()
            api.terminate()
            api.wait(STOP_S)


def _steps(learner: subprocess.Popen[str], api_pid: int, port: int, say: Callable[[str], None]) -> Iterator[Row]:
    assert learner.stdin is not None and learner.stdout is not None
    before: dict[str, tuple[int, int]] = {}
    n_before = 0
    for count in COUNTS:
        found = json.loads(learner.stdout.readline() or "{}")
        if not found:
            raise SystemExit("the learning process ended early")
        n = found["features"]
        if n == n_before:
            return
        n_before = n
        ask(port, n)
        case = f"at 10^{len(str(count)) - 1}"
        yield Row("memory", case, "distinct features", n, "features")
        for name, pid in (("learner", learner.pid), ("API", api_pid)):
            total, own = resident_bytes(pid)
            first = before.setdefault(name, (total, own))
            better = "lower" if count > COUNTS[0] else None
            yield Row("memory", case, f"{name}, resident", total / 2**20, "MiB", total / first[0], "to 10^4", better)
            yield Row("memory", case, f"{name}, its own", own / 2**20, "MiB", own / first[1], "to 10^4", better)
            say(f"{n:,} features, {name}: {total / 2**20:.0f} MiB, of its own {own / 2**20:.0f} MiB")
        if n >= 10**6:
            yield Row("memory", case, "decode and learn", found["seconds"] * 1e9 / n, "ns/feature")
        learner.stdin.write("\n")
        learner.stdin.flush()


def ask(port: int, n: int) -> None:
    """Predictions for features that were seen and for some that were not, so that the API touches its memory."""
    rng = np.random.default_rng(n)
    with httpx.Client(base_url=f"http://{HOST}:{port}", timeout=30) as client:
        deadline = time.monotonic() + 60
        while client.get("/livez").status_code != 200 or client.post(PATH, json={"instances": [{}]}).status_code != 200:
            if time.monotonic() > deadline:
                raise SystemExit("the API does not answer")
            time.sleep(0.1)
        for _ in range(N_REQUESTS):
            names = rng.integers(0, 2 * n, 100)
            instances = [{f"f{name:09d}": "a"} for name in names]
            client.post(PATH, json={"instances": instances}).raise_for_status()


if __name__ == "__main__":
    learn(Path(sys.argv[1]))

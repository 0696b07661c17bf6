"""`flexihash demo`: a broker in memory, the service, and real flights, watched while they are being learned."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TimeRemainingColumn
from rich.table import Table

from flexihash.producer.flights import N_FLIGHTS, flights
from flexihash.service.embedded_broker import EmbeddedBroker
from flexihash.service.orphans import die_with_parent
from flexihash.service.service_errors import AddressError, DemoError
from flexihash.service.settings import PREFIX, SHARED_MEMORY
from flexihash.service.supervisor import bind_socket

TOPIC = "flights"
HOST = "127.0.0.1"
PORT = 8080
POLL_S = 0.2  # between two looks at the model
LINE_S = 5.0  # between two lines where stderr is no terminal
READY_S = 300.0  # a fresh clone compiles its kernels first; a busy machine takes long
STOP_S = 3.0  # from being told to stop to being told to hurry; Ctrl-C must be through in 5
HURRY_S = 1.0
PREDICTIONS_PER_SECOND = 30.0
SAMPLE_STEP = 100  # every so many flights one is kept to ask about
MAX_LATENCIES = 100_000  # kept for the percentiles: an hour's worth
LOG_LINES = 15


@dataclass
class Measurement:
    """What the demo has seen so far; seconds are monotonic.

    Args:
        model: the last answer of GET /v1/model.
        idle_at: when nothing had been learned yet, last seen; `grown_at` when the count last grew.
        latencies_ms: of the last predictions that were answered; `n_predictions` counts them all.
    """

    model: dict[str, Any] = field(default_factory=dict)
    idle_at: float = 0.0
    grown_at: float = 0.0
    n_predictions: int = 0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_LATENCIES))

    @property
    def n_events(self) -> int:
        """Flights learned so far."""
        return int((self.model.get("version") or {}).get("events", 0))

    @property
    def events_per_second(self) -> float:
        """Flights learned a second, from before the first until the last so far."""
        return self.n_events / (self.grown_at - self.idle_at) if self.n_events else 0.0

    def metric(self, name: str) -> float | None:
        """A progressive metric over all flights; None before there is one."""
        value: float | None = self.model.get("metrics", {}).get(name)
        return value

    def percentile_ms(self, share: float) -> float | None:
        """The latency that `share` of the predictions stayed within (nearest rank); None before the first."""
        ordered = sorted(self.latencies_ms)
        return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else None

    def note(self, model: dict[str, Any], now: float) -> None:
        """Take in an answer of GET /v1/model."""
        before, self.model = self.n_events, model
        if not self.n_events:
            self.idle_at = now
        if self.n_events > before:
            self.grown_at = now

    def summary(self) -> dict[str, float | int | None]:
        """The figures that `--json` prints, all of them measured; null where there was nothing to measure."""
        return {
            "events": self.n_events,
            "events_per_second": round(self.events_per_second, 1),
            "log_loss": self.metric("log_loss"),
            "auc": self.metric("auc"),
            "baseline_log_loss": self.metric("baseline_log_loss"),
            "predictions": self.n_predictions,
            "predict_p50_ms": self.percentile_ms(0.50),
            "predict_p99_ms": self.percentile_ms(0.99),
        }


def run_demo(*, seconds: float | None, rate: float | None, port: int | None, as_json: bool) -> None:
    """Run until `seconds` after the service got ready, or until Ctrl-C; print the figures and leave nothing behind.

    Args:
        seconds: None goes on serving until Ctrl-C or SIGTERM.
        rate: flights a second; None for as many as the broker takes.
        port: of the API; None takes 8080, or a free one where that is taken.
        as_json: print one line of JSON on stdout at the end instead of text.

    Raises:
        DemoError: the service or the producer ended by itself; the message has its last log lines.
        AddressError: `port` is taken.
        ServiceError, ProducerError: the broker or the flights are not installed.
    """
    upcoming = flights()  # raises at once where they are not installed
    measurement = Measurement()
    with _stop_signals() as stop, ExitStack() as stack:
        display = _Display(measurement)
        folder, memory = (
            stack.enter_context(_temporary_folder(None)),
            stack.enter_context(_temporary_folder(SHARED_MEMORY)),
        )
        display.say("starting a Kafka broker in memory ...")
        servers = stack.enter_context(EmbeddedBroker()).bootstrap_servers
        port = _choose_port(port)
        url = f"http://{HOST}:{port}"
        family = stack.enter_context(_Family(folder))
        display.say("starting the service; the first time, it compiles its kernels for ten seconds ...")
        family.start("serve", *_serve_arguments(servers, port, folder, memory))
        sample = list(islice(upcoming, 0, None, SAMPLE_STEP))
        client = stack.enter_context(httpx.Client(base_url=url, timeout=5.0))
        if _wait_until_ready(client, family, stop, display):
            display.show_address(url, sample[0]["features"])
            rate_text = "max" if rate is None else str(rate)
            family.start("produce", TOPIC, "--topic", TOPIC, "--bootstrap-servers", servers, "--rate", rate_text)
            asking = threading.Thread(target=_ask, args=(url, sample, measurement, stop), name="predictions")
            asking.start()
            stack.callback(asking.join)
            stack.callback(stop.set)
            _watch(client, family, stop, measurement, display, seconds)
    if as_json:
        print(json.dumps(measurement.summary()), flush=True)
    else:
        display.show_summary()


def _serve_arguments(servers: str, port: int, folder: Path, memory: Path) -> list[str]:
    options = {
        "--topic": TOPIC,
        "--bootstrap-servers": servers,
        "--host": HOST,
        "--port": str(port),
        "--checkpoint-dir": str(folder / "checkpoints"),
        "--memory-dir": str(memory),
        "--log-format": "console",
    }
    return ["--create-topic", *(part for option in options.items() for part in option)]


def _wait_until_ready(client: httpx.Client, family: _Family, stop: threading.Event, display: _Display) -> bool:
    """False when told to stop before."""
    deadline = time.monotonic() + READY_S
    while not stop.wait(POLL_S):
        family.check()
        try:
            answer = client.get("/readyz")
        except httpx.TransportError:  # the API is starting too
            answer = None
        if answer is not None and answer.status_code == 200:
            return True
        if time.monotonic() > deadline:
            raise family.explain("serve", f"was not ready after {READY_S:g} s")
    return False


def _watch(
    client: httpx.Client,
    family: _Family,
    stop: threading.Event,
    measurement: Measurement,
    display: _Display,
    seconds: float | None,
) -> None:
    """Look at the model until the time is up or the user stops it."""
    begun = time.monotonic()
    measurement.idle_at = begun
    with display:
        while not stop.wait(POLL_S):
            family.check()
            try:
                answer = client.get("/v1/model")
            except httpx.TransportError:  # an API worker that died is being restarted
                continue
            now = time.monotonic()
            if answer.status_code == 200:
                measurement.note(answer.json(), now)
            display.update(now)
            if seconds is not None and now - begun >= seconds:
                return


def _ask(url: str, sample: Sequence[Any], measurement: Measurement, stop: threading.Event) -> None:
    """Ask at a steady rate about flights that have yet to be learned; time each answer as a client sees it."""
    due = time.monotonic()
    with httpx.Client(base_url=url, timeout=5.0) as client:
        while not stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + 1.0 / PREDICTIONS_PER_SECOND, time.monotonic())  # what was missed is not made up for
            flight = sample[(measurement.n_events // SAMPLE_STEP + 1) % len(sample)]
            begun = time.perf_counter()
            try:
                answer = client.post("/v1/predictions", json={"instances": [flight["features"]]})
            except httpx.TransportError:
                continue
            if answer.status_code == 200:
                measurement.latencies_ms.append(1000.0 * (time.perf_counter() - begun))
                measurement.n_predictions += 1


class _Family:
    """`flexihash` commands as child processes, each with its log in a file; leaving stops them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> _Family:
        return self

    def start(self, command: str, *arguments: str) -> None:
        """Start ``flexihash command arguments``, without the user's own settings."""
        environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
        with self._log(command).open("wb") as log:
            self._processes[command] = subprocess.Popen(
                [sys.executable, "-P", "-m", "flexihash", command, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C is for us alone
                preexec_fn=die_with_parent(signal.SIGTERM),
            )

    def check(self) -> None:
        """Raises: DemoError: a child ended that should not have; a producer that is through is fine."""
        for command, process in self._processes.items():
            code = process.poll()
            if code is not None and not (command == "produce" and code == 0):
                raise self.explain(command, f"ended with exit code {code}")

    def explain(self, command: str, problem: str) -> DemoError:
        """An error with the last lines of a child's log."""
        lines = self._log(command).read_text(errors="replace").splitlines()[-LOG_LINES:]
        heading = f"{command} {problem}; its log " + ("ends with:" if lines else "is empty")
        return DemoError("\n".join([heading, *lines]))

    def __exit__(self, *_: object) -> None:
        running = [process for process in self._processes.values() if process.poll() is None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_S
        for process in running:
            _end(process, deadline)

    def _log(self, command: str) -> Path:
        return self._folder / f"{command}.log"


def _end(process: subprocess.Popen[bytes], deadline: float) -> None:
    """Wait for a process that was told to stop; at the deadline make it hurry (see `Supervisor.run`), then kill it."""
    for timeout_s, impatience in ((max(0.0, deadline - time.monotonic()), signal.SIGINT), (HURRY_S, signal.SIGKILL)):
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.send_signal(impatience)
    process.wait()


class _Display:
    """What the user sees on stderr: live on a terminal, else a line now and then."""

    def __init__(self, measurement: Measurement) -> None:
        self._measurement = measurement
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(BarColumn(None), TaskProgressColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._task = self._bar.add_task("flights", total=N_FLIGHTS)
        self._live = Live(console=self._console, refresh_per_second=5) if self._console.is_terminal else None
        self._line_at = 0.0

    def __enter__(self) -> _Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(text)

    def show_address(self, url: str, features: dict[str, Any]) -> None:
        """Print, once and unbroken, what can be copied."""
        body = json.dumps({"instances": [features]}, separators=(",", ":"))
        curl = f"curl -s {url}/v1/predictions -H 'content-type: application/json' -d '{body}'"
        for line in (f"\nlearning flights; the API is at {url}, its documentation at {url}/docs. Try:\n", f"{curl}\n"):
            self._console.print(line, soft_wrap=True, markup=False)

    def update(self, now: float) -> None:
        if self._live:
            self._bar.update(self._task, completed=self._measurement.n_events)
            self._live.update(Group(self._bar, self._figures()))
        elif now - self._line_at >= LINE_S:
            self._line_at = now
            self._console.print(", ".join(f"{name} {value}" for name, value in self._rows()), soft_wrap=True)

    def show_summary(self) -> None:
        """Print the figures on stdout."""
        Console(highlight=False).print(self._figures())

    def _figures(self) -> Table:
        table = Table(box=None, show_header=False)
        for name, value in self._rows():
            table.add_row(name, value, style=None)
        return table

    def _rows(self) -> list[tuple[str, str]]:
        seen = self._measurement
        rest = " (all; serving until Ctrl-C)" if self._live and seen.n_events >= N_FLIGHTS else ""
        return [
            ("flights learned", f"{seen.n_events:,}{rest}"),
            ("per second", f"{seen.events_per_second:,.0f}"),
            ("log loss", _figure(seen.metric("log_loss"))),
            ("baseline's log loss", _figure(seen.metric("baseline_log_loss"))),
            ("AUC", _figure(seen.metric("auc"))),
            ("predictions over HTTP", f"{seen.n_predictions:,}"),
            ("p50 ms", _figure(seen.percentile_ms(0.50), 1)),
            ("p99 ms", _figure(seen.percentile_ms(0.99), 1)),
        ]


def _figure(value: float | None, n_digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{n_digits}f}"


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM and a closed terminal set, so that everything is stopped in order."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    former = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def _temporary_folder(parent: Path | None) -> Iterator[Path]:
    where = str(parent) if parent is not None and parent.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="flexihash-demo-", dir=where) as folder:
        yield Path(folder)


def _choose_port(port: int | None) -> int:
    """A port that can be had now; the service binds it again in a moment, and tells where it was taken meanwhile."""
    try:
        probe = bind_socket(HOST, PORT if port is None else port)
    except AddressError:
        if port is not None:
            raise
        probe = bind_socket(HOST, 0)
    with probe:
        return _port_of(probe)


def _port_of(listening: socket.socket) -> int:
    port: int = listening.getsockname()[1]
    return port

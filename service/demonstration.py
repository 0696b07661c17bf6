"""The demo: a broker in memory, the service, and real flights, watched while they are being learned."""

from __future__ import annotations

import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

from flexihash.producer.flights import N_FLIGHTS, flights
from flexihash.service.display import Display
from flexihash.service.embedded_broker import EmbeddedBroker
from flexihash.service.family import Family
from flexihash.service.measurement import Forecast, Measurement
from flexihash.service.service_errors import AddressError
from flexihash.service.settings import SHARED_MEMORY
from flexihash.service.signals import stop_signals
from flexihash.service.supervisor import bind_socket

TOPIC = "flights"
HOST = "127.0.0.1"
PORT = 8080
POLL_S = 0.2  # between two looks at the model
READY_S = 300.0  # a fresh clone compiles its kernels first; a busy machine takes long
PREDICTIONS_PER_SECOND = 30.0
AHEAD_S = 1.0  # more than passes between a look at the model and an answer
SAMPLE_STEP = 100  # every so many flights one is kept to ask about


def run_demo(*, seconds: float | None, rate: float | None, port: int | None) -> Measurement:
    """Run until `seconds` after the service got ready, or until Ctrl-C; leave nothing behind.

    Args:
        seconds: None goes on serving until Ctrl-C, SIGTERM or until the terminal is closed.
        rate: flights a second; None for as many as the broker takes.
        port: of the API; None takes 8080, or a free one where that is taken.

    Raises:
        DemoError: the service or the producer ended by itself; the message has its last log lines.
        AddressError: `port` is taken.
        ServiceError, ProducerError: the broker or the flights are not installed.
    """
    upcoming = flights()  # raises at once where they are not installed
    measurement = Measurement()
    display = Display(measurement, N_FLIGHTS)
    with stop_signals(signal.SIGHUP, insist=False) as stop, ExitStack() as stack:
        stack.enter_context(display)
        service = _start_service(stack, display, port)
        sample = list(islice(upcoming, 0, None, SAMPLE_STEP))
        client = stack.enter_context(httpx.Client(base_url=service.url, timeout=5.0))
        if _wait_until_ready(client, service.family, stop):
            display.show_address(service.url, sample[0]["features"])
            display.wait_for("reading the flights")
            _start_producer(service, rate)
            asking = threading.Thread(target=_ask, args=(service.url, sample, measurement, stop), name="predictions")
            asking.start()
            stack.callback(asking.join)
            stack.callback(stop.set)
            _watch(client, service.family, stop, measurement, display, seconds)
        display.wait_for("stopping")
    return measurement


@dataclass(frozen=True)
class _Service:
    url: str
    servers: str
    family: Family


def _start_service(stack: ExitStack, display: Display, port: int | None) -> _Service:
    """A broker and `flexihash serve`, which end with the stack, as do their folders."""
    folder = stack.enter_context(_temporary_folder(None))
    memory = stack.enter_context(_temporary_folder(SHARED_MEMORY))
    display.wait_for("starting a Kafka broker in memory")
    servers = stack.enter_context(EmbeddedBroker()).bootstrap_servers
    port = _choose_port(port)
    family = stack.enter_context(Family(folder))
    display.wait_for("starting the service; the first time, it compiles, 10 seconds or more")
    family.start("serve", *_serve_arguments(servers, port, folder, memory))
    return _Service(f"http://{HOST}:{port}", servers, family)


def _start_producer(service: _Service, rate: float | None) -> None:
    rate_text = "max" if rate is None else str(rate)
    arguments = (TOPIC, "--topic", TOPIC, "--bootstrap-servers", service.servers, "--rate", rate_text)
    service.family.start("produce", *arguments)


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


def _wait_until_ready(client: httpx.Client, family: Family, stop: threading.Event) -> bool:
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
    family: Family,
    stop: threading.Event,
    measurement: Measurement,
    display: Display,
    seconds: float | None,
) -> None:
    """Look at the model until the time is up or the user stops it."""
    begun = time.monotonic()
    measurement.idle_at = begun
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
            number = _choose_flight(measurement, len(sample))
            flight = sample[number]
            begun = time.perf_counter()
            try:
                answer = client.post("/v1/predictions", json={"instances": [flight["features"]]})
            except httpx.TransportError:
                continue
            if answer.status_code == 200:
                measurement.latencies_ms.append(1000.0 * (time.perf_counter() - begun))
                measurement.n_predictions += 1
                _note_forecast(measurement, answer.json(), flight, number * SAMPLE_STEP)


def _choose_flight(measurement: Measurement, n_sampled: int) -> int:
    """One of the sample that is so far ahead that it is not learned before the answer; at the end, the first again."""
    n_soon = int(measurement.events_per_second * AHEAD_S)
    return ((measurement.n_events + n_soon) // SAMPLE_STEP + 1) % n_sampled


def _note_forecast(measurement: Measurement, answer: dict[str, Any], flight: Any, n_before: int) -> None:
    """Keep a prediction, where none but flights `n_before` it were learned by then."""
    if 0 < answer["version"]["events"] <= n_before:
        probability = answer["predictions"][0]["value"]
        measurement.forecast = Forecast(flight["features"], probability, bool(flight["label"]))


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

"""`flexihash serve`: one listening socket, the learner and the API workers as children, restarted when they die.

The parent holds no tables and imports neither torch nor Kafka, so that it stays small and does not die with them.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import FrameType
from typing import Any

import structlog

from flexihash.service.folders import SERVE_LOCK, give_back, hold_memory, make_metrics_folder
from flexihash.service.logs import configure_logs
from flexihash.service.orphans import die_with_parent
from flexihash.service.service_errors import AddressError
from flexihash.service.settings import Settings

BACKLOG = 2048  # connections that wait while the API starts
LAST_EXIT = "SUPERVISOR_LAST_EXIT"  # environment variable: exit code of the child before, negative for a signal; empty
MUST_MEND = 2  # exit code of a child that says: restarting will not help, a person must change something
LEARNER_GRACE_S = 60.0  # the last checkpoint of a table of gigabytes takes this long on a slow disk
API_GRACE_S = 5.0  # answers in flight take milliseconds
OPEN_TO_ALL = (
    "no token is asked for: whoever reaches this address may predict, publish events and save checkpoints; "
    "set FLEXIHASH_API_TOKEN, or listen on 127.0.0.1"
)

logger = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class ChildSpec:
    """A process to keep running.

    Args:
        name: as the logs call it.
        command: program and arguments.
        grace_s: how long it may take to end after SIGTERM before it is killed.
        orphan_signal: what the kernel sends it when the supervisor dies without stopping it (Linux only).
        pass_fds: file descriptors that it inherits.
    """

    name: str
    command: Sequence[str]
    grace_s: float
    orphan_signal: signal.Signals = signal.SIGKILL
    pass_fds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Backoff:
    """Seconds to wait before a restart: doubling from `first_s` to `most_s`, afresh after running for `well_s`."""

    first_s: float = 0.2
    most_s: float = 10.0
    well_s: float = 30.0

    def delay_s(self, n_deaths: int) -> float:
        """Wait after the `n_deaths`-th death in a row, counted from 1."""
        return float(min(self.most_s, self.first_s * 2.0 ** min(n_deaths - 1, 32)))


@dataclass
class Child:
    """One child's life: running, or waiting for `restart_at` (monotonic seconds)."""

    spec: ChildSpec
    process: subprocess.Popen[bytes] | None = None
    n_deaths: int = 0
    last_exit: int | None = None
    started_at: float = 0.0
    restart_at: float = 0.0


@dataclass
class Supervisor:
    """Starts the children in order, restarts those that die, and stops them one after the other in the same order.

    Args:
        specs: the children; the learner first, so that the API still answers while the last checkpoint is written.
        environment: of all children.
    """

    specs: Sequence[ChildSpec]
    environment: Mapping[str, str]
    backoff: Backoff = field(default_factory=Backoff)
    is_stopping: bool = False
    is_hurried: bool = False

    def run(self) -> int:
        """Supervise until SIGTERM or SIGINT, or until a child says that a person must act.

        Takes over SIGTERM, SIGINT and SIGCHLD, so it runs in the main thread only. While stopping, SIGTERM is ignored
        and SIGINT (Ctrl-C again) kills what is still there.

        Returns:
            0 when told to stop and all stopped well, 1 when one had to be killed or failed while stopping,
            `MUST_MEND` when a child ended with that code.
        """
        children = [Child(spec) for spec in self.specs]
        are_clean: list[bool] = []
        with _Alarm(self._ask_to_stop) as alarm:
            try:
                code = self._supervise(children, alarm)
            finally:
                self.is_stopping = True
                are_clean.extend(self._stop(child, alarm) for child in children)
        return code or (0 if all(are_clean) else 1)

    def _supervise(self, children: Sequence[Child], alarm: _Alarm) -> int:
        while not self.is_stopping:
            if self._tend(children) == MUST_MEND:
                return MUST_MEND
            alarm.wait(_next_restart_s(children))
        return 0

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.is_hurried = self.is_hurried or (self.is_stopping and number == signal.SIGINT)
        self.is_stopping = True

    def _tend(self, children: Sequence[Child]) -> int:
        """Note who died and start who is due; returns `MUST_MEND` where a child ended with it, else 0."""
        for child in children:
            if child.process is not None and child.process.poll() is not None:
                if child.process.returncode == MUST_MEND:
                    logger.error(f"{child.spec.name} cannot go on until its error is mended; stopping")
                    return MUST_MEND
                self._plan_restart(child)
            if child.process is None and time.monotonic() >= child.restart_at:
                self._start(child)
        return 0

    def _plan_restart(self, child: Child) -> None:
        assert child.process is not None
        now = time.monotonic()
        ran_s = now - child.started_at
        child.n_deaths = 1 if ran_s >= self.backoff.well_s else child.n_deaths + 1
        delay_s = self.backoff.delay_s(child.n_deaths)
        ending = _describe_exit(child.process.returncode)
        logger.error(f"{child.spec.name} {ending}; restarting in {delay_s:g} s", ran_s=round(ran_s, 1))
        child.last_exit = child.process.returncode
        child.process = None
        child.restart_at = now + delay_s

    def _start(self, child: Child) -> None:
        spec = child.spec
        child.process = subprocess.Popen(
            spec.command,
            env={**self.environment, LAST_EXIT: "" if child.last_exit is None else str(child.last_exit)},
            pass_fds=spec.pass_fds,
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C reaches the supervisor alone, which stops the children in order
            preexec_fn=die_with_parent(spec.orphan_signal),
        )
        child.started_at = time.monotonic()
        logger.info(f"{spec.name} started", pid=child.process.pid)

    def _stop(self, child: Child, alarm: _Alarm) -> bool:
        """Stop one child; False when it had to be killed or ended with an error."""
        process = child.process
        if process is None or process.poll() is not None:
            return True
        logger.info(f"stopping {child.spec.name}")
        process.terminate()
        deadline = time.monotonic() + child.spec.grace_s
        while process.poll() is None and time.monotonic() < deadline and not self.is_hurried:
            alarm.wait(max(0.0, deadline - time.monotonic()))
        if process.poll() is None:
            reason = "was told to hurry" if self.is_hurried else f"did not stop within {child.spec.grace_s:g} s"
            logger.error(f"{child.spec.name} {reason}; killing it")
            process.kill()
        code = process.wait()
        is_clean = code in (0, -signal.SIGTERM)  # uvicorn ends by the signal that it was sent
        (logger.info if is_clean else logger.error)(f"{child.spec.name} {_describe_exit(code)}")
        return is_clean


class _Alarm:
    """Wakes the main thread on SIGTERM, SIGINT and SIGCHLD; gives the former handlers back at its end."""

    def __init__(self, on_stop: Callable[[int, FrameType | None], None]) -> None:
        self._on_stop = on_stop

    def __enter__(self) -> _Alarm:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._reader, selectors.EVENT_READ)
        self._former_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._former = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, self._on_stop),
            signal.SIGINT: signal.signal(signal.SIGINT, self._on_stop),
            signal.SIGCHLD: signal.signal(signal.SIGCHLD, lambda number, frame: None),  # it only has to wake
        }
        return self

    def wait(self, timeout_s: float | None) -> None:
        """Return when a signal came, at once where one has come since the last wait, or after `timeout_s`."""
        if self._selector.select(timeout_s):
            self._reader.recv(4096)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._former_fd)
        self._selector.close()
        self._reader.close()
        self._writer.close()


def serve(settings: Settings, on_listening: Callable[[str], None] = lambda url: None) -> int:
    """Run the whole service until it is told to stop; returns the exit code.

    Args:
        on_listening: is told the address once connections are taken.

    Raises:
        LearnerBusy: another service works in the memory folder, which is left as it is.
        FolderError: that folder is not ours alone, or cannot be written.
        AddressError: host and port cannot be had.
    """
    configure_logs(settings, "serve")
    with bind_socket(settings.host, settings.port) as listening:
        lock = hold_memory(settings.memory, SERVE_LOCK)
        try:
            return _serve(settings, listening, on_listening)
        finally:
            give_back(settings.memory)
            os.close(lock)


def _serve(settings: Settings, listening: socket.socket, on_listening: Callable[[str], None]) -> int:
    """The same, on a socket and in a memory folder that are held."""
    url = describe_address(listening)
    logger.info(f"listening on {url}", topic=settings.topic, workers=settings.workers)
    if settings.api_token is None and not is_loopback(listening):
        logger.warning(OPEN_TO_ALL, host=settings.host)
    on_listening(url)
    return Supervisor(
        specs=child_specs(settings.workers, listening.fileno()),
        environment={**os.environ, **settings.to_environment(), **_share_metrics(settings)},
    ).run()


def _share_metrics(settings: Settings) -> dict[str, str]:
    """Has several workers add up their request metrics in a folder, which must be empty at their start.

    Raises:
        FolderError: it cannot be made.
    """
    if settings.workers == 1:
        return {}
    return {"PROMETHEUS_MULTIPROC_DIR": str(make_metrics_folder(settings.memory))}


def child_specs(n_workers: int, listening_fd: int) -> list[ChildSpec]:
    """The learner, then the API workers, which inherit the listening socket."""
    # -P: a folder named `service` where the command was typed must not take the place of ours.
    child = (sys.executable, "-P", "-m", "flexihash.service.child")
    learner = ChildSpec("learner", (*child, "learner"), LEARNER_GRACE_S, signal.SIGTERM)
    return [
        learner,
        *(
            ChildSpec(
                f"api-{number}",
                (*child, "api", "--fd", str(listening_fd)),
                API_GRACE_S,
                pass_fds=(listening_fd,),
            )
            for number in range(1, n_workers + 1)
        ),
    ]


def bind_socket(host: str, port: int) -> socket.socket:
    """A listening TCP socket.

    Raises:
        AddressError: the port is taken, or the address is not this machine's, or not allowed.
    """
    listening, address = _open_socket(host, port)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        reason = os.strerror(error.errno or 0).lower()
        raise AddressError(
            f"cannot listen on {host}:{port}: {reason}; stop what uses it, or choose another with --port or --host"
        ) from error
    return listening


def _open_socket(host: str, port: int) -> tuple[socket.socket, Any]:
    """A socket of the family that the host is of, and the address to bind it to."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise AddressError(f"cannot listen on {host}:{port}: {error.strerror}; set FLEXIHASH_HOST") from error
    family, kind, protocol, _, address = found[0]
    return socket.socket(family, kind, protocol), address


def describe_address(listening: socket.socket) -> str:
    """URL of a listening socket, as a browser on this machine takes it."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine reaches a listening socket."""
    return ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def _next_restart_s(children: Sequence[Child]) -> float | None:
    waiting = [child.restart_at for child in children if child.process is None]
    return max(0.0, min(waiting) - time.monotonic()) if waiting else None


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"was killed by signal {-code}"

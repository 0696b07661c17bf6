"""Supervision of real child processes: restarts, what a person must mend, and how it all stops."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from flexihash.service import supervisor
from flexihash.service.service_errors import AddressError
from flexihash.service.settings import load_settings
from flexihash.service.supervisor import Backoff, ChildSpec, Supervisor, bind_socket, child_specs, describe_address

WAIT_S = 20.0  # a bound for a loaded machine, not an expectation
QUICK = Backoff(first_s=0.01, most_s=0.05)

# A child that notes its life in a file: `started`, then `stopped` when it is told to stop.
DUTIFUL = """
import signal, sys, time
def note(word):
    with open(sys.argv[1], "a") as file:
        file.write(word + " " + sys.argv[2] + "\\n")
def stop(number, frame):
    note("stopped")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
note("started")
time.sleep(60)
"""
STUBBORN = DUTIFUL.replace("sys.exit(0)", "time.sleep(60)")


def dies(times: int, how: str) -> str:
    """Code of a child that notes `ran`, dies the first times, then lives on, so as not to die while being stopped."""
    return f"""
import os, sys, time
open(sys.argv[1], "a").write("ran\\n")
if len(open(sys.argv[1]).readlines()) <= {times}:
    {how}
time.sleep(60)
"""


def child(name: str, code: str, *arguments: object, grace_s: float = WAIT_S) -> ChildSpec:
    return ChildSpec(name, (sys.executable, "-c", code, *map(str, arguments)), grace_s)


def run_until(specs: list[ChildSpec], is_enough: Callable[[], bool], then: Callable[[], None] = lambda: None) -> int:
    """Supervise in this thread; another one sends SIGTERM once `is_enough`, and does what comes `then`."""

    def watch() -> None:
        try:
            wait_for(is_enough)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
        then()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return Supervisor(specs, os.environ, QUICK).run()
    finally:
        watcher.join()


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_children_stop_one_after_the_other(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    specs = [child("learner", DUTIFUL, notes, "learner"), child("api", DUTIFUL, notes, "api")]
    assert run_until(specs, lambda: len(lines_of(notes)) == 2) == 0
    assert sorted(lines_of(notes)[:2]) == ["started api", "started learner"]
    assert lines_of(notes)[2:] == ["stopped learner", "stopped api"]


def test_dead_child_is_restarted(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    specs = [child("learner", dies(2, "sys.exit(1)"), notes)]
    assert run_until(specs, lambda: len(lines_of(notes)) >= 3) == 0


def test_killed_child_is_restarted_and_the_other_lives_on(tmp_path: Path) -> None:
    notes, steady = tmp_path / "notes", tmp_path / "steady"
    suicide = dies(1, "os.kill(os.getpid(), 9)")
    specs = [child("learner", suicide, notes), child("api", DUTIFUL, steady, "api")]
    assert run_until(specs, lambda: len(lines_of(notes)) >= 2 and bool(lines_of(steady))) == 0
    assert lines_of(steady) == ["started api", "stopped api"]


def test_what_a_person_must_mend_stops_everything(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    wait_then_give_up = (
        "import os, sys, time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.01)\nraise SystemExit(2)"
    )
    specs = [child("learner", wait_then_give_up, notes), child("api", DUTIFUL, notes, "api")]
    assert Supervisor(specs, os.environ, QUICK).run() == 2
    assert lines_of(notes) == ["started api", "stopped api"]


def test_child_that_will_not_stop_is_killed(tmp_path: Path) -> None:
    notes, after = tmp_path / "notes", tmp_path / "after"
    specs = [child("learner", STUBBORN, notes, "learner", grace_s=0.2), child("api", DUTIFUL, after, "api")]
    assert run_until(specs, lambda: bool(lines_of(notes)) and bool(lines_of(after))) == 1
    assert lines_of(notes) == ["started learner", "stopped learner"]
    assert lines_of(after) == ["started api", "stopped api"]


def test_second_sigterm_changes_nothing(tmp_path: Path) -> None:
    notes, permission = tmp_path / "notes", tmp_path / "permission"
    slow = DUTIFUL.replace(
        "sys.exit(0)", "\n    while not os.path.exists(sys.argv[3]): time.sleep(0.01)\n    sys.exit(0)"
    )

    def insist() -> None:
        wait_for(lambda: len(lines_of(notes)) == 2)
        os.kill(os.getpid(), signal.SIGTERM)
        permission.touch()

    specs = [child("learner", "import os" + slow, notes, "learner", permission)]
    assert run_until(specs, lambda: bool(lines_of(notes)), insist) == 0
    assert lines_of(notes) == ["started learner", "stopped learner"]


def test_ctrl_c_while_stopping_kills(tmp_path: Path) -> None:
    notes = tmp_path / "notes"

    def insist() -> None:
        wait_for(lambda: len(lines_of(notes)) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    specs = [child("learner", STUBBORN, notes, "learner", grace_s=1e6)]
    assert run_until(specs, lambda: bool(lines_of(notes)), insist) == 1


def test_handlers_are_given_back() -> None:
    former = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGCHLD)
    assert Supervisor([child("learner", "raise SystemExit(2)")], os.environ, QUICK).run() == 2
    assert former == (
        signal.getsignal(signal.SIGTERM),
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGCHLD),
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_children_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    supervise = (
        "import os, signal, sys\n"
        "from flexihash.service.supervisor import ChildSpec, Supervisor\n"
        "code, notes = sys.argv[1:]\n"
        "def spec(name, number):\n"
        "    return ChildSpec(name, (sys.executable, '-c', code, notes, name), 9.0, number)\n"
        "Supervisor([spec('learner', signal.SIGTERM), spec('api', signal.SIGKILL)], os.environ).run()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, "-c", supervise, DUTIFUL, str(notes)], env=environment)
    wait_for(lambda: len(lines_of(notes)) == 2)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(is_running(int(pid)) for pid in children))
    assert len(children) == 2
    assert lines_of(notes)[2:] == ["stopped learner"]  # the API was killed without a word


def test_supervisor_imports_nothing_heavy() -> None:
    heavy = "print([name for name in ('torch', 'numba', 'sklearn', 'numpy', 'kafka') if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    output = subprocess.check_output(
        [sys.executable, "-c", f"import sys, service.supervisor; {heavy}"], env=environment, text=True
    )
    assert output == "[]\n"


def test_backoff_doubles_up_to_its_limit() -> None:
    waits = [Backoff(first_s=0.2, most_s=10.0).delay_s(n) for n in (1, 2, 3, 6, 7, 10_000)]
    assert waits == [0.2, 0.4, 0.8, 6.4, 10.0, 10.0]


def test_child_that_ran_well_is_restarted_at_once(tmp_path: Path) -> None:
    """With `well_s` = 0 every death counts as the first; if it did not, the waits would outlast any patience."""
    notes = tmp_path / "notes"
    crash = "import sys; file = open(sys.argv[1], 'a+'); file.write('ran\\n'); sys.exit(2 if file.tell() >= 32 else 1)"
    backoff = Backoff(first_s=0.01, most_s=1e6, well_s=0.0)
    assert Supervisor([child("learner", crash, notes)], os.environ, backoff).run() == 2
    assert len(lines_of(notes)) == 8


def test_port_in_use_names_it_and_what_to_do() -> None:
    with bind_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressError) as caught:
            bind_socket("127.0.0.1", port)
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{port}: address already in use; "
        "stop what uses it, or choose another with --port or --host"
    )


def test_unknown_host_is_told() -> None:
    with pytest.raises(AddressError, match=r"^cannot listen on no\.such\.host\.invalid:80: .*FLEXIHASH_HOST$"):
        bind_socket("no.such.host.invalid", 80)


def test_bound_socket_listens_and_has_a_url() -> None:
    with bind_socket("127.0.0.1", 0) as listening:
        host, port = listening.getsockname()
        assert describe_address(listening) == f"http://127.0.0.1:{port}"
        socket.create_connection((host, port), timeout=WAIT_S).close()


@pytest.mark.parametrize(
    ("host", "token", "warns"),
    [
        ("0.0.0.0", None, True),
        ("::", None, True),
        ("0.0.0.0", "t", False),
        ("127.0.0.1", None, False),
        ("127.0.0.9", None, False),
        ("localhost", None, False),
        ("::1", None, False),
    ],
)
def test_a_service_that_is_open_to_all_says_so(
    monkeypatch: pytest.MonkeyPatch, host: str, token: str | None, warns: bool
) -> None:
    monkeypatch.setattr(Supervisor, "run", lambda self: 0)
    monkeypatch.setattr(supervisor, "configure_logs", lambda settings, process: None)
    with capture_logs() as logs:
        assert supervisor.serve(load_settings(host=host, port=0, api_token=token)) == 0
    warnings = [line["event"] for line in logs if line["log_level"] == "warning"]
    assert warnings == ([supervisor.OPEN_TO_ALL] if warns else [])


def test_children_of_the_service() -> None:
    learner, first, second = child_specs(n_workers=2, listening_fd=7)
    assert (learner.name, learner.command[1:], learner.orphan_signal) == (
        "learner",
        ("-P", "-m", "flexihash.service.child", "learner"),
        signal.SIGTERM,
    )
    assert (first.name, second.name) == ("api-1", "api-2")
    assert second.command[1:] == ("-P", "-m", "flexihash.service.child", "api", "--fd", "7")
    assert second.pass_fds == (7,)


def wait_for(is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_done():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"

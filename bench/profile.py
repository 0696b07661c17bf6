"""A flame graph of the learner at work: `python -m bench.profile [--out profile.svg]`.

py-spy looks into `flexihash learn -`, which learns flights over and over, from outside, once it has started. Frames
below Python are shown too: the kernels are compiled as they are loaded and so have no symbols; they appear as addresses
above the line of Python that calls them, such as `learn (model/learner.py)` or `scan (consumer/scan.py)`.
"""

from __future__ import annotations

import argparse
import fcntl
import subprocess
import sys
import time
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from threading import Thread

from producer.events import encode
from producer.flights import flights

SECONDS = 10
SAMPLES_PER_S = 100
BEGUN_BYTES = 4 << 20  # taken by the learner, pipe and buffers apart: it has started
PIPE_BYTES = 1 << 20
START_TIMEOUT_S = 120.0  # with kernels to compile
TIMEOUT_S = 120.0
DENIED = """
py-spy could not look into the learner. It needs the right to ptrace:
- on a host, run as root (sudo make profile), or set kernel.yama.ptrace_scope to 0;
- in a container, start that with --cap-add SYS_PTRACE;
- where neither can be, `python -m cProfile -m service learn FILE` shows Python's own functions, kernels as one call.
"""


class Feed(Thread):
    """Writes flights to a pipe until it is closed."""

    def __init__(self, learner: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        self.n_bytes = 0
        self._learner = learner
        self._data = b"\n".join(encode(flights())) + b"\n"

    def run(self) -> None:
        assert self._learner.stdin is not None
        fcntl.fcntl(self._learner.stdin, fcntl.F_SETPIPE_SZ, PIPE_BYTES)  # so that the learner need not wait
        step = PIPE_BYTES // 4
        with suppress(BrokenPipeError, ValueError):
            for begin in cycle(range(0, len(self._data), step)):
                self._learner.stdin.write(self._data[begin : begin + step])
                self.n_bytes += step


def main() -> int:
    """Records, and says where the graph is; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description="A flame graph of the learner.")
    parser.add_argument("--out", type=Path, default=Path("profile.svg"), metavar="FILE.svg")
    out: Path = parser.parse_args().out
    py_spy = Path(sys.executable).with_name("py-spy")
    if not py_spy.exists():
        raise SystemExit("py-spy is not installed: pip install -c constraints.txt 'flexihash[bench]'")
    command = [sys.executable, "-P", "-m", "service", "learn", "-", "--json"]
    learner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        feed = Feed(learner)
        feed.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while feed.n_bytes < BEGUN_BYTES:
            if learner.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the learner does not begin to learn")
            time.sleep(0.1)
        return record(py_spy, learner.pid, out)
    finally:
        learner.kill()
        learner.wait()


def record(py_spy: Path, pid: int, out: Path) -> int:
    """Looks into a process for SECONDS; returns the exit code."""
    options = ["--native", "--rate", str(SAMPLES_PER_S), "--duration", str(SECONDS), "--output", str(out)]
    command = [py_spy, "record", *options, "--pid", str(pid)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
    if run.returncode != 0:
        print(run.stderr, file=sys.stderr)
        if "ermission" in run.stderr or "not permitted" in run.stderr:
            print(DENIED, file=sys.stderr)
        return 1
    print(f"{out}: open it in a browser; the wider a frame, the more time it took")
    return 0


if __name__ == "__main__":
    sys.exit(main())

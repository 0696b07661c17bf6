"""A flame graph of the learner at work: `python -m bench.profile [--out profile.svg]`.

py-spy looks into `flexihash learn FILE`, which learns flights several times over, from outside, once it has started.
Frames below Python are shown too: the kernels are compiled as they are loaded and so have no symbols; they appear as
addresses above the line of Python that calls them, such as `learn (model/online.py)` or `scan
(consumer/scan/scanner.py)`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path

from flexihash.producer.events import encode
from flexihash.producer.flights import flights
from flexihash.producer.ndjson import write

N_PASSES = 8  # over all flights: 0.5 GB, which is learned in longer than SECONDS
SECONDS = 5  # fewer where the learner comes to its end before
SAMPLES_PER_S = 200
BEGUN_BYTES = 1 << 20  # read by the learner: it has started
LOOK_S = 0.02
START_TIMEOUT_S = 120.0  # with kernels to compile
TIMEOUT_S = 120.0
DENIED = """
py-spy could not look into the learner. It needs the right to ptrace:
- on a host, run as root (sudo make profile), or set kernel.yama.ptrace_scope to 0;
- in a container, start that with --cap-add SYS_PTRACE;
- where neither can be, `python -m cProfile -m service learn FILE` shows Python's own functions, kernels as one call.
"""


def position(pid: int, path: Path) -> int:
    """How far a process has read in a file; 0 where it has not opened it."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if link.resolve() == path:
                info = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text()
                return int(info.partition("pos:")[2].split()[0])
    return 0


def main() -> int:
    """Records, and says where the graph is; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description="A flame graph of the learner.")
    parser.add_argument("--out", type=Path, default=Path("profile.svg"), metavar="FILE.svg")
    out: Path = parser.parse_args().out
    py_spy = Path(sys.executable).with_name("py-spy")
    if not py_spy.exists():
        raise SystemExit("py-spy is not installed: pip install -c constraints.txt 'flexihash[bench]'")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder).resolve() / "flights.ndjson"
        write(chain.from_iterable(repeat(list(encode(flights())), N_PASSES)), path)
        command = [sys.executable, "-P", "-m", "flexihash", "learn", str(path), "--json"]
        learner = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while position(learner.pid, path) < BEGUN_BYTES:
                if learner.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("the learner does not begin to learn")
                time.sleep(LOOK_S)
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

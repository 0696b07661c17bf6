"""A flame graph of the learner at work: `python -m bench.profile [--out profile.svg]`.

py-spy samples `flexihash learn` on a file of flights from outside. Frames below Python are shown too: the kernels,
which are compiled as they are loaded and so have no symbols, appear as addresses under the line of Python that calls
them, such as `learn (model/learner.py)` or `scan (consumer/scan.py)`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from itertools import chain, repeat
from pathlib import Path

from producer.events import encode
from producer.files import write
from producer.flights import flights

N_PASSES = 10  # of all flights: some seconds
SAMPLES_PER_S = 250
TIMEOUT_S = 300
DENIED = """
py-spy could not look into the process. It needs ptrace:
- in a container, start that with --cap-add SYS_PTRACE;
- on a host with kernel.yama.ptrace_scope 2 or 3, run as root, or set that to 1: a child may be traced then;
- where neither can be, use `perf record -g` with PYTHONPERFSUPPORT=1, or `python -m cProfile`, for Python frames only.
"""


def main() -> int:
    """Records, and says where the graph is; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description="A flame graph of the learner.")
    parser.add_argument("--out", type=Path, default=Path("profile.svg"), metavar="FILE.svg")
    out: Path = parser.parse_args().out
    py_spy = Path(sys.executable).with_name("py-spy")
    if not py_spy.exists():
        raise SystemExit("py-spy is not installed: pip install -c constraints.txt 'flexihash[bench]'")
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder, "flights.ndjson")
        write(chain.from_iterable(repeat(list(encode(flights())), N_PASSES)), events)
        learner = [sys.executable, "-P", "-m", "service", "learn", str(events), "--json"]
        command = [py_spy, "record", "--native", "--rate", str(SAMPLES_PER_S), "--output", out, "--", *learner]
        run = subprocess.run(command, check=False, timeout=TIMEOUT_S, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    words = run.stderr.decode(errors="replace")
    if run.returncode != 0 or not out.exists():
        print(words, file=sys.stderr)
        print(DENIED if "ermission" in words or "ptrace" in words.lower() else "py-spy failed", file=sys.stderr)
        return 1
    print(f"{out}: open it in a browser; the wider a frame, the more time it took")
    return 0


if __name__ == "__main__":
    sys.exit(main())

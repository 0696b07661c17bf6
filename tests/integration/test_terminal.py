"""The commands as they are seen: on a terminal of 80 columns, and by a program."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

WIDTH = 80
SECONDS = 12
COMMAND = [sys.executable, "-P", "-m", "flexihash"]
DEMO = [*COMMAND, "demo", "--port", "0", "--rate", "1000"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm"}
CONTROL = re.compile(r"\x1b\[[?\d;]*[A-Za-z]")  # colours, and how the cursor moves


def run_on_a_terminal(command: list[str]) -> str:
    """All that it wrote on a terminal, with what moves the cursor."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT, close_fds=True)
    os.close(theirs)
    written = b""
    try:
        while block := os.read(ours, 65_536):
            written += block
    except OSError as ended:  # Linux tells the end of a terminal so
        if ended.errno != errno.EIO:
            raise
    finally:
        os.close(ours)
    assert process.wait() == 0, written.decode()
    return written.decode()


def read_lines(written: str) -> list[str]:
    return [line.rstrip() for line in re.split(r"[\r\n]+", CONTROL.sub("", written))]


def test_bars(tmp_path: Path) -> None:
    file = str(tmp_path / "events.ndjson")
    lines = read_lines(run_on_a_terminal([*COMMAND, "produce", "synthetic", "--limit", "50000", "--out", file]))
    assert any(re.search(r"^synthetic .* [\d ]+/50000 .*events/s", line) for line in lines)
    assert re.fullmatch(r"50,000 events in [\d.]+ s, [\d,]+ a second", lines[-2])
    lines = read_lines(run_on_a_terminal([*COMMAND, "learn", file, "--n-rows", "1024"]))
    assert any(re.search(r" \d+% [\d,]+ events ", line) for line in lines)
    assert any(line.startswith("50,000 events learned in") for line in lines)


def test_demo_on_a_terminal() -> None:
    lines = read_lines(run_on_a_terminal([*DEMO, "--seconds", str(SECONDS)]))
    waits = [line for line in lines if "starting the service; the first time, it compiles" in line]
    assert len({wait.split()[-1] for wait in waits}) >= 2, "a clock runs while it starts"
    assert any(re.fullmatch(r" flights learned +[\d,]+  [\d,]+ a second", line) for line in lines)
    assert any(re.fullmatch(r" log loss +0\.\d{4}  lower is better", line) for line in lines)
    assert any(
        re.fullmatch(r" baseline's log loss +0\.\d{4}  of knowing only how many were late", line) for line in lines
    )
    flight = next(number for number, line in enumerate(lines) if re.search(r"^ [A-Z\d]{2} \d+ from [A-Z]{3} to", line))
    said = r" predicted before it was learned: \d+% likely to be late; it was (late|not)"
    assert re.fullmatch(said, lines[flight + 1])
    copied = [line for line in lines if line.startswith("curl ")]
    assert len(copied) == 1 and copied[0].endswith("'")
    assert [line for line in lines if len(line) > WIDTH] == copied, "what is to be copied is not broken, all else fits"


def test_demo_for_a_program() -> None:
    ended = subprocess.run(
        [*DEMO, "--seconds", str(SECONDS), "--json"], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    figures = json.loads(ended.stdout)
    assert figures["events"] > 0 and figures["predictions"] > 0
    assert figures["log_loss"] < figures["baseline_log_loss"]
    assert "\x1b" not in ended.stderr
    assert "log loss 0." in ended.stderr and "(lower is better)" in ended.stderr
    assert re.search(r"\n  [A-Z\d]{2} \d+ from .*; predicted before it was learned: \d+% likely", ended.stderr)

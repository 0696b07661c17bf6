"""The README's tour as it stands: its blocks, pasted into terminals, twice in a row and once more."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flexihash.service.environment import PREFIX
from flexihash.service.service_errors import AddressError
from flexihash.service.supervisor import bind_socket
from rig.ports import HOST

README = Path(__file__).parents[2] / "README.md"
PATIENCE_S = 180  # the first start on a machine compiles the kernels
PORTS = (8080, 9092)  # that the blocks take

# A network of its own, where the ports of the blocks are free whatever else runs on this machine.
ALONE = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c"]
RAISE_LOOPBACK = """
import fcntl, os, socket, struct, sys
UP, SET_FLAGS = 0x1, 0x8914
fcntl.ioctl(socket.socket(), SET_FLAGS, struct.pack("16sh22x", b"lo", UP))
os.execvp(sys.argv[1], sys.argv[1:])
"""

# Each terminal is a process group, which Ctrl-C ends. The last two blocks are pasted twice while the service runs, and
# all of it once more after the broker has forgotten everything.
TERMINALS = f"""
set -m -o pipefail
for round in 1 2; do
    bash broker.sh >broker-$round.txt 2>&1 & broker=$!
    bash serve.sh >serve-$round.txt 2>&1 & serve=$!
    for paste in 1 2; do
        timeout {PATIENCE_S} bash tour.sh 2>&1 >tour-$round-$paste.txt | cat >tour-$round-$paste.err || break
    done
    kill -INT -- -$serve; wait $serve; echo serve $?
    kill -INT -- -$broker; wait $broker; echo broker $?
    bash file.sh >file-$round.txt 2>&1; echo file $?
done
"""


def read_blocks() -> list[str]:
    section = README.read_text().partition("## A tour with curl")[2].partition("\n## ")[0]
    return [re.sub(r"(?m)^    ", "", block) for block in re.findall(r"(?m)(?:^    .*\n)+", section)]


def find_network() -> list[str]:
    """What a command is begun with to have the ports."""
    command = [*ALONE, RAISE_LOOPBACK]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
        return command
    try:
        for port in PORTS:
            bind_socket(HOST, port).close()
    except AddressError as taken:
        pytest.skip(f"no network of its own is to be had here, and {taken}")
    return []


def test_the_tour_can_be_pasted_again_and_again(tmp_path: Path) -> None:
    broker, serve, asked, more, file = read_blocks()
    blocks = {"broker": broker, "serve": serve, "tour": asked + more, "file": file}
    for name, block in blocks.items():
        assert "#" not in block, "a comment is no comment in every shell that people paste into"
        (tmp_path / f"{name}.sh").write_text(block)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment[f"{PREFIX}MEMORY_DIR"] = str(tmp_path / "memory")  # else one for all who serve this topic here
    ended = subprocess.run(
        [*find_network(), "bash", "-c", TERMINALS], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    said = {path.name: path.read_text() for path in tmp_path.glob("*.txt")}
    assert ended.stdout == "serve 0\nbroker 0\nfile 0\n" * 2, (ended.stderr, said)

    for number in (1, 2):
        for paste in (1, 2):
            before, after, embedded, model, saved = map(json.loads, said[f"tour-{number}-{paste}.txt"].splitlines())
            assert before["version"]["events"] == paste - 1, "the second broker has forgotten the first one's events"
            assert after["version"] == {"events": paste, "positions": {"flights:0": paste}}
            assert after["predictions"][0]["value"] > before["predictions"][0]["value"]
            assert len(embedded["embeddings"]) == 1
            assert model["version"]["events"] == saved["events"] == paste
            waited = (tmp_path / f"tour-{number}-{paste}.err").read_text().splitlines()
            ready, published = map(json.loads, waited[-2:])  # before that it says what it waits for
            assert ready["status"] == "ready"
            assert published["positions"] == {"flights:0": paste}
        assert "327,346 events learned in" in said[f"file-{number}.txt"]
    assert "a fresh model is started, as chosen" in said["serve-2.txt"]

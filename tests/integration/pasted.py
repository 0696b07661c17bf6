"""What a page says to type: its blocks, pasted into terminals that have the ports to themselves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from flexihash.service.environment import PREFIX
from flexihash.service.service_errors import AddressError
from flexihash.service.supervisor import bind_socket
from rig.ports import HOST

ROOT = Path(__file__).parents[2]
PATIENCE_S = 180  # the first start on a machine compiles the kernels
PORTS = (8080, 9092)  # that the blocks take
ACTIVATED = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # as `source .venv/bin/activate` does

# A network of its own, where the ports of the blocks are free whatever else runs on this machine.
ALONE = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c"]
RAISE_LOOPBACK = """
import fcntl, os, socket, struct, sys
UP, SET_FLAGS = 0x1, 0x8914
fcntl.ioctl(socket.socket(), SET_FLAGS, struct.pack("16sh22x", b"lo", UP))
os.execvp(sys.argv[1], sys.argv[1:])
"""

# Each terminal is a process group, which Ctrl-C ends.
BROKER = """
bash broker.sh >broker.txt 2>&1 & broker=$!
"""
SERVE_AND_ASK = f"""
bash serve.sh >serve.txt 2>&1 & serve=$!
timeout {PATIENCE_S} bash ask.sh >ask.txt 2>ask.err; echo ask $?
kill -INT -- -$serve; wait $serve; echo serve $?
kill -INT -- -$broker; wait $broker; echo broker $?
"""


def read_blocks(page: str, heading: str) -> list[str]:
    """The indented blocks of a section, as they are pasted."""
    section = (ROOT / page).read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
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


def paste_blocks(
    blocks: Mapping[str, str], terminals: str, folder: Path, environment: Mapping[str, str]
) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """Runs bash on `terminals` in `folder`, each block being there as NAME.sh; also what is then in its NAME.txt."""
    for name, block in blocks.items():
        (folder / f"{name}.sh").write_text(block)
    outside = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    memory = {f"{PREFIX}MEMORY_DIR": str(folder / "memory")}  # else one for all who serve this topic here
    ended = subprocess.run(
        [*find_network(), "bash", "-c", f"set -m -o pipefail\n{terminals}"],
        cwd=folder,
        env={**outside, **memory, **environment},
        capture_output=True,
        text=True,
    )
    return ended, {path.name: path.read_text() for path in folder.glob("*.txt")}

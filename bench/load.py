"""Requests over kept-alive connections as fast as they are answered: by wrk where it is installed, else by sockets.

`python -m bench.load PORT CONNECTIONS SECONDS BODIES.json` is the second one, in a process of its own.
"""

from __future__ import annotations

import json
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import msgspec
import numpy as np

HOST = "127.0.0.1"
PATH = "/v1/predictions"
GRACE_S = 30.0  # for the client to end after its time
SCRIPT = """
local bodies = {%s}
local requests, at = {}, 0
function init(args)
  for i, body in ipairs(bodies) do
    requests[i] = wrk.format("POST", "%s", {["Content-Type"] = "application/json"}, body)
  end
end
function request()
  at = at %% #requests + 1
  return requests[at]
end
function done(summary, latency)
  local e = summary.errors
  local errors = e.connect + e.read + e.write + e.status + e.timeout
  io.write(string.format('\\n{"n_requests":%%d,"seconds":%%f,"errors":%%d,"p50_ms":%%f,"p99_ms":%%f,"p999_ms":%%f}\\n',
    summary.requests, summary.duration / 1e6, errors, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency:percentile(99.9) / 1e3))
end
"""


class Load(msgspec.Struct, frozen=True):
    """What was answered, and how soon."""

    n_requests: int
    seconds: float
    errors: int
    p50_ms: float
    p99_ms: float
    p999_ms: float


def name_client() -> str:
    """Which client this machine has."""
    return "wrk" if shutil.which("wrk") else "sockets in Python"


def send(port: int, bodies: Sequence[bytes], n_connections: int, seconds: float) -> Load:
    """Closed loops on so many connections, the bodies in turn.

    Raises:
        SystemExit: a request failed, or was not answered with 200.
    """
    with tempfile.TemporaryDirectory() as folder:
        if shutil.which("wrk"):
            script = Path(folder, "requests.lua")
            script.write_text(SCRIPT % (",".join(f"[=[{body.decode()}]=]" for body in bodies), PATH))
            command = ["wrk", "-t1", f"-c{n_connections}", f"-d{seconds:g}s", "-s", str(script)]
            command.append(f"http://{HOST}:{port}{PATH}")
        else:
            file = Path(folder, "bodies.json")
            file.write_text(json.dumps([body.decode() for body in bodies]))
            command = [sys.executable, "-m", "bench.load", str(port), str(n_connections), str(seconds), str(file)]
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + GRACE_S)
    if run.returncode != 0:
        raise SystemExit(f"{command[0]} failed: {run.stderr[-2000:]}")
    found = msgspec.json.decode(run.stdout.strip().splitlines()[-1], type=Load)
    if found.errors or not found.n_requests:
        raise SystemExit(f"{found.errors} of {found.n_requests} requests failed: {run.stdout[-2000:]}")
    return found


def send_by_sockets(port: int, bodies: Sequence[bytes], n_connections: int, seconds: float) -> Load:
    """One thread, many connections, one request at a time on each."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: "
    requests = cycle([head.encode() + str(len(body)).encode() + b"\r\n\r\n" + body for body in bodies])
    latencies_ms: list[float] = []
    begin = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        sent_at: dict[socket.socket, float] = {}
        for _ in range(n_connections):
            connection = socket.create_connection((HOST, port), timeout=GRACE_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection, selectors.EVENT_READ)
            sent_at[connection] = time.perf_counter()
            connection.sendall(next(requests))
        while time.perf_counter() - begin < seconds:
            for key, _ in selector.select(timeout=seconds):
                connection = key.fileobj  # type: ignore[assignment]
                receive(connection)
                now = time.perf_counter()
                latencies_ms.append((now - sent_at[connection]) * 1e3)
                sent_at[connection] = now
                connection.sendall(next(requests))
        took_s = time.perf_counter() - begin
        for connection in sent_at:
            connection.close()
    p50, p99, p999 = np.percentile(latencies_ms, [50, 99, 99.9])
    return Load(len(latencies_ms), took_s, 0, float(p50), float(p99), float(p999))


def receive(connection: socket.socket) -> None:
    """Reads one answer with a length, which must be 200."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += read_some(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"answered: {answer[:500]!r}")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    n = len(body)
    while n < length:
        n += len(read_some(connection))


def read_some(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 16)
    if not data:
        raise SystemExit("the connection was closed")
    return data


def main() -> None:
    port, n_connections, seconds, file = sys.argv[1:]
    bodies = [body.encode() for body in json.loads(Path(file).read_text())]
    print(msgspec.json.encode(send_by_sockets(int(port), bodies, int(n_connections), float(seconds))).decode())


if __name__ == "__main__":
    main()

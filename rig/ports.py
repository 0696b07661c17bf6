"""TCP ports that nobody listens on."""

from __future__ import annotations

import contextlib
import socket

HOST = "127.0.0.1"


def find_free_port() -> int:
    """One that is free at this moment."""
    with socket.create_server((HOST, 0)) as free:
        port: int = free.getsockname()[1]
        return port


def find_free_ports(n: int) -> list[int]:
    """So many; the one after the first is free too, and not among them."""
    while True:
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(n + 1)]
            sockets[0].bind((HOST, 0))
            port = sockets[0].getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                sockets[-1].bind((HOST, port + 1))
                for other in sockets[1:-1]:
                    other.bind((HOST, 0))
                return [one.getsockname()[1] for one in sockets[:-1]]

"""The doors of one API process: who is inside, by client, and who has to go when it gets too full.

Each client has a share, which bites only where there is too little for all: one client alone may have nearly
everything, and gives way to others as soon as they come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Literal, Protocol

Cause = Literal["crowded", "memory", "slow_head", "slow_answer", "head_too_large", "pipelined", "not_http"]

N_LARGEST = 16  # of the largest bodies or answers may be in memory; half of them one client's
LEAST_LARGEST_BYTES = 4_000_000  # where bodies are kept small there may be more of them
ANSWER_BYTES = 512  # for one instance, at most


class Connection(Protocol):
    """What the doors know of a connection.

    `due` is the monotonic second from which on it may be asked to go. `n_waiting_bytes` are held for as long as its
    client pleases: a body that is still arriving, or an answer that is not taken.
    """

    owner: Client
    due: float

    @property
    def n_waiting_bytes(self) -> int: ...

    def give_way(self, cause: Cause) -> None:
        """Ends it, and gives its waiting bytes back."""


@dataclass(eq=False)
class Client:
    """Everybody who comes from one address."""

    name: str
    connections: set[Connection] = field(default_factory=set)
    n_bytes: int = 0  # of bodies and answers in memory


class Doors:
    """Connections, and the bodies and answers in memory, by client.

    Args:
        largest_bytes: size of the largest body or answer that the settings allow.
        count_closed: is told why a connection was closed against its client's will.
    """

    def __init__(self, largest_bytes: int = 0, count_closed: Callable[[Cause], None] = lambda cause: None) -> None:
        self.max_bytes = N_LARGEST * max(largest_bytes, LEAST_LARGEST_BYTES)
        self.count_closed = count_closed
        self.n_connections = 0
        self.n_bytes = 0
        self._clients: dict[str, Client] = {}

    def enter(self, connection: Connection, host: str) -> Client:
        """Lets a connection in; returns whose it is."""
        name = name_client(host)
        client = self._clients.setdefault(name, Client(name))
        client.connections.add(connection)
        self.n_connections += 1
        return client

    def leave(self, connection: Connection) -> None:
        """Forgets a connection; what is still worked on for it counts until it is given back."""
        client = connection.owner
        if connection in client.connections:
            client.connections.remove(connection)
            self.n_connections -= 1
            self._forget(client)

    def make_room(self, newest: Connection) -> None:
        """Has one go: of a client with the most connections, the one that is due the longest, but not the newest."""
        most = max(len(client.connections) for client in self._clients.values())
        richest = [client for client in self._clients.values() if len(client.connections) == most]
        others = [one for client in richest for one in client.connections if one is not newest]
        min(others, key=lambda one: one.due).give_way("crowded")

    def hold(self, client: Client, n_bytes: int) -> None:
        """Counts bytes of a body or an answer; beyond the limits others give way for them, or they themselves."""
        client.n_bytes += n_bytes
        self.n_bytes += n_bytes
        while client.n_bytes > self.max_bytes // 2 or self.n_bytes > self.max_bytes:
            clients = [client] if client.n_bytes > self.max_bytes // 2 else self._clients.values()
            waiting = [one for any_client in clients for one in any_client.connections if one.n_waiting_bytes]
            if not waiting:  # all of it is being worked on, and soon done
                return
            min(waiting, key=lambda one: (-one.owner.n_bytes, one.due)).give_way("memory")

    def give_back(self, client: Client, n_bytes: int) -> None:
        """Uncounts them."""
        client.n_bytes -= n_bytes
        self.n_bytes -= n_bytes
        self._forget(client)

    def _forget(self, client: Client) -> None:
        if not client.connections and not client.n_bytes and self._clients.get(client.name) is client:
            del self._clients[client.name]


def name_client(host: str) -> str:
    """What tells clients apart: an IPv4 address, also as IPv6 writes it, or the 64 bits of a network that one has."""
    if ":" not in host:
        return host
    address = IPv6Address(host)
    return str(address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64))

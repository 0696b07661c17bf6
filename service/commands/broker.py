"""`flexihash broker`: a broker in memory, until it is stopped."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from flexihash.service.commands.outcome import AsJson, Outcome, say, show
from flexihash.service.signals import stop_signals

if TYPE_CHECKING:
    from rich.console import Console

LOOK_S = 0.5  # between two looks whether it still runs


@dataclass(frozen=True)
class Listening(Outcome):
    """The broker takes connections at `bootstrap_servers`; `pid` is its process."""

    bootstrap_servers: str
    pid: int | None

    def show(self, console: Console) -> None:
        """The address in a line."""
        say(console, f"listening on {self.bootstrap_servers}; Ctrl-C ends it")


def broker(
    port: Annotated[int, typer.Option(help="Port to listen on, at 127.0.0.1.", min=0, max=65_535)] = 9092,
    as_json: AsJson = False,
) -> None:
    """Run a broker that speaks Kafka's protocol, to try things without one.

    It keeps everything in memory, and loses it at the end.
    """
    from flexihash.service.embedded_broker import EmbeddedBroker

    with stop_signals() as stop, EmbeddedBroker(port) as running:
        show(Listening(running.bootstrap_servers, running.pid), as_json, sys.stdout if as_json else sys.stderr)
        while not stop.wait(LOOK_S):
            running.check()

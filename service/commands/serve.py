"""`flexihash serve`: the service itself, until it is stopped."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from flexihash.service.commands.options import OF_LEARNING, takes
from flexihash.service.commands.outcome import AsJson, Outcome, show

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Serving(Outcome):
    """The service listens at `url` and learns from `topic`; `pid` is the process to stop."""

    url: str
    topic: str
    pid: int

    def show(self, console: Console) -> None:
        """Nothing: the log has told."""


@takes(
    "topic",
    "dead_letter_topic",
    "bootstrap_servers",
    "group_id",
    "create_topic",
    "start_at",
    "on_lost_position",
    "skip_until",
    "host",
    "port",
    "workers",
    *OF_LEARNING,
    "checkpoint_dir",
    "adopt",
    "checkpoint_seconds",
    "memory_dir",
    "log_format",
    "log_level",
)
def serve(as_json: AsJson = False, **options: Any) -> None:
    """Learn from a Kafka topic and answer over HTTP from the same memory, until stopped.

    Start it again and it goes on exactly where it stopped. The address answers with its documentation at /docs.
    """
    from flexihash.service.settings import load_settings
    from flexihash.service.supervisor import serve as run

    settings = load_settings(**options)
    raise typer.Exit(run(settings, lambda url: show(Serving(url, settings.topic, os.getpid()), as_json)))

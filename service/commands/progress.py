"""Bars on stderr that show how far a command has come; nothing where that is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


@contextmanager
def byte_progress(is_shown: bool) -> Iterator[Callable[[int, int, int], None]]:
    """Over a file's bytes; told those done, those in all and the events in them."""
    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[events]:,} events"), TimeRemainingColumn())
    with _bar(*columns, is_shown=is_shown, events=0) as update:
        yield lambda done, total, events: update(completed=done, total=total or None, events=events)


@contextmanager
def offset_progress(is_shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Over a log's offsets; told those done and those in all."""
    with _bar(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), is_shown=is_shown) as update:
        yield lambda done, total: update(completed=done, total=total)


@contextmanager
def event_progress(source: str, n_events: int | None) -> Iterator[Callable[..., None]]:
    """Over a number of events, where it is known or told later."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(),
    )
    with _bar(*columns, description=source, total=n_events) as update:
        yield lambda done, total=n_events: update(completed=done, total=total)


class _Speed(ProgressColumn):
    """Events a second, once there were any."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0.0:,.0f} events/s")


@contextmanager
def _bar(
    *columns: ProgressColumn, is_shown: bool = True, description: str = "", total: int | None = None, **fields: Any
) -> Iterator[Callable[..., None]]:
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not (is_shown and console.is_terminal)) as bar:
        yield partial(bar.update, bar.add_task(description, total=total, **fields))

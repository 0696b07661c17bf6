"""What a user sees of a demo on stderr: live on a terminal, else a line now and then."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TimeRemainingColumn
from rich.table import Table

from flexihash.service.measurement import Measurement

LINE_S = 5.0  # between two lines where stderr is no terminal


class Display:
    """Shows a measurement, of `n_flights` at most, as it goes on."""

    def __init__(self, measurement: Measurement, n_flights: int) -> None:
        self._measurement = measurement
        self._n_flights = n_flights
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(BarColumn(None), TaskProgressColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._task = self._bar.add_task("flights", total=n_flights)
        self._live = Live(console=self._console, refresh_per_second=5) if self._console.is_terminal else None
        self._line_at = 0.0

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text)

    def show_address(self, url: str, features: dict[str, Any]) -> None:
        """Print, once and unbroken, what can be copied."""
        body = json.dumps({"instances": [features]}, separators=(",", ":"))
        curl = f"curl -s {url}/v1/predictions -H 'content-type: application/json' -d '{body}'"
        for line in (f"\nlearning flights; the API is at {url}, its documentation at {url}/docs. Try:\n", f"{curl}\n"):
            self._console.print(line, soft_wrap=True, markup=False)

    def update(self, now: float) -> None:
        """Show the figures as they are at `now` (monotonic seconds)."""
        if self._live:
            is_through = self._measurement.n_events >= self._n_flights
            figures = draw_figures(self._measurement, " (all; serving until Ctrl-C)" if is_through else "")
            self._bar.update(self._task, completed=self._measurement.n_events)
            self._live.update(Group(self._bar, figures))
        elif now - self._line_at >= LINE_S:
            self._line_at = now
            line = ", ".join(f"{name} {value}" for name, value in _describe_figures(self._measurement))
            self._console.print(line, soft_wrap=True)


def draw_figures(measurement: Measurement, remark: str = "") -> Table:
    """The figures as a table; the remark stands behind the number of flights."""
    table = Table(box=None, show_header=False)
    for name, value in _describe_figures(measurement, remark):
        table.add_row(name, value, style=None)
    return table


def _describe_figures(seen: Measurement, remark: str = "") -> list[tuple[str, str]]:
    return [
        ("flights learned", f"{seen.n_events:,}{remark}"),
        ("per second", f"{seen.events_per_second:,.0f}"),
        ("log loss", _figure(seen.metric("log_loss"))),
        ("baseline's log loss", _figure(seen.metric("baseline_log_loss"))),
        ("AUC", _figure(seen.metric("auc"))),
        ("predictions over HTTP", f"{seen.n_predictions:,}"),
        ("p50 ms", _figure(seen.percentile_ms(0.50), 1)),
        ("p99 ms", _figure(seen.percentile_ms(0.99), 1)),
    ]


def _figure(value: float | None, n_digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{n_digits}f}"

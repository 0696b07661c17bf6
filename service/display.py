"""What a user sees of a demo on stderr: live on a terminal, else a line now and then."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from flexihash.service.measurement import Forecast, Measurement

LINE_S = 5.0  # between two lines where stderr is no terminal
FORECAST_S = 3.0  # for which a flight is shown, to be read


class Display:
    """Shows what is waited for, and a measurement, of `n_flights` at most, as it goes on."""

    def __init__(self, measurement: Measurement, n_flights: int) -> None:
        self._measurement = measurement
        self._n_flights = n_flights
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(BarColumn(None), TaskProgressColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._task = self._bar.add_task("flights", total=n_flights)
        self._live = self._open_live() if self._console.is_terminal else None
        self._line_at = 0.0
        self._forecast: Forecast | None = None
        self._forecast_at = 0.0

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def wait_for(self, text: str) -> None:
        """Tell what is under way, and on a terminal for how long, until something else is told."""
        if self._live:
            clock = Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            clock.add_task(text, total=None)
            self._live.update(clock, refresh=True)
        else:
            self._say(f"{text} ...")

    def show_address(self, url: str, features: dict[str, Any]) -> None:
        """Print, once and unbroken, what can be copied."""
        body = json.dumps({"instances": [features]}, separators=(",", ":"))
        self._say(f"\nThe API is at {url}, its documentation at /docs there. Try:\n")
        self._say(f"curl -s -w '\\n' {url}/v1/predictions -H 'content-type: application/json' -d '{body}'\n")

    def update(self, now: float) -> None:
        """Show the figures as they are at `now` (monotonic seconds)."""
        if self._measurement.metric("log_loss") is None:
            return
        if self._forecast is None or now - self._forecast_at >= FORECAST_S:
            self._forecast, self._forecast_at = self._measurement.forecast, now
        if self._live:
            self._bar.update(self._task, completed=self._measurement.n_events)
            self._live.update(self._draw())
        elif now - self._line_at >= LINE_S:
            self._line_at = now
            self._say("; ".join(map(_line, _list_figures(self._measurement))))
            if self._forecast:
                self._say("  " + "; ".join(_describe_forecast(self._forecast)))

    def _open_live(self) -> Live:
        return Live(console=self._console, refresh_per_second=5, transient=True)

    def _draw(self) -> RenderableType:
        is_through = self._measurement.n_events >= self._n_flights
        remark = "that is all; predictions go on until Ctrl-C" if is_through else "Ctrl-C ends it"
        forecast = _describe_forecast(self._forecast) if self._forecast else ()
        return Group(
            self._bar, "", draw_figures(self._measurement), "", *(f" {line}" for line in (*forecast, "", remark))
        )

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False)


class Figure(NamedTuple):
    """A name, a value, and a word about it."""

    name: str
    value: str
    remark: str = ""


def draw_figures(measurement: Measurement) -> Table:
    """The figures as a table."""
    table = Table(box=None, show_header=False)
    for justify in ("left", "right", "left"):
        table.add_column(justify=justify)
    for figure in _list_figures(measurement):
        table.add_row(*figure)
    return table


def _list_figures(seen: Measurement) -> list[Figure]:
    rate = f"{seen.events_per_second:,.0f} a second"
    times = f"in {_round(seen.percentile_ms(0.50), 1)} ms, 99 of 100 in {_round(seen.percentile_ms(0.99), 1)} ms"
    return [
        Figure("flights learned", f"{seen.n_events:,}", rate),
        Figure("log loss", _round(seen.metric("log_loss")), "lower is better"),
        Figure("baseline's log loss", _round(seen.metric("baseline_log_loss")), "of knowing only how many were late"),
        Figure("AUC", _round(seen.metric("auc")), "higher is better: 1 at best, 0.5 by guessing"),
        Figure("predictions over HTTP", f"{seen.n_predictions:,}", times if seen.n_predictions else ""),
    ]


def _line(figure: Figure) -> str:
    return f"{figure.name} {figure.value}" + (f" ({figure.remark})" if figure.remark else "")


def _describe_forecast(forecast: Forecast) -> tuple[str, str]:
    """A flight, and what was said of it before it was learned, in two lines of at most 80 characters."""
    flight = forecast.features
    return (
        f"{flight['carrier']} {flight['flight']} from {flight['origin']} to {flight['dest']},"
        f" {flight['distance']:,} miles, at {flight['hour']}:00",
        f"predicted before it was learned: {forecast.probability:.0%} likely to be late; it was"
        f" {'late' if forecast.is_late else 'not'}",
    )


def _round(value: float | None, n_digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{n_digits}f}"

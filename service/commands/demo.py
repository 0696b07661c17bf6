"""`flexihash demo`: real flights, watched while they are being learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexihash.service.commands.options import RATE, parse_rate
from flexihash.service.commands.outcome import Outcome, show

if TYPE_CHECKING:
    from rich.console import Console

    from flexihash.service.measurement import Measurement


@dataclass(frozen=True)
class Watched(Outcome):
    """What the demo has measured."""

    measurement: Measurement

    def describe(self) -> dict[str, Any]:
        """The figures, null where there was nothing to measure."""
        return self.measurement.summary()

    def show(self, console: Console) -> None:
        """The figures as a table."""
        from flexihash.service.display import draw_figures

        console.print(draw_figures(self.measurement))


def demo(
    seconds: Annotated[
        float | None,
        typer.Option(help="End after so many seconds.", show_default="when you press Ctrl-C", min=1.0),
    ] = None,
    rate: Annotated[str, typer.Option("--rate", help="Flights a second, or max.", metavar=RATE)] = "5000",
    port: Annotated[
        int | None, typer.Option(help="Port of the API.", show_default="8080, or a free one", min=0, max=65_535)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON at the end, for programs.")] = False,
) -> None:
    """Watch real flights being learned from a Kafka topic while an API predicts from the same memory.

    Everything runs here: a broker in memory, the service, and a producer that replays the flights that left New York in
    2013. Nothing is left behind.
    """
    from flexihash.service.demonstration import run_demo

    show(Watched(run_demo(seconds=seconds, rate=parse_rate(rate), port=port)), as_json)

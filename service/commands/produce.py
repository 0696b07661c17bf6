"""`flexihash produce`: events into a topic, or a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexihash.service.commands.options import RATE, FileFormat, parse_format, parse_rate, takes
from flexihash.service.commands.outcome import AsJson, Outcome, say, show
from flexihash.service.signals import stop_signals

if TYPE_CHECKING:
    from rich.console import Console

    from flexihash.consumer.formats.file_source import FileSource
    from flexihash.consumer.formats.reader import Format
    from flexihash.producer.pacing import Replayed

STDOUT = "-"
EXAMPLES = "Examples: flexihash produce flights --rate 5000 --topic events; flexihash produce flights --out F"


@dataclass(frozen=True)
class Produced(Outcome):
    """What was sent or written."""

    events: int
    seconds: float
    events_per_second: float

    def show(self, console: Console) -> None:
        """The figures in a line."""
        say(console, f"{self.events:,} events in {self.seconds:.1f} s, {self.events_per_second:,.0f} a second")


@takes("topic", "bootstrap_servers", "create_topic")
def produce(
    source: Annotated[
        str,
        typer.Argument(
            help="flights: real flights from New York in 2013, were they late? synthetic: endless events with known "
            "weights. Else a file of events, one JSON object a line (NDJSON), or a table (CSV, TSV, Parquet) of which "
            "each row is one; - is standard input.",
            metavar="flights|synthetic|FILE",
        ),
    ],
    rate: Annotated[
        str, typer.Option("--rate", help="Events a second, or max for as many as the broker takes.", metavar=RATE)
    ] = "max",
    file_format: FileFormat = None,
    limit: Annotated[int | None, typer.Option(help="Stop after so many events.", min=1)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write a file instead of sending to a topic; - is standard output.")
    ] = None,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Send events to a topic, or write them to a file: something to learn from."""
    from flexihash.service.commands.progress import event_progress

    if out is not None and (options["topic"] is not None or rate != "max"):
        raise typer.BadParameter("goes without --topic and --rate: a file is written at full speed", param_hint="--out")
    if out is not None and source == "synthetic" and limit is None:
        raise typer.BadParameter("is needed with --out: synthetic events never end", param_hint="--limit")
    events_per_second = parse_rate(rate)
    events, n_events = _open_source(source, limit, parse_format(file_format))
    with event_progress(source, n_events) as on_progress:
        if out is not None:
            from flexihash.producer.ndjson import write

            replayed = write(events, out, on_progress=on_progress)
        else:
            replayed = _send(events, events_per_second, on_progress, **options)
    has_events_on_stdout = str(out) == STDOUT
    show(
        Produced(replayed.n_events, replayed.seconds, replayed.events_per_second),
        as_json,
        sys.stderr if has_events_on_stdout or not as_json else sys.stdout,
    )


def _open_source(source: str, limit: int | None, format: Format | None) -> tuple[Iterator[bytes], int | None]:
    """The events' bytes, and how many there will be where that is known."""
    from itertools import islice

    from flexihash.producer import flights, synthetic
    from flexihash.producer.events import encode
    from flexihash.producer.flights import N_FLIGHTS

    match source:
        case "flights":
            return encode(flights(limit)), min(limit or N_FLIGHTS, N_FLIGHTS)
        case "synthetic":
            return encode(synthetic(limit)), limit
        case _:
            return islice(read_file(Path(source), format), limit), limit


def read_file(path: Path, format: Format | None) -> Iterator[bytes]:
    """The events of a file; what is no row of its table comes as it is, for a learner to reject."""
    from flexihash.consumer.formats.file_source import FETCH_LINES, FileSource
    from flexihash.consumer.formats.packing import STDIN

    source = FileSource(path, format)
    source.open()  # what cannot be read is told before anything is sent
    n_records = FETCH_LINES if path != STDIN else 1  # what is piped is sent as it comes
    return _read_values(source, n_records)


def _read_values(source: FileSource, n_records: int) -> Iterator[bytes]:
    with closing(source):
        while values := source.read_portion(n_records).values:
            for value in values:
                yield value.rstrip(b"\r\n")


def _send(
    events: Iterator[bytes],
    rate: float | None,
    on_progress: Callable[[int], None],
    create_topic: bool | None,
    **options: str | None,
) -> Replayed:
    """Send until the events or the user's patience end; what was sent before Ctrl-C is on the broker."""
    from flexihash.consumer.publisher import Publisher
    from flexihash.producer.pacing import replay
    from flexihash.service.settings import load_settings

    settings = load_settings(**options)
    with stop_signals() as stop, Publisher(settings.kafka_topic) as publisher:
        if create_topic:  # here for the asking only: what the service is set to is its own affair
            settings.kafka_topic.create()
        replayed = replay(events, publisher.send, rate, stop=stop, on_progress=on_progress)
        publisher.flush()
    return replayed

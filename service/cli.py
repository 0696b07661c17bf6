"""The `flexihash` command line. Each command imports what it needs when it runs, so that help comes at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from flexihash.consumer.files import FileReport
    from flexihash.producer.pacing import Replayed
    from flexihash.service.settings import Settings

BROKER_LOOK_S = 0.5
EXIT_USER = 2  # something that the user must change; any other code but 0 is a fault of ours
EXIT_INTERRUPTED = 130  # as a shell has it for Ctrl-C
EXIT_FINDING = 1  # the command did its work, and what it found is bad

app = typer.Typer(
    name="flexihash",
    help="Learn from a stream of JSON events while serving predictions and embeddings of it.\n\n"
    "New here? Run [bold]flexihash demo[/bold] and watch real flights being learned.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

SETTINGS_NOTE = (
    "Every option is also an environment variable, --topic as FLEXIHASH_TOPIC, say; "
    "docs/settings.md lists these and all the others."
)

BootstrapServers = Annotated[
    str | None,
    typer.Option(
        help="Kafka brokers, host:port, separated by commas.",
        show_default="localhost:9092",
        metavar="HOST:PORT",
        rich_help_panel="Kafka",
    ),
]
Task = Annotated[
    str | None,
    typer.Option(
        help="What to predict: a yes or no, a quantity, a count, or a quantile of a quantity.",
        show_default="binary",
        metavar="binary|regression|counts|quantile",
        rich_help_panel="Model",
    ),
]
Quantile = Annotated[
    float | None,
    typer.Option(help="The wanted quantile, with --task quantile.", show_default="0.5", rich_help_panel="Model"),
]
NRows = Annotated[
    int | None,
    typer.Option(
        help="Rows of the table, a power of two. More rows, fewer features that share one; a row takes 128 bytes.",
        show_default="262144",
        rich_help_panel="Model",
    ),
]
LabelField = Annotated[
    str | None,
    typer.Option(help="Field of an event that holds the label.", show_default="label", rich_help_panel="Events"),
]
FeaturesField = Annotated[
    str | None,
    typer.Option(
        help='Field that holds the features; "" takes the whole event but its label.',
        show_default="features",
        rich_help_panel="Events",
    ),
]
IgnoredFeatures = Annotated[
    str | None,
    typer.Option(help="Fields that are not features, separated by commas.", metavar="A,B", rich_help_panel="Events"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON, for programs.")]


def main() -> None:
    """Entry point of the `flexihash` command: what a user did wrong is told in a line and ends with exit code 2."""
    try:
        app(prog_name="flexihash")  # as `python -m flexihash` too
    except Exception as error:
        if not (lines := explain(error)):
            raise
        for line in lines:
            print(f"flexihash: {line}", file=sys.stderr)
        sys.exit(EXIT_USER)


def explain(error: Exception) -> list[str]:
    """Lines for an error that tells a user what to mend; none for a fault of ours, which deserves its traceback."""
    from flexihash.consumer.consumer_errors import ConsumerError
    from flexihash.model.model_errors import ModelError
    from flexihash.producer.producer_errors import ProducerError
    from flexihash.service.advice import advise
    from flexihash.service.service_errors import ServiceError

    if isinstance(error, ServiceError | ModelError | ConsumerError | ProducerError):
        return advise(error).splitlines()
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return [f"{error.filename}: {error.strerror.lower()}"]
    return []


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        print(f"flexihash {version('flexihash')}")
        raise typer.Exit


@app.callback()
def _flexihash(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command(epilog=SETTINGS_NOTE)
def serve(
    topic: Annotated[
        str | None,
        typer.Option(help="Topic to learn from.", show_default="events", rich_help_panel="Kafka"),
    ] = None,
    bootstrap_servers: BootstrapServers = None,
    create_topic: Annotated[
        bool | None,
        typer.Option(
            "--create-topic/--no-create-topic",
            help="Create the topic where it is absent.",
            show_default="no",
            rich_help_panel="Kafka",
        ),
    ] = None,
    start_at: Annotated[
        str | None,
        typer.Option(
            help="Where to begin when there is no checkpoint to go on from.",
            show_default="earliest",
            metavar="earliest|latest",
            rich_help_panel="Kafka",
        ),
    ] = None,
    on_lost_position: Annotated[
        str | None,
        typer.Option(
            help="What to do where the topic no longer goes on where the model stands: wait for someone to act; go on "
            "at its first or last record; trust the offsets of a copied topic; or begin a new model.",
            show_default="stop",
            metavar="stop|earliest|latest|keep|fresh",
            rich_help_panel="Kafka",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; 0.0.0.0 for all.", show_default="127.0.0.1", rich_help_panel="HTTP"),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on; 0 takes a free one.", show_default="8080", rich_help_panel="HTTP"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that answer requests.", show_default="1", rich_help_panel="HTTP"),
    ] = None,
    task: Task = None,
    quantile: Quantile = None,
    n_rows: NRows = None,
    label_field: LabelField = None,
    features_field: FeaturesField = None,
    ignored_features: IgnoredFeatures = None,
    checkpoint_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the checkpoints; the newest is gone on from.",
            show_default="checkpoints",
            rich_help_panel="Storage",
        ),
    ] = None,
    checkpoint_seconds: Annotated[
        float | None,
        typer.Option(help="Seconds between two checkpoints.", show_default="60", rich_help_panel="Storage"),
    ] = None,
    memory_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder in memory for the tables.", show_default="one in /dev/shm", rich_help_panel="Storage"
        ),
    ] = None,
    log_format: Annotated[
        str | None,
        typer.Option(
            help="Log lines for people or for programs.",
            show_default="auto",
            metavar="auto|console|json",
            rich_help_panel="Logs",
        ),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(
            help="Least level that is logged.",
            show_default="info",
            metavar="debug|info|warning|error",
            rich_help_panel="Logs",
        ),
    ] = None,
) -> None:
    """Learn from a Kafka topic and answer over HTTP from the same memory, until stopped.

    Start it again and it goes on exactly where it stopped. The address answers with its documentation at /docs.
    """
    options = dict(locals())
    from flexihash.service.settings import load_settings
    from flexihash.service.supervisor import serve as run

    raise typer.Exit(run(load_settings(**options)))


@app.command()
def learn(
    file: Annotated[Path, typer.Argument(help="Events, one JSON object a line.", metavar="FILE.ndjson")],
    task: Task = None,
    quantile: Quantile = None,
    n_rows: NRows = None,
    label_field: LabelField = None,
    features_field: FeaturesField = None,
    ignored_features: IgnoredFeatures = None,
    checkpoint_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of checkpoints: go on from the newest, and save one at the end."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Learn from a file, once through, and show how good the predictions were.

    Each event is predicted before it is learned from, so every prediction is about something new. The baseline always
    predicts what the labels so far amount to.
    """
    from flexihash.consumer.files import learn_file
    from flexihash.service.settings import load_settings

    settings = load_settings(
        task=task,
        quantile=quantile,
        n_rows=n_rows,
        label_field=label_field,
        features_field=features_field,
        ignored_features=ignored_features,
    )
    with _stop_signals() as stop, _byte_progress(is_shown=not as_json) as on_progress:
        report = learn_file(
            file,
            settings.model,
            settings.event_format,
            checkpoint_dir,
            settings.checkpoint_keep,
            on_progress,
            settings.checkpoint_seconds,
            stop,
        )
    if as_json:
        print(describe_report(report))
    else:
        _show_report(report, settings)
    if stop.is_set():
        _fail("interrupted; these are the figures so far", EXIT_INTERRUPTED)
    has_read_all = report.metrics["weight"] > 0 and not report.rejected and not report.unlabelled
    if not report.events and not has_read_all:
        _fail(f"{file}: no event was learned; do --label-field and --features-field name what is in it?", EXIT_FINDING)


def describe_report(report: FileReport) -> str:
    """One JSON line: the counts, every metric by its name, and those of the last events under `window`."""
    import json

    counts = {
        "events": report.events,
        "seconds": report.seconds,
        "events_per_second": report.events_per_second,
        "unlabelled": report.unlabelled,
        "rejected": report.rejected,
        "rejected_samples": report.rejected_samples,
    }
    return json.dumps({**report.metrics, **counts})


def _show_report(report: FileReport, settings: Settings) -> None:
    from rich.console import Console

    console = Console()
    console.print(
        f"{report.events:,} events learned in {report.seconds:.1f} s, {report.events_per_second:,.0f} a second"
    )
    if report.events or report.metrics["weight"]:
        console.print(_metrics_table(report.metrics, str(settings.task)))
    if report.unlabelled:
        console.print(f"{report.unlabelled:,} events had no label, and taught nothing")
    for reason, n_events in sorted(report.rejected.items()):
        console.print(f"{n_events:,} events rejected: {reason}", style="yellow")
    for sample in report.rejected_samples:
        console.print(f"  {sample}", markup=False, highlight=False, soft_wrap=True)


def _metrics_table(metrics: dict[str, Any], task: str) -> Any:
    from rich.table import Table

    window = metrics.get("window", {})
    table = Table(title=f"Progressive metrics, task {task}", title_justify="left")
    table.add_column("")
    for heading in ("all events", "baseline", f"last {window.get('events', 0):,}", "baseline"):
        table.add_column(heading, justify="right")
    for name in metrics:
        if name not in ("events", "weight", "window") and not name.startswith("baseline_"):
            cells = [part.get(key) for part in (metrics, window) for key in (name, f"baseline_{name}")]
            table.add_row(name.replace("_", " "), *("" if cell is None else f"{cell:.4f}" for cell in cells))
    return table


@app.command(epilog="Examples: flexihash produce flights --rate 5000 --topic events; flexihash produce flights --out F")
def produce(
    source: Annotated[
        str,
        typer.Argument(
            help="flights: real flights from New York in 2013, were they late? synthetic: endless events with known "
            "weights. Else a file of events, one JSON object a line; - is standard input.",
            metavar="flights|synthetic|FILE",
        ),
    ],
    rate: Annotated[
        str, typer.Option(help="Events a second, or max for as many as the broker takes.", metavar="N|max")
    ] = "max",
    limit: Annotated[int | None, typer.Option(help="Stop after so many events.", min=1)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write a file instead of sending to a topic; - is standard output.")
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Topic to send to.", show_default="events", rich_help_panel="Kafka")
    ] = None,
    bootstrap_servers: BootstrapServers = None,
    create_topic: Annotated[
        bool,
        typer.Option("--create-topic", help="Create the topic where it is absent.", rich_help_panel="Kafka"),
    ] = False,
) -> None:
    """Send events to a topic, or write them to a file: something to learn from."""
    if out is not None and (topic is not None or rate != "max"):
        raise typer.BadParameter("goes without --topic and --rate: a file is written at full speed", param_hint="--out")
    if out is not None and source == "synthetic" and limit is None:
        raise typer.BadParameter("is needed with --out: synthetic events never end", param_hint="--limit")
    events_per_second = _parse_rate(rate)
    events, n_events = _open_source(source, limit)
    with _event_progress(source, n_events) as on_progress:
        if out is not None:
            from flexihash.producer.ndjson import write

            replayed = write(events, out, on_progress=on_progress)
        else:
            replayed = _send(events, events_per_second, topic, bootstrap_servers, create_topic, on_progress)
    print(
        f"{replayed.n_events:,} events in {replayed.seconds:.1f} s, {replayed.events_per_second:,.0f} a second",
        file=sys.stderr,
    )


def _parse_rate(text: str) -> float | None:
    if text == "max":
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.0 < rate < float("inf"):
        raise typer.BadParameter(f"{text} is not a number of events above 0, nor max", param_hint="--rate")
    return rate


def _open_source(source: str, limit: int | None) -> tuple[Iterator[bytes], int | None]:
    """The events' bytes, and how many there will be where that is known."""
    from itertools import islice

    from flexihash.producer import flights, synthetic
    from flexihash.producer.events import encode
    from flexihash.producer.flights import N_FLIGHTS
    from flexihash.producer.ndjson import read_events

    match source:
        case "flights":
            return encode(flights(limit)), min(limit or N_FLIGHTS, N_FLIGHTS)
        case "synthetic":
            return encode(synthetic(limit)), limit
        case _:
            return islice(read_events(Path(source)), limit), limit


def _send(
    events: Iterator[bytes],
    rate: float | None,
    topic: str | None,
    bootstrap_servers: str | None,
    create_topic: bool,
    on_progress: Callable[[int], None],
) -> Replayed:
    """Send until the events or the user's patience end; what was sent before Ctrl-C is on the broker."""
    from flexihash.consumer.publisher import Publisher
    from flexihash.producer.pacing import replay
    from flexihash.service.settings import load_settings

    settings = load_settings(topic=topic, bootstrap_servers=bootstrap_servers)
    with _stop_signals() as stop, Publisher(settings.kafka_topic) as publisher:
        if create_topic:
            settings.kafka_topic.create()
        replayed = replay(events, publisher.send, rate, stop=stop, on_progress=on_progress)
        publisher.flush()
    return replayed


@app.command()
def inspect(
    checkpoint: Annotated[Path, typer.Argument(help="One checkpoint, or a folder of them.", metavar="CHECKPOINT")],
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint holds and whether it is whole, or list those in a folder."""
    from flexihash.service.inspection import inspect_checkpoint, list_checkpoints, show_checkpoint, show_list

    if not checkpoint.is_dir():
        _fail(f"{checkpoint}: there is no such folder; a checkpoint is a folder in checkpoint_dir")
    import json

    is_one = (checkpoint / "manifest.json").exists() or (checkpoint / "model.safetensors").exists()
    found = inspect_checkpoint(checkpoint) if is_one else list_checkpoints(checkpoint)
    if as_json:
        print(json.dumps(found))
    else:
        (show_checkpoint if is_one else show_list)(found)
    if found.get("problem"):
        raise typer.Exit(EXIT_FINDING)


@app.command(epilog=SETTINGS_NOTE)
def verify(
    checkpoint: Annotated[Path, typer.Argument(help="One checkpoint.", metavar="CHECKPOINT")],
    older: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="An older checkpoint to begin from.",
            show_default="the log's first record",
            metavar="CHECKPOINT",
        ),
    ] = None,
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Learn the log again up to a checkpoint's positions, and say whether it is bit for bit what the log implies.

    The topic, or the file, and the model's configuration are those that the checkpoint names. The service need not be
    stopped: nothing is written anywhere.
    """
    import json

    import msgspec

    from flexihash.service.verification import show_verdict
    from flexihash.service.verification import verify as run

    if not checkpoint.is_dir():
        _fail(f"{checkpoint}: there is no such folder; a checkpoint is a folder in checkpoint_dir")
    if inside := sorted(checkpoint.glob("*/manifest.json")):
        _fail(f"{checkpoint} is a folder of checkpoints: name one of them, such as {inside[-1].parent}")
    with _stop_signals() as stop, _offset_progress(is_shown=not as_json) as on_progress:
        verdict = run(checkpoint, older, bootstrap_servers, on_progress, stop)
    if stop.is_set():
        _fail("interrupted; nothing can be said yet", EXIT_INTERRUPTED)
    if as_json:
        print(json.dumps(msgspec.to_builtins(verdict)))
    else:
        show_verdict(verdict)
    if verdict.differences:
        raise typer.Exit(EXIT_FINDING)


@app.command("dead-letters", epilog=SETTINGS_NOTE)
def dead_letters(
    topic: Annotated[
        str | None,
        typer.Option(help="Topic whose events were rejected.", show_default="events", rich_help_panel="Kafka"),
    ] = None,
    bootstrap_servers: BootstrapServers = None,
    checkpoint_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the learner's checkpoints, where letters are that the broker did not take.",
            show_default="checkpoints",
            rich_help_panel="Storage",
        ),
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Only letters of this reason.", metavar="REASON")] = None,
    limit: Annotated[int, typer.Option(help="Samples of each reason, the newest.", min=0)] = 3,
    replay: Annotated[
        bool, typer.Option("--replay", help="Publish the records of the letters again, after a fix; each only once.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what could not be learned from, and why; or, after a fix, publish it again.

    --replay publishes the records to the topic that they came from, byte for byte. Which ones it has published is noted
    in the dead-letter topic, in one transaction with them: a second call publishes none of them again, even after one
    that was killed.
    """
    import json

    from flexihash.service.letters import describe_letters, show_letters
    from flexihash.service.settings import load_settings

    settings = load_settings(topic=topic, bootstrap_servers=bootstrap_servers, checkpoint_dir=checkpoint_dir)
    if replay:
        _replay(settings, reason, as_json)
        return
    found = describe_letters(settings.kafka_topic, settings.dead_letter_dir, reason, limit)
    if as_json:
        print(json.dumps(found))
    else:
        show_letters(found)


def _replay(settings: Settings, reason: str | None, as_json: bool) -> None:
    """Publish dead letters again until they or the user's patience end."""
    import json

    from flexihash.consumer.replay import replay

    with _stop_signals() as stop, _event_progress("replay", None) as on_progress:
        n_published = replay(settings.kafka_topic, reason, on_progress, stop)
    if as_json:
        print(json.dumps({"topic": settings.topic, "replayed": n_published}))
    else:
        print(f"{n_published:,} events published to {settings.topic} again")
    if stop.is_set():
        _fail("interrupted; a further --replay goes on where this one stopped", EXIT_INTERRUPTED)


@app.command()
def demo(
    seconds: Annotated[
        float | None,
        typer.Option(help="End after so many seconds.", show_default="when you press Ctrl-C", min=1.0),
    ] = None,
    rate: Annotated[str, typer.Option(help="Flights a second, or max.", metavar="N|max")] = "5000",
    port: Annotated[
        int | None, typer.Option(help="Port of the API.", show_default="8080, or a free one", min=0, max=65_535)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON at the end, for programs.")] = False,
) -> None:
    """Watch real flights being learned from a Kafka topic while an API predicts from the same memory.

    Everything runs here: a broker in memory, the service, and a producer that replays the flights that left New York in
    2013. Nothing is left behind.
    """
    from flexihash.service.demo import run_demo

    run_demo(seconds=seconds, rate=_parse_rate(rate), port=port, as_json=as_json)


@app.command()
def broker(
    port: Annotated[int, typer.Option(help="Port to listen on, at 127.0.0.1.", min=0, max=65_535)] = 9092,
) -> None:
    """Run a broker that speaks Kafka's protocol, to try things without one.

    It keeps everything in memory, and loses it at the end.
    """
    from flexihash.service.embedded_broker import EmbeddedBroker

    with _stop_signals() as stop, EmbeddedBroker(port) as running:
        print(f"listening on {running.bootstrap_servers}; Ctrl-C ends it", file=sys.stderr, flush=True)
        while not stop.wait(BROKER_LOOK_S):
            running.check()


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, to end in order; the second one ends at once, as nobody may answer."""
    import signal
    import threading

    stop = threading.Event()

    def ask_to_stop(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    former = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def _byte_progress(is_shown: bool) -> Iterator[Callable[[int, int, int], None]]:
    """A bar over a file's bytes on stderr; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[events]:,} events"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not (is_shown and console.is_terminal)) as bar:
        task = bar.add_task("", total=None, events=0)
        yield lambda done, total, events: bar.update(task, completed=done, total=total or None, events=events)


@contextmanager
def _offset_progress(is_shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar over a log's offsets on stderr; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (is_shown and console.is_terminal)) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _event_progress(source: str, n_events: int | None) -> Iterator[Callable[..., None]]:
    """A bar over a number of events on stderr, where known or told later; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.speed:,.0f} events/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(source, total=n_events)
        yield lambda done, total=n_events: bar.update(task, completed=done, total=total)


def _fail(line: str, code: int = EXIT_USER) -> NoReturn:
    print(f"flexihash: {line}", file=sys.stderr)
    raise typer.Exit(code)

"""`flexihash learn`: a file is learned from, once through."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexihash.service.commands.options import OF_LEARNING, EventsFile, FileFormat, parse_format, takes
from flexihash.service.commands.outcome import EXIT_FINDING, EXIT_INTERRUPTED, AsJson, Outcome, fail, show
from flexihash.service.commands.scores import draw_metrics
from flexihash.service.signals import stop_signals

if TYPE_CHECKING:
    from threading import Event as StopSignal

    from rich.console import Console
    from rich.table import Table

    from flexihash.consumer.files import FileReport
    from flexihash.consumer.formats.reader import Format
    from flexihash.consumer.sample import Taken
    from flexihash.service.settings import Settings

MAX_NAMES = 50  # of features of one kind
LEAST_MISSING = 0.005  # which is a percent, rounded
HEADINGS = {
    "number": "numbers",
    "category": "categories",
    "both": "numbers and categories",
    "time": "times",
    "text": "texts",
    "mixed": "some texts, some not",
}


@dataclass(frozen=True)
class Learned(Outcome):
    """What was learned from a file, and how good the predictions for this `task` were."""

    report: FileReport
    task: str

    def describe(self) -> dict[str, Any]:
        """Every metric by its name, those of the last events under `window`, the counts, and what features are."""
        from msgspec import to_builtins

        counts = ("events", "seconds", "events_per_second", "unlabelled", "rejected", "rejected_samples")
        told = {name: getattr(self.report, name) for name in counts}
        return {**self.report.metrics, **told, "features": to_builtins(self.report.features)}

    def show(self, console: Console) -> None:
        """What features were taken for, the metrics beside the baseline's, and what was not learned from."""
        report = self.report
        if report.features:
            console.print(f"In the first {report.sampled:,} events these are")
            console.print(_draw_features(report.features))
        rate = f"{report.events_per_second:,.0f} a second"
        console.print(f"{report.events:,} events learned in {report.seconds:.1f} s, {rate}")
        if report.events or report.metrics["weight"]:
            console.print(f"Progressive metrics, task {self.task}; of the first, lower is better")
            for table in draw_metrics(report.metrics):
                console.print(table)
        if told := report.metrics.get("embeddings", {}).get("told"):
            losses = report.metrics["embeddings"]
            console.print(
                f"Embeddings, {told:,} real and drawn features told apart: log loss {losses['loss']:.4f}, by chance "
                f"{losses['chance_loss']:.4f}"
            )
        if report.unlabelled:
            console.print(f"{report.unlabelled:,} events had no label, and taught no predictions")
        for reason, n_events in sorted(report.rejected.items()):
            console.print(f"{n_events:,} events rejected: {reason}", style="yellow")
        for sample in report.rejected_samples:
            console.print(f"  {sample}", markup=False, highlight=False, soft_wrap=True)

    @property
    def is_nothing(self) -> bool:
        """Whether nothing was learned, and not because all of the file was learned before."""
        has_read_all = self.report.metrics["weight"] > 0 and not self.report.rejected and not self.report.unlabelled
        return not self.report.events and not has_read_all


@takes(*OF_LEARNING)
def learn(
    file: EventsFile,
    label: Annotated[
        str | None,
        typer.Option("--label", help="The column, or field, of the label; short for --label-field.", metavar="NAME"),
    ] = None,
    file_format: FileFormat = None,
    checkpoint_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of checkpoints: go on from the newest, and save one at the end."),
    ] = None,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Learn from a file, once through, and show how good the predictions were.

    Of a table, every column is a feature but the label, and weight, id and timestamp where there are such.

    Each event is predicted before it is learned from, so every prediction is about something new. The baseline always
    predicts what the labels so far amount to.
    """
    from flexihash.service.settings import load_settings

    settings, format = load_settings(**_name_label(label, options)), parse_format(file_format)
    with stop_signals() as stop:
        learned = Learned(_learn(file, format, checkpoint_dir, settings, stop, has_bar=not as_json), str(settings.task))
    show(learned, as_json)
    if stop.is_set():
        fail("interrupted; these are the figures so far", EXIT_INTERRUPTED)
    if learned.is_nothing:
        fail(f"{file}: no event was learned; do --label-field and --features-field name what is in it?", EXIT_FINDING)


def _name_label(label: str | None, options: dict[str, Any]) -> dict[str, Any]:
    if label is not None and options["label_field"] is not None:
        raise typer.BadParameter("is short for --label-field: give one of them", param_hint="--label")
    return options if label is None else {**options, "label_field": label}


def _learn(
    file: Path,
    format: Format | None,
    checkpoint_dir: Path | None,
    settings: Settings,
    stop: StopSignal,
    has_bar: bool,
) -> FileReport:
    from flexihash.consumer.files import learn_file
    from flexihash.service.commands.progress import byte_progress

    with byte_progress(is_shown=has_bar) as on_progress:
        return learn_file(
            file,
            settings.model,
            settings.event_format,
            checkpoint_dir,
            settings.retention,
            on_progress,
            settings.checkpoint_seconds,
            stop,
            format,
        )


def _draw_features(features: dict[str, Taken]) -> Table:
    """A row for each kind, with the names of it, and what is often missing."""
    from rich.table import Table
    from rich.text import Text

    from flexihash.consumer.sample import KINDS

    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for kind in KINDS:
        if names := [_describe_feature(name, taken) for name, taken in features.items() if taken.taken_for == kind]:
            rest = f", and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
            table.add_row(HEADINGS.get(kind, kind), Text(", ".join(names[:MAX_NAMES]) + rest))
    return table


def _describe_feature(name: str, taken: Taken) -> str:
    """A name, and the share of events without it where that is a percent or more, and not all."""
    is_told = taken.missing is not None and LEAST_MISSING <= taken.missing < 1.0
    return f"{name} ({taken.missing:.0%} missing)" if is_told else name

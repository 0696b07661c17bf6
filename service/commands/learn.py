"""`flexihash learn`: a file is learned from, once through."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexihash.service.commands.options import EventsFile, takes
from flexihash.service.commands.outcome import EXIT_FINDING, EXIT_INTERRUPTED, AsJson, Outcome, fail, show
from flexihash.service.commands.scores import draw_metrics
from flexihash.service.signals import stop_signals

if TYPE_CHECKING:
    from threading import Event as StopSignal

    from rich.console import Console

    from flexihash.consumer.files import FileReport
    from flexihash.service.settings import Settings


@dataclass(frozen=True)
class Learned(Outcome):
    """What was learned from a file, and how good the predictions for this `task` were."""

    report: FileReport
    task: str

    def describe(self) -> dict[str, Any]:
        """Every metric by its name, those of the last events under `window`, and the counts."""
        counts = ("events", "seconds", "events_per_second", "unlabelled", "rejected", "rejected_samples")
        return {**self.report.metrics, **{name: getattr(self.report, name) for name in counts}}

    def show(self, console: Console) -> None:
        """The metrics beside the baseline's, and what was not learned from."""
        report = self.report
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


@takes(
    "task",
    "quantile",
    "n_rows",
    "envelope",
    "label_field",
    "targets",
    "positive_labels",
    "label_rule",
    "features_field",
    "weight_field",
    "id_field",
    "ignored_features",
    "categorical_features",
    "numeric_features",
    "time_features",
    "time_zone",
    "text_features",
    "missing_features",
    "crosses",
    "max_classes",
)
def learn(
    file: EventsFile,
    checkpoint_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of checkpoints: go on from the newest, and save one at the end."),
    ] = None,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Learn from a file, once through, and show how good the predictions were.

    Each event is predicted before it is learned from, so every prediction is about something new. The baseline always
    predicts what the labels so far amount to.
    """
    from flexihash.service.settings import load_settings

    settings = load_settings(**options)
    with stop_signals() as stop:
        learned = Learned(_learn(file, checkpoint_dir, settings, stop, has_bar=not as_json), str(settings.task))
    show(learned, as_json)
    if stop.is_set():
        fail("interrupted; these are the figures so far", EXIT_INTERRUPTED)
    if learned.is_nothing:
        fail(f"{file}: no event was learned; do --label-field and --features-field name what is in it?", EXIT_FINDING)


def _learn(file: Path, checkpoint_dir: Path | None, settings: Settings, stop: StopSignal, has_bar: bool) -> FileReport:
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
        )

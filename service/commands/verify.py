"""`flexihash verify`: whether a checkpoint is what the log implies that it was learned from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexihash.service.commands.inspect import check_folder
from flexihash.service.commands.options import takes
from flexihash.service.commands.outcome import EXIT_FINDING, EXIT_INTERRUPTED, AsJson, Outcome, fail, say, show
from flexihash.service.signals import stop_signals

if TYPE_CHECKING:
    from threading import Event as StopSignal

    from rich.console import Console

    from flexihash.consumer.records import Source
    from flexihash.consumer.verification import Verdict
    from flexihash.model.checkpoint.manifest import Manifest
    from flexihash.service.settings import Settings


@dataclass(frozen=True)
class Verified(Outcome):
    """What came of learning again."""

    verdict: Verdict

    def describe(self) -> dict[str, Any]:
        """The verdict."""
        import msgspec

        plain: dict[str, Any] = msgspec.to_builtins(self.verdict)
        return plain

    def show(self, console: Console) -> None:
        """The verdict in a line, and a line for each difference."""
        text, style = self._judge()
        say(console, text, style)
        for difference in self.verdict.differences:
            say(console, f"  {difference}")

    def _judge(self) -> tuple[str, str]:
        verdict = self.verdict
        begin = f"from {verdict.older}" if verdict.older else "from the log's first record"
        learned = f"{verdict.events:,} events learned {begin} in {verdict.seconds:.1f} s"
        if verdict.differences:
            return f"{verdict.checkpoint} is not what the log implies; {learned}", "red"
        if verdict.is_ordered:
            return f"{verdict.checkpoint} is bit for bit what the log implies; {learned}", "green"
        text = (
            f"{verdict.checkpoint} has learned each event once; {learned}. In which order several partitions were "
            "mixed is not in the log, so only counts could be compared"
        )
        return text, "green"


@takes("bootstrap_servers")
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
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Learn the log again up to a checkpoint's positions, and say whether it is bit for bit what the log implies.

    The topic, or the file, and the model's configuration are those that the checkpoint names. The service need not be
    stopped: nothing is written anywhere.
    """
    from flexihash.service.commands.progress import offset_progress

    check_folder(checkpoint)
    if inside := sorted(checkpoint.glob("*/manifest.json")):
        fail(f"{checkpoint} is a folder of checkpoints: name one of them, such as {inside[-1].parent}")
    with stop_signals() as stop, offset_progress(is_shown=not as_json) as on_progress:
        verdict = learn_again(checkpoint, older, options, on_progress, stop)
    if stop.is_set():
        fail("interrupted; nothing can be said yet", EXIT_INTERRUPTED)
    show(Verified(verdict), as_json)
    if verdict.differences:
        raise typer.Exit(EXIT_FINDING)


def learn_again(
    path: Path,
    older: Path | None,
    options: dict[str, Any],
    on_progress: Callable[[int, int], None],
    stop: StopSignal,
) -> Verdict:
    """Learns again what the checkpoint at `path` has learned, and compares; see `consumer.verification`.

    Args:
        options: settings; those of the model are the checkpoint's.

    Raises:
        SettingsError: the checkpoint has learned from several topics.
        CheckpointMismatch: the older checkpoint is of another configuration.
    """
    from flexihash.consumer.verification import verify_checkpoint
    from flexihash.model.checkpoint.manifest import check_configuration, read_manifest
    from flexihash.service.settings import load_settings

    manifest = read_manifest(path)
    topic = _find_topic(path, manifest)
    if older is not None:
        found = read_manifest(older).configuration
        advice = "begin from a checkpoint of the same model"
        check_configuration(older, manifest.configuration, found, advice)
    settings = load_settings(**options, **manifest.configuration)
    source = _open_log(topic, settings)
    try:
        return verify_checkpoint(path, source, settings.model, settings.event_format, older, on_progress, stop)
    finally:
        source.close()


def _find_topic(path: Path, manifest: Manifest) -> str:
    from flexihash.service.service_errors import SettingsError

    topics = {key.rpartition(":")[0] for key in manifest.positions}
    if len(topics) != 1:
        raise SettingsError(f"{path} has learned from {len(topics)} topics: only one can be learned again")
    (topic,) = topics
    return topic


def _open_log(topic: str, settings: Settings) -> Source:
    """A file's positions are under its whole path, which no topic's name can be."""
    from flexihash.consumer.formats.file_source import FileSource
    from flexihash.consumer.kafka.source import KafkaSource
    from flexihash.consumer.kafka.topic import Topic

    if topic.startswith("/"):
        return FileSource(Path(topic))
    return KafkaSource(Topic(settings.connection, topic))

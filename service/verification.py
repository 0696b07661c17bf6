"""What `flexihash verify` does: finds the log that a checkpoint was learned from, and shows the verdict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event as StopSignal

from rich.console import Console

from flexihash.consumer.files import FileSource
from flexihash.consumer.kafka.source import KafkaSource
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.records import Source
from flexihash.consumer.verification import Verdict, verify_checkpoint
from flexihash.model.checkpoint.manifest import check_configuration, read_manifest
from flexihash.service.service_errors import SettingsError
from flexihash.service.settings import Settings, load_settings


def verify(
    path: Path,
    older: Path | None,
    bootstrap_servers: str | None,
    on_progress: Callable[[int, int], None],
    stop: StopSignal,
) -> Verdict:
    """Learns again what the checkpoint at `path` has learned, and compares; see `consumer.verification`.

    Raises:
        SettingsError: the checkpoint has learned from several topics.
        CheckpointMismatch: the older checkpoint is of another configuration.
    """
    manifest = read_manifest(path)
    topics = {key.rpartition(":")[0] for key in manifest.positions}
    if len(topics) != 1:
        raise SettingsError(f"{path} has learned from {len(topics)} topics: only one can be learned again")
    (topic,) = topics
    if older is not None:
        found = read_manifest(older).configuration
        advice = "begin from a checkpoint of the same model"
        check_configuration(older, manifest.configuration, found, advice)
    settings = load_settings(bootstrap_servers=bootstrap_servers, **manifest.configuration)
    source = _open_source(topic, settings)
    try:
        return verify_checkpoint(path, source, settings.model, settings.event_format, older, on_progress, stop)
    finally:
        source.close()


def _open_source(topic: str, settings: Settings) -> Source:
    """A file's positions are under its whole path, which no topic's name can be."""
    if topic.startswith("/"):
        return FileSource(Path(topic))
    return KafkaSource(Topic(settings.connection, topic))


def show_verdict(verdict: Verdict) -> None:
    """Print a verdict, for people."""
    console = Console()
    begin = f"from {verdict.older}" if verdict.older else "from the log's first record"
    learned = f"{verdict.events:,} events learned {begin} in {verdict.seconds:.1f} s"
    if verdict.differences:
        text, style = f"{verdict.checkpoint} is not what the log implies; {learned}", "red"
    elif verdict.is_ordered:
        text, style = f"{verdict.checkpoint} is bit for bit what the log implies; {learned}", "green"
    else:
        text = (
            f"{verdict.checkpoint} has learned each event once; {learned}. In which order several partitions were "
            "mixed is not in the log, so only counts could be compared"
        )
        style = "green"
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)
    for difference in verdict.differences:
        console.print(f"  {difference}", highlight=False, markup=False, soft_wrap=True)

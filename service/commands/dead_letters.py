"""`flexihash dead-letters`: which records could not be learned from, and why; or publishing them again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexihash.service.commands.options import takes
from flexihash.service.commands.outcome import EXIT_INTERRUPTED, AsJson, Outcome, fail, say, show
from flexihash.service.signals import stop_signals

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.table import Table

    from flexihash.consumer.kafka.topic import Topic
    from flexihash.consumer.letters import Cut, Letter
    from flexihash.consumer.replay import LetterBox
    from flexihash.service.settings import Settings

SHOWN_BYTES = 80  # of a sample's value


@dataclass(frozen=True)
class Sample:
    """One letter: where its record came from, and what was wrong with it; text that does nothing to a terminal."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    stage: str
    message: str
    value: str | None
    value_bytes: int | None


@dataclass(frozen=True)
class Reason:
    """The letters of one reason, with samples of the newest."""

    letters: int
    replayed: int
    samples: list[Sample]


@dataclass(frozen=True)
class Spilled:
    """The letters on the disk, which the broker has not taken."""

    folder: str
    letters: int
    reasons: dict[str, int]


@dataclass(frozen=True)
class Letters(Outcome):
    """The dead letters of a topic; `foreign` are records among them that are none of its letters."""

    topic: str
    letters: int
    replayed: int
    reasons: dict[str, Reason]
    foreign: int
    spilled: Spilled

    def show(self, console: Console) -> None:
        """The counts, and the samples of each reason."""
        say(console, f"{self.letters:,} letters in {self.topic}, {self.replayed:,} of them replayed")
        if self.foreign:
            say(console, f"{self.foreign:,} records in it are no letters of this topic", "yellow")
        for reason, one in self.reasons.items():
            console.print()
            say(console, f"{reason}: {one.letters:,} letters, {one.replayed:,} replayed", "bold")
            if one.samples and console.is_terminal:
                console.print(_draw_samples(one.samples))
            else:  # a line each, for grep and awk; rich makes blanks of tabs
                for sample in one.samples:
                    print(reason, *_cells(sample), sep="\t", file=console.file)
        if spilled := self.spilled.letters:
            counts = ", ".join(f"{reason} {n:,}" for reason, n in self.spilled.reasons.items())
            console.print()
            say(console, f"{spilled:,} letters wait on the disk, in {self.spilled.folder}: {counts}", "yellow")


@dataclass(frozen=True)
class Replayed(Outcome):
    """How many events were published to `topic` again, and how many not.

    Those `left_out` the model has read since, or will. Of those `cut` the letters have the head only.
    """

    topic: str
    replayed: int
    left_out: int
    cut: int
    checkpoint: str

    def show(self, console: Console) -> None:
        """The numbers in a line each."""
        say(console, f"{self.replayed:,} events published to {self.topic} again")
        if self.left_out:
            say(console, f"{self.left_out:,} left out: the model of {self.checkpoint} has read them since, or will")
        if self.cut:
            say(
                console,
                f"{self.cut:,} left out: too large for a letter, which has their head only; publish them yourself",
            )


@takes("topic", "dead_letter_topic", "bootstrap_servers", "checkpoint_dir")
def dead_letters(
    reason: Annotated[
        str | None, typer.Option("--reason", help="Only letters of this reason.", metavar="REASON")
    ] = None,
    limit: Annotated[int, typer.Option(help="Samples of each reason, the newest.", min=0)] = 3,
    replay: Annotated[
        bool, typer.Option("--replay", help="Publish the records of the letters again, after a fix; each only once.")
    ] = False,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Show what could not be learned from, and why; or, after a fix, publish it again.

    --replay publishes the records to the topic that they came from, byte for byte. Which ones it has published is noted
    in the dead-letter topic, in one transaction with them: a second call publishes none of them again, even after one
    that was killed. What the model of the newest checkpoint has read anew since its letter was written, or will, is
    left out: it would be learned twice.
    """
    from flexihash.service.service_errors import SettingsError
    from flexihash.service.settings import load_settings

    settings = load_settings(**options)
    if not settings.dead_letter_topic:
        raise SettingsError("FLEXIHASH_DEAD_LETTER_TOPIC is empty, so no letters are kept; name that of older ones")
    settings.check_former_checkpoints()
    if replay:
        _replay(settings, reason, as_json)
    else:
        show(gather(settings.kafka_topic, settings.dead_letter_dir, reason, limit), as_json)


def _replay(settings: Settings, reason: str | None, as_json: bool) -> None:
    """Publish dead letters again until they or the user's patience end."""
    from flexihash.consumer.replay import replay
    from flexihash.service.commands.progress import event_progress

    checkpoint, is_due = _judge_by_newest(settings)
    left_out = cut = 0

    def note(n_not_due: int, n_cut: int) -> None:
        nonlocal left_out, cut
        left_out, cut = n_not_due, n_cut

    with stop_signals() as stop, event_progress("replay", None) as on_progress:
        n_published = replay(settings.kafka_topic, reason, on_progress, stop, is_due, note)
    show(Replayed(settings.topic, n_published, left_out, cut, checkpoint), as_json)
    if stop.is_set():
        fail("interrupted; a further --replay goes on where this one stopped", EXIT_INTERRUPTED)


def _judge_by_newest(settings: Settings) -> tuple[str, Callable[[Letter], bool]]:
    """The newest checkpoint, and whether the record of a letter was passed by its model without being learned."""
    from flexihash.consumer.history import read_history
    from flexihash.consumer.standing import check_topics
    from flexihash.model.checkpoint.store import CheckpointStore

    found = CheckpointStore(settings.checkpoints, settings.retention).list()
    newest = next((info for info in found if info.manifest is not None), None)
    if newest is None or newest.manifest is None:
        fail(
            f"{settings.checkpoints} holds no checkpoint, so what the model has learned since is not known: start the"
            " service, or save one (POST /v1/checkpoints), or name the service's --checkpoint-dir"
        )
    positions = newest.manifest.positions
    check_topics(newest.path, positions, settings.topic)
    history = read_history(newest.manifest.metrics)
    return str(newest.path), lambda letter: history.is_unlearned(letter, positions)


def gather(topic: Topic, spill_folder: Path, reason: str | None = None, n_samples: int = 3) -> Letters:
    """The dead letters of a topic: counts of each reason, samples, and what lies on the disk.

    Args:
        spill_folder: where the learner keeps what the broker does not take.
        reason: only letters of this one.
        n_samples: of each reason, the newest.

    Raises:
        TopicNotFound: there is no such topic.
        ConsumerError: the broker does not answer, or refuses; or the letters on the disk cannot be read.
    """
    box = _read_box(topic, n_samples)
    return Letters(
        topic=topic.dead_letters.name,
        letters=box.count(reason),
        replayed=box.count_replayed(reason),
        reasons={one: _describe_reason(box, one) for one in box.reasons if reason in (None, one)},
        foreign=box.n_foreign,
        spilled=_read_spilled(spill_folder / topic.dead_letters.name, reason),
    )


def _read_box(topic: Topic, n_samples: int) -> LetterBox:
    from flexihash.consumer.consumer_errors import TopicNotFound
    from flexihash.consumer.replay import LetterBox, read_box

    try:
        return read_box(topic, n_samples)
    except TopicNotFound:
        if not topic.exists():
            raise TopicNotFound(topic.name, topic.connection.bootstrap_servers) from None
        return LetterBox(topic.name)  # nothing was ever rejected


def _read_spilled(folder: Path, reason: str | None) -> Spilled:
    from flexihash.consumer.spill import read_spill

    counts = Counter(letter.reason for letter in read_spill(folder) if reason in (None, letter.reason))
    return Spilled(str(folder), counts.total(), dict(counts.most_common()))


def _describe_reason(box: LetterBox, reason: str) -> Reason:
    samples = [_describe_sample(letter) for letter in box.samples[reason]]
    return Reason(box.count(reason), box.count_replayed(reason), samples)


def _describe_sample(letter: Letter) -> Sample:
    return Sample(
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        timestamp=letter.timestamp,
        stage=letter.stage,
        message=make_printable(letter.message.encode()),
        value=None if letter.value is None else make_printable(letter.value[:SHOWN_BYTES]),
        value_bytes=None if letter.value is None else _count_bytes(letter.value, letter.cut.get("value")),
    )


def _count_bytes(value: bytes, cut: Cut | None) -> int:
    return len(value) if cut is None else cut.bytes


def make_printable(content: bytes) -> str:
    """Text that does nothing to a terminal: what is no text, or not printable, is escaped (``\\xff``)."""
    text = content.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _draw_samples(samples: list[Sample]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    for heading in ("origin", "time, UTC", "message", "value"):
        table.add_column(heading, overflow="fold")
    for sample in samples:
        table.add_row(*map(Text, _cells(sample)))
    return table


def _cells(sample: Sample) -> tuple[str, str, str, str]:
    """Origin, time, message and value, for people."""
    origin = f"{sample.topic}[{sample.partition}]@{sample.offset}"
    return origin, _describe_time(sample.timestamp), sample.message, _describe_value(sample)


def _describe_time(timestamp_ms: int) -> str:
    if timestamp_ms < 0:
        return ""
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError):  # a record may claim any time
        return str(timestamp_ms)


def _describe_value(sample: Sample) -> str:
    if sample.value is None or sample.value_bytes is None:
        return "null"
    rest = sample.value_bytes - SHOWN_BYTES
    return f"{sample.value}... and {rest:,} bytes" if rest > 0 else sample.value

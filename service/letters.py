"""What `flexihash dead-letters` shows: which records could not be learned from, and why."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flexihash.consumer.consumer_errors import TopicNotFound
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.letters import Letter
from flexihash.consumer.replay import LetterBox, read_box
from flexihash.consumer.spill import read_spill

SHOWN_BYTES = 80  # of a sample's value


def describe_letters(topic: Topic, spill_folder: Path, reason: str | None = None, n_samples: int = 3) -> dict[str, Any]:
    """The dead letters of a topic, ready for JSON: counts of each reason, samples, and what lies on the disk.

    Args:
        spill_folder: where the learner keeps what the broker does not take.
        reason: only letters of this one.
        n_samples: of each reason, the newest.

    Raises:
        TopicNotFound: there is no such topic.
        ConsumerError: the broker does not answer, or refuses; or the letters on the disk cannot be read.
    """
    try:
        box = read_box(topic, n_samples)
    except TopicNotFound:
        if not topic.exists():
            raise TopicNotFound(topic.name, topic.connection.bootstrap_servers) from None
        box = LetterBox(topic.name)  # nothing was ever rejected
    folder = spill_folder / topic.dead_letters.name
    spilled = Counter(letter.reason for letter in read_spill(folder) if reason in (None, letter.reason))
    return {
        "topic": topic.dead_letters.name,
        "letters": box.count(reason),
        "replayed": box.count_replayed(reason),
        "reasons": {one: _describe_reason(box, one) for one in box.reasons if reason in (None, one)},
        "foreign": box.n_foreign,
        "spilled": {"folder": str(folder), "letters": spilled.total(), "reasons": dict(spilled.most_common())},
    }


def _describe_reason(box: LetterBox, reason: str) -> dict[str, Any]:
    return {
        "letters": box.count(reason),
        "replayed": box.count_replayed(reason),
        "samples": [_describe_sample(letter) for letter in box.samples[reason]],
    }


def _describe_sample(letter: Letter) -> dict[str, Any]:
    return {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "timestamp": letter.timestamp,
        "stage": letter.stage,
        "message": make_printable(letter.message.encode()),
        "value": None if letter.value is None else make_printable(letter.value[:SHOWN_BYTES]),
        "value_bytes": None if letter.value is None else len(letter.value),
    }


def make_printable(content: bytes) -> str:
    """Text that does nothing to a terminal: what is no text, or not printable, is escaped (``\\xff``)."""
    text = content.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show_letters(found: dict[str, Any]) -> None:
    """Print what `describe_letters` found, for people."""
    console = Console()
    _say(console, f"{found['letters']:,} letters in {found['topic']}, {found['replayed']:,} of them replayed")
    if found["foreign"]:
        _say(console, f"{found['foreign']:,} records in it are no letters of this topic", "yellow")
    for reason, one in found["reasons"].items():
        console.print()
        _say(console, f"{reason}: {one['letters']:,} letters, {one['replayed']:,} replayed", "bold")
        if one["samples"]:
            console.print(_sample_table(one["samples"]))
    if spilled := found["spilled"]["letters"]:
        counts = ", ".join(f"{reason} {n:,}" for reason, n in found["spilled"]["reasons"].items())
        console.print()
        _say(console, f"{spilled:,} letters wait on the disk, in {found['spilled']['folder']}: {counts}", "yellow")


def _sample_table(samples: list[dict[str, Any]]) -> Table:
    table = Table(box=None)
    for heading in ("origin", "time, UTC", "message", "value"):
        table.add_column(heading, overflow="fold")
    for sample in samples:
        origin = f"{sample['topic']}[{sample['partition']}]@{sample['offset']}"
        cells = (origin, _describe_time(sample["timestamp"]), sample["message"], _describe_value(sample))
        table.add_row(*map(Text, cells))
    return table


def _describe_time(timestamp_ms: int) -> str:
    try:
        return (
            datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S") if timestamp_ms >= 0 else ""
        )
    except (ValueError, OverflowError):  # a record may claim any time
        return str(timestamp_ms)


def _describe_value(sample: dict[str, Any]) -> str:
    if sample["value"] is None:
        return "null"
    rest = sample["value_bytes"] - SHOWN_BYTES
    return f"{sample['value']}... and {rest:,} bytes" if rest > 0 else str(sample["value"])


def _say(console: Console, line: str, style: str = "") -> None:
    console.print(Text(line, style), soft_wrap=True)

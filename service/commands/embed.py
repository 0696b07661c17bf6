"""`flexihash embed`: a file's events as vectors, from a checkpoint."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexihash.service.commands.options import EventsFile, FileFormat, parse_format
from flexihash.service.commands.outcome import EXIT_FINDING, EXIT_INTERRUPTED, AsJson, Outcome, fail, say, show
from flexihash.service.signals import stop_signals

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event as StopSignal
    from typing import BinaryIO

    from rich.console import Console

    from flexihash.consumer.formats.file_source import FileSource
    from flexihash.model.pooled import Choice
    from flexihash.service.learned_model import LearnedModel


@dataclass
class Written(Outcome):
    """The vectors in the file `out`: of so many `events`, each of so many `numbers`, from a checkpoint.

    `unknown` events have no feature that was learned.
    """

    out: str
    checkpoint: str
    numbers: int = 0
    events: int = 0
    unknown: int = 0
    seconds: float = 0.0

    def show(self, console: Console) -> None:
        """What was written, of what, and what is of no use in it."""
        say(console, f"{self.events:,} events embedded in {self.seconds:.1f} s, from {self.checkpoint}")
        say(console, f"{self.out}: {self.events:,} x {self.numbers}, float32")
        if self.unknown:
            say(console, f"{self.unknown:,} of them have no feature that was learned", "yellow")


def embed(
    file: EventsFile,
    out: Annotated[Path, typer.Option(help="File to write, for numpy.load; one that is there is replaced.")],
    file_format: FileFormat = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="A checkpoint, or a folder of them, of which the newest is taken.",
            show_default="FLEXIHASH_CHECKPOINT_DIR",
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="What the company of features says, or the factors that predict the label.",
            metavar="context|task",
            show_default="context, where it was learned",
        ),
    ] = None,
    pooling: Annotated[
        str, typer.Option(help="How the vectors of an event's features become one.", metavar="sum|mean|sqrtn|max")
    ] = "sum",
    normalize: Annotated[bool, typer.Option("--normalize", help="Give each vector the length 1; zeros stay.")] = False,
    features_field: Annotated[
        str | None,
        typer.Option(
            help='Field of an event that holds the features; "" where lines are instances, features alone.',
            show_default="as it was learned",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the embeddings of a file's events as a NumPy array, a row for each, in their order.

    Labels are not needed, and mean nothing. The service may go on meanwhile: nothing is learned, and nothing written
    but the vectors.
    """
    from flexihash.consumer.formats.file_source import FileSource
    from flexihash.service.commands.progress import byte_progress
    from flexihash.service.learned_model import open_checkpoint
    from flexihash.service.settings import load_settings

    source = FileSource(file, parse_format(file_format))
    choice = _choose(kind=kind, pooling=pooling, normalize=normalize)
    learned = open_checkpoint(checkpoint or load_settings().checkpoints, features_field)
    choice.resolve(learned.model.config)
    part = out.with_name(f"{out.name}.part")
    try:
        with stop_signals() as stop, byte_progress(is_shown=not as_json) as on_progress, part.open("wb") as file_out:
            written = Written(str(out), str(learned.path))
            _embed(source, learned, choice, written, file_out, on_progress, stop)
        if stop.is_set():
            fail("interrupted; nothing was written", EXIT_INTERRUPTED)
        if not written.events:
            fail(f"{file}: there are no events in it; nothing was written", EXIT_FINDING)
        part.rename(out)
    finally:
        with suppress(OSError):
            part.unlink()
    show(written, as_json)


def _choose(**given: Any) -> Choice:
    import msgspec

    from flexihash.model.pooled import Choice

    try:
        return msgspec.convert(given, Choice)
    except msgspec.ValidationError as error:
        fail(f"there is no such choice: {error}; see `flexihash embed --help`")


def _embed(
    source: FileSource,
    learned: LearnedModel,
    choice: Choice,
    written: Written,
    out: BinaryIO,
    on_progress: Callable[[int, int, int], None],
    stop: StopSignal,
) -> None:
    """Writes the vectors of a file behind a head that is written anew when it is known how many they are."""
    import torch

    from flexihash.model.pooled import embed, write_head

    torch.set_num_threads(1)  # each piece is little work
    out.write(write_head(0, 0))
    with closing(source):
        decoder, started = learned.make_decoder(source.fit(learned.format)), time.perf_counter()
        source.start({})
        while not source.is_at_end and not stop.is_set():
            for fetch in source.poll(0.0):
                decoded = decoder.decode(fetch.values)
                if decoded.rejections:
                    place, rejected = decoded.rejections[0]
                    fault = fetch.fault(place, rejected)
                    fail(f"{source.place(fetch.offsets[place])}: {fault}; nothing was written")
                embedded = embed(learned.model, decoded.batch, choice)
                out.write(embedded.vectors.tobytes())
                written.numbers = embedded.vectors.shape[1]
                written.events += len(embedded.vectors)
                written.unknown += int((embedded.known == 0).sum())
            on_progress(source.done_bytes, source.size_bytes, written.events)
    out.seek(0)
    out.write(write_head(written.events, written.numbers))
    written.seconds = time.perf_counter() - started

"""Files of events: one JSON object a line (NDJSON), plain or gzipped; `-` is standard input or output."""

import gzip
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Literal

from flexihash.producer.pacing import Replayed, replay
from flexihash.producer.producer_errors import EventFileError

STANDARD = Path("-")


def read_events(path: Path) -> Iterator[bytes]:
    """Stream the lines of an NDJSON file as they are, without their line ends. Blank lines are skipped.

    Nothing is parsed: a malformed line is the consumer's to reject.

    Args:
        path: a file, gzipped where its name ends in `.gz`; `-` for standard input.

    Raises:
        EventFileError: no such file, or a folder (raised by the call); unreadable or damaged (raised on the way).
    """
    if path != STANDARD and not path.exists():
        raise EventFileError(f"cannot read {path}: there is no such file; give an NDJSON file, or - for standard input")
    if path.is_dir():
        raise EventFileError(f"cannot read {path}: it is a folder; give an NDJSON file")
    return _lines(path)


def write(events: Iterable[bytes], path: Path, *, on_progress: Callable[[int], None] | None = None) -> Replayed:
    """Write events to an NDJSON file, one a line.

    The file is written beside its place and renamed when whole: where that fails or is interrupted, what was there
    stays. A device or a pipe is written directly.

    Args:
        events: encoded events, without line ends.
        path: gzipped where its name ends in `.gz`; `-` for standard output.
        on_progress: told how many events are written, as in `replay`.

    Raises:
        EventFileError: the file cannot be written.
        BrokenPipeError: whoever read the output (such as `head`) has left; an end like any other for a command.
    """
    with _destination(path) as file:
        return replay(events, lambda event: file.write(event + b"\n"), on_progress=on_progress)


def _lines(path: Path) -> Iterator[bytes]:
    source: AbstractContextManager[IO[bytes] | gzip.GzipFile]
    try:
        source = nullcontext(sys.stdin.buffer) if path == STANDARD else _open(path, "rb")
        with source as file:
            for line in file:
                if line.strip():
                    yield line.rstrip(b"\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise EventFileError(f"cannot read {path}: {error}; give a whole NDJSON file (.gz: gzipped)") from error


@contextmanager
def _destination(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    try:
        if path == STANDARD:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        elif path.exists() and not path.is_file():  # a rename would replace /dev/null itself
            with _open(path, "wb") as file:
                yield file
        else:
            with _renamed_when_whole(path.resolve()) as file:  # a symbolic link stays one
                yield file
    except BrokenPipeError:
        raise
    except OSError as error:
        raise EventFileError(
            f"cannot write {path}: {error.strerror}; give a file in a folder that exists, can be written and has room"
        ) from error


@contextmanager
def _renamed_when_whole(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with _open(beside, "wb") as file:
            yield file
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _open(path: Path, mode: Literal["rb", "wb"]) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path, mode) if path.suffix == ".gz" else path.open(mode)

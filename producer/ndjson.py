"""Writes files of events: one JSON object a line (NDJSON), plain or gzipped; `-` is standard output."""

import gzip
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from flexihash.producer.pacing import Replayed, replay
from flexihash.producer.producer_errors import EventFileError

STANDARD = Path("-")


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


@contextmanager
def _destination(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    try:
        if path == STANDARD:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        elif path.exists() and not path.is_file():  # a rename would replace /dev/null itself
            with _open(path) as file:
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
        with _open(beside) as file:
            yield file
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb")

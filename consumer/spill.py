"""Dead letters on the local disk, until the broker takes them.

A folder of segments ``00000001.ndjson``, ``00000002.ndjson``...: one letter a line, as JSON with its bytes in base64,
so that people can read it with jq. A segment is only appended to, and is rewritten as a whole, beside and then renamed,
when letters leave it. What was appended is durable when `append` returns; a line that a crash tore is cut off at the
next start, as nobody was told that it was safe.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from flexihash.consumer.consumer_errors import SpillUnreadable
from flexihash.consumer.letters import Letter
from flexihash.model import durable

log = logging.getLogger(__name__)

SUFFIX = ".ndjson"
BESIDE = ".part"
MODE = 0o600  # events may hold what is nobody else's business
SEGMENT_BYTES = 1024 * 1024  # of a full one: what is read, sent and rewritten in one go, in some 0.1 s

_decoder = msgspec.json.Decoder(Letter)


class Spill:
    """The letters in one folder, which is made when the first one comes. For one writer.

    Raises:
        SpillUnreadable: there are letters that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._counts: dict[Path, int] = {}  # lines in each segment, oldest first
        self._last = 0
        self._is_open = False  # whether the newest segment may be appended to
        try:
            for path in _files(folder, BESIDE):
                path.unlink()
            for path in _files(folder, SUFFIX):
                self._counts[path] = _mend(path)
                self._last = int(path.stem)
        except OSError as error:
            raise SpillUnreadable(folder, error) from error
        if self._counts:
            log.warning("%d dead letters in %s were not taken by the broker so far", len(self), folder)

    def __len__(self) -> int:
        return sum(self._counts.values())

    def append(self, letters: Iterable[Letter]) -> int:
        """Keep letters, as many as one segment takes; durable on return.

        Returns:
            How many of the letters, from the first on.

        Raises:
            OSError: none of them is kept.
        """
        path = self._open_segment()
        is_new = path not in self._counts
        if is_new:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        size = path.stat().st_size if path.exists() else 0
        lines = _encode(letters, SEGMENT_BYTES - size)
        durable.append(path, b"".join(lines), MODE, is_new=is_new)
        self._counts[path] = self._counts.get(path, 0) + len(lines)
        self._last = int(path.stem)
        self._is_open = size + sum(map(len, lines)) < SEGMENT_BYTES
        return len(lines)

    def next_segment(self, after: Path | None) -> Path | None:
        """The oldest segment, or the oldest of those that came after another; None where there is none."""
        return next((path for path in self._counts if after is None or path > after), None)

    def read(self, segment: Path) -> list[tuple[bytes, Letter | None]]:
        """Each line of a segment, and its letter; None where the line is damaged. Nothing is appended to it any more.

        Raises:
            OSError: it cannot be read.
        """
        self._is_open = self._is_open and segment != next(reversed(self._counts))
        return [(line, _decode(line)) for line in segment.read_bytes().splitlines(keepends=True)]

    def replace(self, segment: Path, lines: Sequence[bytes]) -> None:
        """Keep only these lines of a segment.

        Raises:
            OSError: it is what it was.
        """
        if lines:
            durable.replace(segment, b"".join(lines), segment.with_suffix(BESIDE), MODE)
            self._counts[segment] = len(lines)
        else:
            segment.unlink()
            del self._counts[segment]
        durable.sync(self.folder)

    def _open_segment(self) -> Path:
        if self._is_open:
            return next(reversed(self._counts))
        return self.folder / f"{self._last + 1:08d}{SUFFIX}"


def read_spill(folder: Path) -> Iterator[Letter]:
    """The letters in a folder that somebody else writes to, oldest first; none where there is no such folder.

    Raises:
        SpillUnreadable: it is there, and cannot be read.
    """
    try:
        for path in _files(folder, SUFFIX):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:  # replayed a moment ago
                yield from filter(None, map(_decode, file))
    except OSError as error:
        raise SpillUnreadable(folder, error) from error


def _files(folder: Path, suffix: str) -> list[Path]:
    """Files ``00000001.suffix`` of a folder, oldest first; none where there is no folder."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == suffix and path.stem.isdigit())
    except FileNotFoundError:
        return []


def _mend(path: Path) -> int:
    """Cut off a line that a crash tore; returns the number of lines."""
    n_lines = end = 0
    with path.open("rb+") as file:
        for line in file:
            if line.endswith(b"\n"):
                n_lines += 1
                end += len(line)
        if file.seek(0, os.SEEK_END) > end:
            log.warning("%s: the last line was torn by a crash; cut off at byte %d", path, end)
            durable.truncate(file, end)
    return n_lines


def _encode(letters: Iterable[Letter], room_bytes: int) -> list[bytes]:
    lines: list[bytes] = []
    for letter in letters:
        lines.append(msgspec.json.encode(letter) + b"\n")
        room_bytes -= len(lines[-1])
        if room_bytes <= 0:
            break
    return lines


def _decode(line: bytes) -> Letter | None:
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None

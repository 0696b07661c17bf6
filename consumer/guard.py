"""The poison guard: finds the record that makes the learner die, and keeps it from doing so for ever.

Before records are decoded and learned, a mark in a file says which; it is wiped before anything waits, such as for
the broker, since a learner that is killed while it waits was not killed by a record. A learner that finds a mark at its
start knows that the one before died there:

1. It applies those records one by one, each with a mark of its own. If it dies of one again, the mark names it.
2. The next learner that finds the mark of a single record puts that record among the poison: it goes to the dead
   letters, now and whenever the log is read again.
3. Where the learner may have been killed from outside (SIGKILL is also what the kernel does when the machine has no
   memory left, whoever took it), that is not enough: the record is applied alone once more, after a rest in which
   whatever it was may pass. Only if the learner is killed then too, the record is poison.

Marks are not forced to the disk: a learner's death leaves what it wrote, and a power cut is no record's fault.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from flexihash.consumer.records import Fetch
from flexihash.model import durable

log = logging.getLogger(__name__)

MARK_FILE = "applying.json"
POISON_FILE = "poison.json"
MARK_BYTES = 512  # blanks follow the mark, so that a shorter one overwrites a longer one in one write


class Mark(msgspec.Struct, frozen=True):
    """Records `first` to `last` of a partition, being applied; `n_deaths` of learners that applied `first` alone.

    `is_read`: a learner has begun since, and a death of that one is no fault of these records.
    """

    source: str
    partition: int
    first: int
    last: int
    n_deaths: int = 0
    is_read: bool = False

    @property
    def is_single(self) -> bool:
        """Whether it is of one record."""
        return self.first == self.last


class Poison(msgspec.Struct, frozen=True):
    """A record that makes the learner die."""

    source: str
    partition: int
    offset: int


class PoisonGuard:
    """Watches what is applied. For one thread.

    Args:
        directory: where the two files lie; made if it is absent.
        may_be_killed: whether the last learner may have died of SIGKILL, and so for no fault of what it applied.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, directory: Path, *, may_be_killed: bool = True) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._deaths_needed = 2 if may_be_killed else 1
        self._file = os.open(directory / MARK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        self._is_on = True
        self._poison = self._read_poison()
        self._convicted: Poison | None = None
        self._suspect = self._judge(self._read_mark())
        self._source = ""

    def begin(self, source: str) -> Poison | None:
        """Names the source whose offsets are meant from here on, such as by its topic's id.

        Returns:
            The record that was found to be poison by this, if one was.
        """
        self._source = source
        convicted, self._convicted = self._convicted, None
        return convicted if convicted is not None and convicted.source == source else None

    def is_poison(self, part: Fetch) -> bool:
        """Whether a part, as `split` makes them, is a poisoned record."""
        return len(part) == 1 and part.offsets[0] in self._poisoned(part.partition)

    def needs_rest(self, part: Fetch) -> bool:
        """Whether a part is a record that has cost a learner that was killed: to be applied after a rest."""
        return self._count(part) > 1

    def split(self, fetch: Fetch) -> Iterator[Fetch]:
        """The fetch in parts, to be applied in turn: poison and suspected records are parts of their own."""
        poisoned, suspected = self._poisoned(fetch.partition), self._suspected(fetch.partition)
        if not poisoned and not suspected:
            yield fetch
            return
        begin = 0
        for index, offset in enumerate(fetch.offsets):
            if offset in poisoned or offset in suspected:
                if begin < index:
                    yield fetch.cut(begin, index)
                yield fetch.cut(index, index + 1)
                begin = index + 1
        if begin < len(fetch):
            yield fetch.cut(begin, len(fetch))
        if suspected and fetch.position >= suspected.stop:
            self._suspect = None  # it was applied, and nobody died

    @contextmanager
    def applying(self, part: Fetch) -> Iterator[None]:
        """Marks the part while it is applied; an exception leaves the mark, as a death does."""
        mark = Mark(self._source, part.partition, part.offsets[0], part.offsets[-1], self._count(part))
        self._write(msgspec.json.encode(mark))
        yield
        self._wipe()

    def positions(self) -> list[str]:
        """Where the poison lies, as ``partition@offset``."""
        return [f"{one.partition}@{one.offset}" for one in self._poison if one.source == self._source]

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._file)

    def _poisoned(self, partition: int) -> set[int]:
        return {one.offset for one in self._poison if one.source == self._source and one.partition == partition}

    def _suspected(self, partition: int) -> range:
        suspect = self._suspect
        if suspect is None or suspect.source != self._source or suspect.partition != partition:
            return range(0)
        return range(suspect.first, suspect.last + 1)

    def _count(self, part: Fetch) -> int:
        """The deaths at this record alone, if there is one more."""
        suspected = self._suspected(part.partition)
        if len(part) > 1 or part.offsets[0] not in suspected or self._suspect is None:
            return 0
        return 1 + (self._suspect.n_deaths if len(suspected) == 1 else 0)

    def _judge(self, mark: Mark | None) -> Mark | None:
        """What is suspected after a death at a mark; nothing, where that convicts its record."""
        if mark is None or mark.is_read:
            return mark
        if mark.is_single and mark.n_deaths >= self._deaths_needed:
            self._convicted = Poison(mark.source, mark.partition, mark.first)
            self._poison.append(self._convicted)
            self._write_poison()
            self._wipe()
            return None
        mark = msgspec.structs.replace(mark, is_read=True)
        self._write(msgspec.json.encode(mark))
        return mark

    def _read_mark(self) -> Mark | None:
        try:
            return msgspec.json.decode(os.pread(self._file, MARK_BYTES, 0), type=Mark)
        except msgspec.DecodeError:  # wiped, or never written
            return None

    def _read_poison(self) -> list[Poison]:
        try:
            return msgspec.json.decode((self._directory / POISON_FILE).read_bytes(), type=list[Poison])
        except FileNotFoundError:
            return []

    def _write_poison(self) -> None:
        content = msgspec.json.encode(self._poison)
        durable.replace(self._directory / POISON_FILE, content, self._directory / f".{POISON_FILE}")

    def _wipe(self) -> None:
        self._write(b"")

    def _write(self, mark: bytes) -> None:
        try:
            os.pwrite(self._file, mark.ljust(MARK_BYTES), 0)
        except OSError as error:
            if self._is_on:
                log.warning(
                    "%s: %s; a record that kills the learner cannot be found", self._directory / MARK_FILE, error
                )
            self._is_on = False

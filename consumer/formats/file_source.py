"""A file as a source: its records are those of a topic with one partition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from flexihash.consumer.consumer_errors import FileUnreadable, LabelMissing
from flexihash.consumer.formats.cells import write_cell
from flexihash.consumer.formats.packing import STDIN, UNREADABLE
from flexihash.consumer.formats.reader import Format, Portion, Reader, open_reader
from flexihash.consumer.paths import Place
from flexihash.consumer.records import Fetch, Identity, Record

if TYPE_CHECKING:  # which compiles: whoever only reads a file need not wait for that
    from flexihash.consumer.wire import EventFormat

FETCH_LINES = 2_000


class FileSource:
    """The records of a file (``-`` for standard input) as a `Source` with one partition.

    The position after a record is where the next one begins: in unpacked bytes, or rows, as its `Reader` counts.

    Args:
        format: where it is not what the name or the first bytes say.
    """

    def __init__(self, path: Path, format: Format | None = None) -> None:
        self.topic = str(path) if path == STDIN else str(path.resolve())
        self.is_at_end = False
        self._path = path
        self._format = format
        self._reader: Reader | None = None
        self._is_begun = False

    @property
    def size_bytes(self) -> int:
        """On the disk; 0 where it is not known."""
        return self.open().size_bytes

    @property
    def done_bytes(self) -> int:
        """Bytes read so far, as `size_bytes` counts them."""
        return self.open().done_bytes

    @property
    def columns(self) -> Sequence[str] | None:
        """The names of a table's columns; None where each record has names of its own."""
        return self.open().columns

    def open(self) -> Reader:
        """Opens the file, where it is not open.

        Raises:
            FileUnreadable: it cannot be read, or is not of its format.
        """
        if self._reader is None:
            try:
                self._reader = open_reader(self._path, self._format)
            except UNREADABLE as error:
                reason = getattr(error, "strerror", None) or error
                raise FileUnreadable(f"cannot read {self._path}: {reason}") from error
        return self._reader

    def fit(self, format: EventFormat) -> EventFormat:
        """The format of this file's events: the columns of a table are features, unless one of them holds these."""
        reader = self.open()
        holds_features = Place.of(format.features_field).path[0] in reader.objects
        if reader.columns is None or holds_features or (format.envelope and reader.objects):
            return format
        return msgspec.structs.replace(format, features_field="", envelope="")

    def check_label(self, name: str) -> None:
        """Looks whether a table has a column of the label, or one that the path to it begins with.

        Raises:
            LabelMissing: it has not.
        """
        if self.columns is not None and not {name, Place.of(name).path[0]} & {*self.columns}:
            has_values = any(not write_cell(column).startswith(b'"') for column in self.columns)
            raise LabelMissing(self._path, name, self.columns, has_values)

    def identity(self) -> Identity:
        """A file has no identity but its name."""
        return Identity(None, None)

    def read(self, offsets: Mapping[int, int]) -> dict[int, Record]:
        """Nothing: a file is taken for what its name says."""
        return {}

    def start(self, positions: Mapping[int, int]) -> dict[int, int]:
        """Goes to the file's position, which is the first one for standard input.

        Raises:
            FileUnreadable: it cannot be read, or is shorter than what was learned from it before.
        """
        if self._is_begun:
            self.close()
        self._is_begun = True
        position = positions.get(0, 0) if self._path != STDIN else 0
        reader = self.open()
        try:
            is_there = reader.seek(position)
        except UNREADABLE as error:
            raise self._explain(error) from error
        if not is_there:
            raise FileUnreadable(
                f"{self._path} was learned up to {reader.unit} {position}, but is shorter now: "
                "it is another file; give it another name, or another checkpoint folder"
            )
        return {0: position}

    def poll(self, timeout_s: float) -> list[Fetch]:
        """The next records; nothing at the end of the file."""
        portion = self.read_portion(FETCH_LINES)
        offsets, values, faults = portion
        self.is_at_end = not values
        if not values:
            return []

        def build_record(index: int) -> Record:
            return Record(self.topic, 0, offsets[index], -1, None, values[index], ())

        sound = [None if at in faults else value for at, value in zip(offsets, values, strict=True)]
        return [Fetch(0, offsets, sound if faults else [*values], build_record, faults)]

    def read_portion(self, n_records: int) -> Portion:
        """The next records as the file has them, so many at most; none at the end.

        Raises:
            FileUnreadable: they cannot be read.
        """
        try:
            return self.open().read(n_records)
        except UNREADABLE as error:
            raise self._explain(error) from error

    def place(self, offset: int) -> str:
        """Where a record is, for people: a line, a row, or a byte of a stream that is gone."""
        return f"{self._path}:{self.open().place(offset)}"

    def end_positions(self) -> dict[int, int]:
        """Not known: a file is read to its end."""
        return {}

    def commit(self, positions: Mapping[int, int]) -> None:
        """A file keeps no positions."""

    def refresh(self) -> dict[int, int]:
        """A file has one partition."""
        return {}

    def close(self) -> None:
        """Closes the file."""
        if self._reader is not None:
            self._reader.close()
        self._reader = None

    def _explain(self, error: Exception) -> FileUnreadable:
        reader = self.open()
        return FileUnreadable(f"cannot read {self._path} after {reader.unit} {reader.position}: {error}")

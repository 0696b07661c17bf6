"""What reads the records of a file, some at a time and from any position on; which of the formats it is."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

from flexihash.consumer.consumer_errors import EventRejected
from flexihash.consumer.formats.packing import STDIN, SUFFIXES, UNREADABLE, Unpacked, count_lines

BOM = codecs.BOM_UTF8  # some write it before a text; it is not of it
DELIMITERS = (",", ";", "\t", "|")


class Format(StrEnum):
    """How events lie in a file."""

    NDJSON = "ndjson"
    CSV = "csv"
    PARQUET = "parquet"


NAMES = {
    ".ndjson": Format.NDJSON,
    ".jsonl": Format.NDJSON,
    ".json": Format.NDJSON,
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".tab": Format.CSV,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
}


class Portion(NamedTuple):
    """N records in order.

    Args:
        offsets: (N,) rising; the position behind a record is its offset and one.
        values: (N,) an event's JSON, or what the file has in its place where that is none.
        faults: by offset, what is wrong with those.
    """

    offsets: list[int]
    values: list[bytes]
    faults: dict[int, EventRejected]


class Reader(Protocol):
    """Reads a file that was just opened, once through.

    Attributes:
        unit: what positions count.
        position: where the next record begins.
        columns: the names of a table's columns; None where each record has names of its own.
        objects: those of the columns that are objects.
    """

    unit: str
    position: int
    columns: Sequence[str] | None
    objects: Collection[str]

    @property
    def size_bytes(self) -> int:
        """Of the file as it is on the disk; 0 where that is not known."""

    @property
    def done_bytes(self) -> int:
        """Bytes read so far, as `size_bytes` counts them."""

    def seek(self, position: int) -> bool:
        """Goes on to a position, before anything was read; whether the file has it."""

    def read(self, n_records: int) -> Portion:
        """The next records, as many at most; none at the end.

        Raises:
            OSError, EOFError...: those of `packing.UNREADABLE`.
            FileUnreadable: as the format has it.
        """

    def place(self, offset: int) -> str:
        """A record's place among the others, for people."""

    def close(self) -> None:
        """Lets go of the file."""


class TextReader:
    """What readers of lines have in common: their positions count unpacked bytes."""

    unit = "byte"
    columns: Sequence[str] | None = None
    objects: Collection[str] = ()

    def __init__(self, file: Unpacked) -> None:
        self.file = file
        self.position = 0
        if file.stream.peek(len(BOM)).startswith(BOM):
            self.position = len(file.stream.read(len(BOM)))
        self._error: Exception | None = None

    @property
    def size_bytes(self) -> int:
        """See `Reader`."""
        return self.file.size_bytes

    @property
    def done_bytes(self) -> int:
        """See `Reader`."""
        return self.file.done_bytes or self.position

    def seek(self, position: int) -> bool:
        """See `Reader`."""
        n_bytes, self.position = max(0, position - self.position), max(position, self.position)
        return self.file.skip(n_bytes)

    def read(self, n_records: int) -> Portion:
        """See `Reader`. What was read before an error comes before the error."""
        portion = Portion([], [], {})
        if self._error is None:
            try:
                self.fill(portion, n_records)
            except UNREADABLE as error:
                self._error = error
        if self._error is not None and not portion.values:
            raise self._error
        return portion

    def fill(self, portion: Portion, n_records: int) -> None:
        """Reads on until a portion has so many records, or the file ends."""
        raise NotImplementedError

    def place(self, offset: int) -> str:
        """The number of the line in which a record ends; of a stream that is gone, the byte."""
        return f"byte {offset}" if self.file.path == STDIN else str(count_lines(self.file.path, offset) + 1)

    def close(self) -> None:
        """See `Reader`."""
        self.file.close()


class LineReader(TextReader):
    """One JSON event a line; blank ones are passed. A line's offset is that of its last byte."""

    def fill(self, portion: Portion, n_records: int) -> None:
        """See `TextReader`. Nothing is parsed."""
        offsets, values, _ = portion
        readline = self.file.stream.readline
        while len(values) < n_records and (line := readline()):
            self.position += len(line)
            if not line.isspace():
                offsets.append(self.position - 1)
                values.append(line)


def open_reader(path: Path, format: Format | None = None) -> Reader:
    """Opens a file at its first record.

    Args:
        format: where it is not what the name or the first bytes say.

    Raises:
        OSError, EOFError...: it cannot be read; those of `packing.UNREADABLE`.
        FileUnreadable: it is not of that format.
    """
    file = Unpacked(path)
    try:
        return _read_as(format or find_format(path, file.stream.peek(1)), file)
    except BaseException:
        file.close()
        raise


def find_format(path: Path, head: bytes) -> Format:
    """The format of a file by its name, or where that says nothing, by its first bytes."""
    name = path.with_suffix("") if path.suffix.lower() in SUFFIXES else path
    if (named := NAMES.get(name.suffix.lower())) is not None:
        return named
    if head.startswith(b"PAR1"):
        return Format.PARQUET
    line = head.removeprefix(BOM).lstrip().partition(b"\n")[0]
    is_table = not line.startswith((b"{", b"[")) and any(one.encode() in line for one in DELIMITERS)
    return Format.CSV if is_table else Format.NDJSON


def _read_as(format: Format, file: Unpacked) -> Reader:
    if format is Format.CSV:
        from flexihash.consumer.formats.delimited import CsvReader

        return CsvReader(file)
    if format is Format.PARQUET:
        from flexihash.consumer.formats.parquet import ParquetReader

        return ParquetReader(file)
    return LineReader(file)

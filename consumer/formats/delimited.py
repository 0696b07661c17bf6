"""CSV and TSV: rows under a header that names the columns."""

from __future__ import annotations

import codecs
import csv
from collections import deque
from collections.abc import Iterator
from itertools import compress
from pathlib import Path
from typing import IO

from flexihash.consumer.consumer_errors import EventRejected, FileUnreadable
from flexihash.consumer.formats.cells import CellBook, write_template
from flexihash.consumer.formats.packing import Unpacked
from flexihash.consumer.formats.reader import DELIMITERS, Portion, TextReader

BAD_ROW = "bad_row"
ZIP = b"PK\x03\x04"
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
NOT_UTF8 = "not UTF-8; if it is of Windows-1252 or Latin-1, `iconv -f CP1252 -t UTF-8` makes it UTF-8"
ESCAPED = "surrogateescape"  # how bytes that are not UTF-8 stay in a text, until it is to be written
SHOWN_CHARACTERS = 40  # of a cell at fault


class CsvReader(TextReader):
    """A row's JSON has a name for each column that has one; its offset is that of its last byte.

    The delimiter is the one of DELIMITERS that divides the header into the most names.

    Raises:
        FileUnreadable: it is no such text, or has no header.
    """

    def __init__(self, file: Unpacked) -> None:
        super().__init__(file)
        _check_text(file.path, file.stream.peek(1))
        self._lines = _Lines(file.stream)
        self._rows = csv.reader(self._lines, delimiter=_find_delimiter(self._find_header()), skipinitialspace=True)
        header = self._read_header()
        self._is_named = [bool(name) for name in header]
        self.columns = names = tuple(filter(None, header))
        self._template = write_template(file.path, names)
        self._cells = CellBook()

    def fill(self, portion: Portion, n_records: int) -> None:
        """See `TextReader`. Of what is no row of this table, only the first line is passed, as a record at fault."""
        while len(portion.values) < n_records:
            fault = None
            try:
                value = self._read_row()
            except StopIteration:
                break
            except EventRejected as rejected:
                value, fault = self._lines.keep(only_first=rejected.reason == BAD_ROW), rejected
            self.position += self._lines.n_bytes
            if value:
                portion.offsets.append(self.position - 1)
                portion.values.append(value)
            if fault is not None:
                portion.faults[self.position - 1] = fault

    def _find_header(self) -> str:
        """The first line of the header, which is still to be read. What comes before is passed."""
        while (line := self.file.stream.readline()).isspace():
            self.position += len(line)
        self._lines.put_back(line)
        return line.decode(errors=ESCAPED)

    def _read_header(self) -> list[str]:
        path = self.file.path
        try:
            header = [name.strip() for name in self._parse()]
            "".join(header).encode()
        except StopIteration:
            raise FileUnreadable(f"{path} is empty: its first line has to name the columns") from None
        except EventRejected as rejected:
            raise FileUnreadable(f"the first line of {path} does not name the columns: {rejected}") from rejected
        except UnicodeEncodeError as error:
            raise FileUnreadable(f"the first line of {path} is {NOT_UTF8}") from error
        self.position += self._lines.n_bytes
        return header

    def _read_row(self) -> bytes:
        """The next row's JSON; no bytes where it is blank.

        Raises:
            StopIteration: there is none.
            EventRejected: it is no row of this table.
        """
        row = self._parse()
        if len(row) != len(self._is_named):
            if not "".join(row).strip() and len(row) < 2:
                return b""
            raise EventRejected(BAD_ROW, self._describe_misfit(len(row)))
        try:
            return self._template % tuple(map(self._cells.__getitem__, compress(row, self._is_named)))
        except UnicodeEncodeError as error:
            cell = error.object[:SHOWN_CHARACTERS].encode(errors=ESCAPED)
            raise EventRejected("not_utf8", f"{cell!r} is {NOT_UTF8}") from error

    def _parse(self) -> list[str]:
        self._lines.begin()
        try:
            row = next(self._rows)
        except csv.Error as error:
            raise EventRejected(BAD_ROW, f"{error}; is a quote open?") from error
        if self._lines.is_at_end:
            raise EventRejected(BAD_ROW, "a quote opens here and does not end")
        return row

    def _describe_misfit(self, n_cells: int) -> str:
        begin = "the row has" if len(self._lines.taken) == 1 else "a quote opens here; where it ends, the row has"
        cells = "1 cell" if n_cells == 1 else f"{n_cells} cells"
        return f"{begin} {cells}, but the header names {len(self._is_named)} columns"


class _Lines(Iterator[str]):
    """The lines of a stream as texts; those that were taken for one row can be put back."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.taken: list[bytes] = []
        self.is_at_end = False
        self._stream = stream
        self._back: deque[bytes] = deque()

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else self._stream.readline()
        if not line:
            self.is_at_end = True
            raise StopIteration
        self.taken.append(line)
        return line.decode(errors=ESCAPED)

    @property
    def n_bytes(self) -> int:
        """Of the lines taken."""
        return sum(map(len, self.taken))

    def begin(self) -> None:
        """The lines that are taken from here on are for one row."""
        self.taken.clear()
        self.is_at_end = False

    def keep(self, only_first: bool) -> bytes:
        """The lines taken, or the first of them, while the others are put back."""
        if only_first:
            self.put_back(*self.taken[1:])
            del self.taken[1:]
        return b"".join(self.taken)

    def put_back(self, *lines: bytes) -> None:
        """These come next."""
        self._back.extendleft(reversed(lines))


def _check_text(path: Path, head: bytes) -> None:
    if head.startswith(ZIP):
        raise FileUnreadable(f"{path} is a zip archive, as Excel's workbooks are: save the sheet as CSV, or unpack it")
    if head.startswith(UTF_16) or b"\0" in head:
        raise FileUnreadable(f"{path} is no UTF-8; if it is UTF-16, `iconv -f UTF-16 -t UTF-8` makes it UTF-8")
    if b"\r" in head and b"\n" not in head:
        raise FileUnreadable(f"the lines of {path} end in carriage returns alone; `tr '\\r' '\\n'` mends them")


def _find_delimiter(header: str) -> str:
    return max(DELIMITERS, key=lambda delimiter: _count_cells(header, delimiter))


def _count_cells(header: str, delimiter: str) -> int:
    try:
        return max(map(len, csv.reader([header], delimiter=delimiter, skipinitialspace=True)), default=0)
    except csv.Error:  # by the wrong delimiter, a cell may be too long
        return 0

"""Files as sources: every format and packing gives the same events, from any position on, and says what is wrong."""

from __future__ import annotations

import codecs
import csv
import datetime
import decimal
import gzip
import io
import json
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event as StopSignal
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
import zstandard
from pyarrow import parquet

from flexihash.consumer.consumer_errors import FileUnreadable, LabelMissing
from flexihash.consumer.files import learn_file
from flexihash.consumer.formats import cells, file_source
from flexihash.consumer.formats import parquet as parquet_reader
from flexihash.consumer.formats.cells import CellBook, write_cell
from flexihash.consumer.formats.file_source import FileSource
from flexihash.consumer.formats.reader import NAMES, Format
from flexihash.consumer.records import Fetch
from flexihash.consumer.sample import KINDS
from flexihash.consumer.wire import EventFormat
from flexihash.model.checkpoint.tensors import read
from flexihash.model.config import ModelConfig
from flexihash.model.features import FeatureRules
from tests.unit.test_docs import codes, table

FORMATS = [*Format]
PACKINGS = ["", ".gz", ".zst"]
N_ROWS = 23
N_LONG = 60_000
CONFIG = ModelConfig(n_rows=1024)


def make_rows(n_rows: int = N_ROWS) -> list[dict[str, Any]]:
    """Rows of every kind of cell; a text has a delimiter, a quote and line ends in it."""
    texts = ["a, b", 'say "no"', "two\nlines", "é; 日本", None, "00501", "x\r\ny"]
    return [
        {
            "late": n % 2,
            "delay": n / 8 - 1,
            "count": n % 5 if n % 7 else None,
            "note": texts[n % len(texts)],
            "is_new": n % 3 == 0,
        }
        for n in range(n_rows)
    ]


def write_text(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(rows[0])
        writer.writerows(
            [str(cell).lower() if isinstance(cell, bool) else cell for cell in row.values()] for row in rows
        )


def write(folder: Path, rows: list[dict[str, Any]], format: Format, packing: str = "") -> Path:
    """A file of these rows, in several row groups where it has such."""
    path = folder / f"rows.{format}"
    match format:
        case Format.NDJSON:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case Format.CSV:
            write_text(path, rows)
        case Format.PARQUET:
            parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=5)
    packed = folder / f"{path.name}{packing}"
    if packing:
        packed.write_bytes(pack(path.read_bytes(), packing))
    return packed


def pack(content: bytes, packing: str) -> bytes:
    """Packed in two parts, as who appends to such files does."""
    halves = content[: len(content) // 2], content[len(content) // 2 :]
    compress = gzip.compress if packing == ".gz" else zstandard.ZstdCompressor(write_checksum=True).compress
    return b"".join(map(compress, halves))


def poll(source: FileSource) -> Iterator[Fetch]:
    while fetches := source.poll(0.0):
        yield from fetches


def read_all(path: Path, position: int = 0, format: Format | None = None) -> tuple[list[int], list[bytes | None], dict]:
    """Offsets, values and faults from a position on."""
    with closing(FileSource(path, format)) as source:
        source.start({0: position})
        fetches = list(poll(source))
    faults = {at: (fault.reason, str(fault)) for fetch in fetches for at, fault in fetch.faults.items()}
    offsets = [offset for fetch in fetches for offset in fetch.offsets]
    return offsets, [value for fetch in fetches for value in fetch.values], faults


def events(path: Path, format: Format | None = None) -> list[Any]:
    _, values, faults = read_all(path, format=format)
    assert faults == {}
    return [json.loads(value or b"") for value in values]


def write_csv(folder: Path, text: str | bytes, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def short_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_source, "FETCH_LINES", 3)
    monkeypatch.setattr(parquet_reader, "BATCH_ROWS", 4)


# --- formats and packings -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short_fetches")
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_and_packing_gives_the_same_events(tmp_path: Path, format: Format, packing: str) -> None:
    rows = make_rows()
    path = write(tmp_path, rows, format, packing)
    assert events(path) == rows
    unnamed = path.rename(tmp_path / "unnamed")
    assert events(unnamed, format) == rows
    assert events(unnamed) == rows, "by its first bytes"


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("format", FORMATS)
def test_standard_input_is_read_as_a_file_is(
    tmp_path: Path, format: Format, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows()
    content = io.BytesIO(write(tmp_path, rows, format, packing).read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(content))
    source = FileSource(Path("-"))
    assert source.start({0: 7}) == {0: 0}, "what was there once is gone"
    assert [json.loads(value or b"") for fetch in poll(source) for value in fetch.values] == rows
    source.close()
    assert not content.closed


@pytest.mark.usefixtures("short_fetches")
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("format", FORMATS)
def test_from_every_position_on_come_the_rest(tmp_path: Path, format: Format, packing: str) -> None:
    path = write(tmp_path, make_rows(), format, packing)
    offsets, values, _ = read_all(path)
    assert len(values) == N_ROWS
    for index, offset in enumerate(offsets):
        assert read_all(path, offset + 1)[:2] == (offsets[index + 1 :], values[index + 1 :])


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_became_shorter_is_another_one(tmp_path: Path, format: Format, packing: str) -> None:
    path = write(tmp_path, make_rows(), format, packing)
    position = read_all(path)[0][-1] + 2
    unit = "row" if format is Format.PARQUET else "byte"
    with closing(FileSource(path)) as source, pytest.raises(FileUnreadable) as told:
        source.start({0: position})
    assert f"{path} was learned up to {unit} {position}, but is shorter now" in str(told.value)


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_was_cut_is_no_whole_one(tmp_path: Path, format: Format, packing: str) -> None:
    rows = [
        {**row, "note": json.dumps(np.random.default_rng(n).random(9).tolist())} for n, row in enumerate(make_rows())
    ]
    path = write(tmp_path, rows, format, packing)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FileUnreadable, match=f"cannot read {path}.*: Compressed file ended"):
        read_all(path)


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_what_is_before_the_damage_comes_first(tmp_path: Path, packing: str) -> None:
    path = write(tmp_path, make_rows(), Format.NDJSON, packing)
    path.write_bytes(path.read_bytes()[:-9])
    source = FileSource(path)
    source.start({})
    (fetch,) = source.poll(0.0)
    assert [json.loads(value or b"") for value in fetch.values] == make_rows()[: len(fetch)]
    assert len(fetch) >= N_ROWS // 2
    for _ in range(2):
        with pytest.raises(FileUnreadable, match=rf"after byte {fetch.position}: Compressed file ended"):
            source.poll(0.0)
    source.close()


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_bytes_that_were_changed_are_named(tmp_path: Path, packing: str) -> None:
    path = write(tmp_path, make_rows(), Format.CSV, packing)
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(FileUnreadable, match=f"cannot read {path}"):
        read_all(path)


def test_what_is_not_packed_as_its_name_says_is_named(tmp_path: Path) -> None:
    for name in ("rows.csv.gz", "rows.csv.zst"):
        (tmp_path / name).write_text("a,b\n1,2\n")
        with pytest.raises(FileUnreadable, match=f"cannot read {tmp_path / name}: "):
            FileSource(tmp_path / name).start({})
    with pytest.raises(FileUnreadable, match=f"cannot read {tmp_path}: Is a directory"):
        FileSource(tmp_path).start({})


def test_without_pyarrow_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, make_rows(), Format.PARQUET)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FileUnreadable, match=r"is Parquet, which takes pyarrow: pip install 'flexihash\[parquet\]'"):
        FileSource(path).start({})
    assert len(events(write(tmp_path, make_rows(), Format.CSV, ".zst"))) == N_ROWS


@pytest.mark.parametrize("name", ["rows.ndjson", "unnamed", "unnamed.gz"])
def test_a_mark_before_the_text_is_not_of_it(tmp_path: Path, name: str) -> None:
    lines = b'{"a":1,"b":2}\n{"a":3,"b":4}\n'
    content = codecs.BOM_UTF8 + lines
    path = write_csv(tmp_path, pack(content, ".gz") if name.endswith(".gz") else content, name)
    assert events(path) == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    offsets, values, _ = read_all(path)
    assert read_all(path, offsets[0] + 1)[1] == values[1:]


# --- CSV ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("3", "3"), ("-3", "-3"), ("0", "0"), ("-0", "-0"), ("3.50", "3.50"), ("1e5", "1e5"), ("1E-05", "1E-05"),
        (".5", "0.5"), ("-.25", "-0.25"), ("5.", "5.0"), (" 7 ", "7"), ("\t2.5", "2.5"),
        ("00501", '"00501"'), ("+49", '"+49"'), ("1,5", '"1,5"'), ("1_000", '"1_000"'), ("1e999", '"1e999"'),
        ("9" * 400, f'"{"9" * 400}"'), ("inf", '"inf"'), ("0x1f", '"0x1f"'), ("1 2", '"1 2"'),
        (".", '"."'), ("-", '"-"'), ("true", "true"), ("True", "true"), ("FALSE", "false"),
        ("yes", '"yes"'), ("tRUE", '"tRUE"'),
        ("", "null"), ("  ", "null"), ("NA", "null"), ("N/A", "null"), ("#N/A", "null"), ("NaN", "null"),
        ("nan", "null"), ("null", "null"), ("NULL", "null"), ("None", '"None"'), ("na", '"na"'), ("-999", "-999"),
        ("\u0663", '"\u0663"'),
        ("2013-01-01T05:00:00Z", '"2013-01-01T05:00:00Z"'), ('say "no"', r'"say \"no\""'), ("é", '"é"'),
        (" x y ", '"x y"'),
    ],
)  # fmt: skip
def test_a_cell_becomes_what_it_plainly_is(cell: str, written: str) -> None:
    assert write_cell(cell).decode() == written
    json.loads(written)
    book = CellBook()
    assert (book[cell], book[cell]) == (written.encode(),) * 2


def test_cells_at_hand_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "KEPT_CELLS", 10)
    book = CellBook()
    assert [book[str(n)] for n in range(25)] == [b"%d" % n for n in range(25)]
    assert len(book) <= 10
    book["x" * 65]
    assert "x" * 65 not in book


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows", "rows.txt"])
def test_the_header_tells_the_delimiter(tmp_path: Path, delimiter: str, name: str) -> None:
    write_text(tmp_path / name, make_rows(), delimiter)
    assert events(tmp_path / name) == make_rows()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\n1,2\n3,4", [{"a": 1, "b": 2}, {"a": 3, "b": 4}]),
        ("a,b\r\n1,2\r\n\r\n3,4\r\n\n  \n", [{"a": 1, "b": 2}, {"a": 3, "b": 4}]),
        ("\n \n a , b\n1, 2\n", [{"a": 1, "b": 2}]),
        ('"a","b c"\n"1", "x, y"\n', [{"a": 1, "b c": "x, y"}]),
        (",a,b,\n0,1,2,3\n1,3,4,5\n", [{"a": 1, "b": 2}, {"a": 3, "b": 4}]),  # the index of pandas has no name
        ("100%,50%%\n1,2\n", [{"100%": 1, "50%%": 2}]),
        ('"two\nlines",b\n1,2\n', [{"two\nlines": 1, "b": 2}]),
        ("a\n1\n\n2\n", [{"a": 1}, {"a": 2}]),
        ("a,b;c\n1,2\n", [{"a": 1, "b;c": 2}]),
        ('a,b\n5" pipe,2\n', [{"a": '5" pipe', "b": 2}]),
        ("ä,b\nö,ü\n".encode("utf-8-sig"), [{"ä": "ö", "b": "ü"}]),
        ("a,b\n", []),
    ],
)
def test_a_table_is_read_as_people_write_it(tmp_path: Path, text: str | bytes, expected: list[Any]) -> None:
    path = write_csv(tmp_path, text)
    assert events(path) == expected
    offsets, values, _ = read_all(path)
    for index, offset in enumerate(offsets):
        assert read_all(path, offset + 1)[1] == values[index + 1 :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: its first line has to name the columns"),
        (b"\n  \n", "is empty: its first line has to name the columns"),
        (b"a,b,a\n1,2,3\n", "has several columns with the name 'a'; does its first line name the columns"),
        ("a,b\n1,2\n".encode("utf-16"), "is no UTF-8; if it is UTF-16, `iconv -f UTF-16 -t UTF-8` makes it UTF-8"),
        ("a,b\n1,2\n".encode("utf-16-le"), "is no UTF-8; if it is UTF-16"),
        (b"PK\x03\x04\x14\x00", "is a zip archive, as Excel's workbooks are: save the sheet as CSV, or unpack it"),
        (b"a,b\r1,2\r3,4\r", r"end in carriage returns alone; `tr '\r' '\n'` mends them"),
        ("größe,b\n1,2\n".encode("latin-1"), "is not UTF-8; if it is of Windows-1252 or Latin-1, `iconv -f CP1252"),
        (b'a,"b\n1,2\n3,4\n', "does not name the columns: a quote opens here and does not end"),
    ],
)
def test_what_is_no_table_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    path = write_csv(tmp_path, content)
    with pytest.raises(FileUnreadable) as told:
        FileSource(path).start({})
    assert message in str(told.value) and str(path) in str(told.value)


RAGGED = "the row has {} cells, but the header names 2 columns"
OPEN = "a quote opens here and does not end"
BAD_ROWS = {
    "too few": (b"9", "the row has 1 cell, but the header names 2 columns"),
    "too many": (b"9,9,9", RAGGED.format(3)),
    "an open quote": (b'"9,9', OPEN),
    "an open quote that another ends": (
        b'"9,9\n7,"8"',
        "a quote opens here; where it ends, the row has 1 cell, but the header names 2 columns",
    ),
    "a long cell": (b"9," + b"9" * 200_000, "field larger than field limit (131072); is a quote open?"),
    "a carriage return": (b"9\r9,9", "new-line character seen in unquoted field"),
    "latin-1": (
        "9,é".encode("latin-1"),
        r"b'\xe9' is not UTF-8; if it is of Windows-1252 or Latin-1, `iconv -f CP1252",
    ),
}


@pytest.mark.usefixtures("short_fetches")
@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_row_at_fault_costs_itself_alone(tmp_path: Path, kind: str) -> None:
    bad, message = BAD_ROWS[kind]
    path = write_csv(tmp_path, b"a,b\n1,2\n%b\n3,4\n5,6\n7,8\n" % bad)
    offsets, values, faults = read_all(path)
    lines = bad.count(b"\n") + 1
    good = [json.loads(value) for value in values if value]
    assert good == [{"a": 1, "b": 2}] + [{"a": 7, "b": 8}] * (lines - 1) + [{"a": n, "b": n + 1} for n in (3, 5, 7)]
    ((at, (reason, told)),) = faults.items()
    assert values[offsets.index(at)] is None
    assert reason == ("not_utf8" if kind == "latin-1" else "bad_row")
    assert message in told
    with closing(FileSource(path)) as source:
        assert source.place(at) == f"{path}:3"
    for index, offset in enumerate(offsets):
        assert read_all(path, offset + 1)[:2] == (offsets[index + 1 :], values[index + 1 :])


def test_a_label_that_is_no_column_is_told_with_the_columns(tmp_path: Path) -> None:
    source = FileSource(write_csv(tmp_path, "carrier,late\nUA,1\n"))
    source.check_label("late")
    with pytest.raises(LabelMissing, match=r"rows.csv has no column 'label'; its columns are carrier, late$"):
        source.check_label("label")
    source.close()
    bare = FileSource(write_csv(tmp_path, "UA,1\nB6,0\n"))
    with pytest.raises(
        LabelMissing, match=r"its columns are UA, 1; is its first line a row\? It has to name the columns$"
    ):
        bare.check_label("label")
    bare.close()
    many = FileSource(write_csv(tmp_path, ",".join(f"c{n}" for n in range(130)) + "\n"))
    with pytest.raises(LabelMissing, match=r"c99 and 30 more$"):
        many.check_label("label")
    many.close()
    lines = FileSource(write(tmp_path, make_rows(), Format.NDJSON))
    lines.check_label("label")  # each event may have it or not
    lines.close()


# --- Parquet --------------------------------------------------------------------------------------------------------


def read_column(folder: Path, values: list[Any], type: pyarrow.DataType | None) -> list[Any]:
    path = folder / "column.parquet"
    parquet.write_table(pyarrow.table({"c": pyarrow.array(values, type)}), path)
    return [event["c"] for event in events(path)]


UTC = datetime.UTC
MOMENT = datetime.datetime(2013, 1, 1, 5, 15, 0, 250_000)
EAST = datetime.timezone(datetime.timedelta(hours=2))


@pytest.mark.parametrize(
    ("type", "values", "expected"),
    [
        (pyarrow.int8(), [1, None, -3], [1, None, -3]),
        (pyarrow.uint64(), [2**64 - 1], [2**64 - 1]),
        (pyarrow.float32(), [0.5, None, float("nan"), float("inf")], [0.5, None, None, None]),
        (pyarrow.float64(), [3.0], [3.0]),
        (pyarrow.bool_(), [True, None, False], [True, None, False]),
        (pyarrow.string(), ["é", None, "", "NA", 'a"b'], ["é", None, "", "NA", 'a"b']),
        (pyarrow.large_string(), ["x"], ["x"]),
        (pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), ["x", None, "y", "x"], ["x", None, "y", "x"]),
        (pyarrow.decimal128(9, 2), [decimal.Decimal("12.50"), None], [12.5, None]),
        (pyarrow.timestamp("ns"), [MOMENT, None], ["2013-01-01T05:15:00.250000", None]),
        (pyarrow.timestamp("s", "America/New_York"), [MOMENT.replace(tzinfo=UTC)], ["2013-01-01T05:15:00Z"]),
        (pyarrow.timestamp("us", "UTC"), [MOMENT.replace(tzinfo=EAST)], ["2013-01-01T03:15:00.250000Z"]),
        (pyarrow.date32(), [MOMENT.date(), None], ["2013-01-01", None]),
        (pyarrow.time64("ns"), [MOMENT.time()], ["05:15:00.250000"]),
        (pyarrow.duration("ns"), [datetime.timedelta(minutes=90), None], [5400.0, None]),
        (pyarrow.list_(pyarrow.string()), [["a", None], [], None], [["a", None], [], None]),
        (pyarrow.list_(pyarrow.timestamp("ns", "UTC")), [[MOMENT.replace(tzinfo=UTC)]],
         [["2013-01-01T05:15:00.250000Z"]]),
        (pyarrow.struct({"a": pyarrow.int64(), "t": pyarrow.timestamp("ns")}), [{"a": 1, "t": MOMENT}, None],
         [{"a": 1, "t": "2013-01-01T05:15:00.250000"}, None]),
        (pyarrow.map_(pyarrow.string(), pyarrow.int64()), [[("k", 1)], None], [{"k": 1}, None]),
        (pyarrow.binary(), [b"ab"], ["YWI="]),
        (pyarrow.null(), [None, None], [None, None]),
    ],
    ids=str,
)  # fmt: skip
def test_a_column_becomes_json(tmp_path: Path, type: Any, values: list[Any], expected: list[Any]) -> None:
    assert read_column(tmp_path, values, type) == expected


def test_an_integer_stays_one_and_a_float_too(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"a": [3], "b": [3.0]}), path)
    assert read_all(path)[1] == [b'{"a":3,"b":3.0}']


def test_what_is_no_parquet_is_told(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "PAR1 and no more", "rows.parquet")
    with pytest.raises(FileUnreadable, match=f"{path} is no whole Parquet file: "):
        FileSource(path).start({})
    far = tmp_path / "far.parquet"
    parquet.write_table(pyarrow.table({"t": pyarrow.array([1 << 60], pyarrow.timestamp("us"))}), far)
    with pytest.raises(FileUnreadable, match=f"cannot read {far} after row 0: "):
        read_all(far)


# --- learning -------------------------------------------------------------------------------------------------------


def learn(path: Path, folder: Path, stop_after: int = 0, **format: Any) -> Any:
    """Learns a file, or some polls of it, with a checkpoint at the end."""
    stop, n_polls = StopSignal(), 0

    def count(*_: int) -> None:
        nonlocal n_polls
        n_polls += 1
        if n_polls == stop_after:
            stop.set()

    event_format = EventFormat(label_field="late", **format)
    return learn_file(path, CONFIG, event_format, folder, on_progress=count, stop=stop)


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    tensors, _ = read(max(folder.glob("0*")))
    return {name: tensor for name, tensor in tensors.items() if name not in ("positions", "digests")}


def check_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor.view(torch.uint8), other[name].view(torch.uint8)), name


def test_every_format_teaches_the_same_bits(tmp_path: Path) -> None:
    rows = make_rows(300)
    for format in FORMATS:
        report = learn(write(tmp_path, rows, format), tmp_path / format, features_field="")
        assert (report.events, report.rejected) == (300, {})
    for format in (Format.CSV, Format.PARQUET):
        check_same(tensors_of(tmp_path / format), tensors_of(tmp_path / Format.NDJSON))


@pytest.mark.usefixtures("short_fetches")
@pytest.mark.parametrize("packing", ["", ".zst"])
@pytest.mark.parametrize("format", [Format.CSV, Format.PARQUET])
def test_a_file_is_gone_on_with_where_it_was_left(tmp_path: Path, format: Format, packing: str) -> None:
    path = write(tmp_path, make_rows(), format, packing)
    learn(path, tmp_path / "whole")
    learned = [learn(path, tmp_path / "parts", stop_after=n_polls).events for n_polls in (1, 3, 2, 0)]
    assert sum(learned) == N_ROWS and all(learned)
    check_same(tensors_of(tmp_path / "parts"), tensors_of(tmp_path / "whole"))


def test_the_columns_of_a_table_are_features_without_a_setting(tmp_path: Path) -> None:
    rows = [{"late": n % 2, "color": "red" if n % 2 else "blue", "id": f"i{n}"} for n in range(200)]
    for format in (Format.CSV, Format.PARQUET):
        report = learn(write(tmp_path, rows, format), tmp_path / format)
        assert (report.events, report.unlabelled) == (200, 0)
        assert report.metrics["log_loss"] < report.metrics["baseline_log_loss"] / 3
    nested = [{"late": row["late"], "features": {"color": row["color"]}, "at": 7} for row in rows]
    report = learn(write(tmp_path, nested, Format.PARQUET), tmp_path / "nested")
    assert (report.events, list(report.features)) == (200, ["color"])


def test_rows_at_fault_are_counted_with_their_lines(tmp_path: Path) -> None:
    path = write_csv(tmp_path, b"late,a\n1,x\n1\n0,\xe9\n2,z\n0,y\n1,x\n")
    report = learn(path, tmp_path / "kept")
    assert report.events == 3
    assert report.rejected == {"bad_row": 1, "not_utf8": 1, "bad_label": 1}
    assert report.rejected_samples == [
        f"{path}:3: the row has 1 cell, but the header names 2 columns",
        f"{path}:4: b'\\xe9' is not UTF-8; if it is of Windows-1252 or Latin-1, `iconv -f CP1252 -t UTF-8` makes it "
        "UTF-8",
        f"{path}:5: label 2 is not 0 or 1 (task=binary)",
    ]


def test_what_was_taken_for_what_is_told(tmp_path: Path) -> None:
    rows = [
        {
            "late": n % 2, "whole": n, "part": n / 8 + 0.1, "word": f"w{n % 3}", "odd": n if n % 2 else "x", "id": n,
            "weight": 1, "empty": None, "some": "y" if n % 4 == 0 else None, "is_new": n % 2 == 0, "title": "Two words",
            "at": f"2013-01-01T0{n % 10}:30:00Z", "day": f"2013-01-0{n % 9 + 1}", "set_at": 1_500_000_000 + n,
            "when": "2013-01-01" if n % 2 else "unknown", "gone": n / 8 + 0.1 if n % 2 else None,
        }
        for n in range(200)
    ]  # fmt: skip
    rules = FeatureRules(text_features=("title",), time_features=("set_*",), missing_features=("gone", "empty"))
    report = learn(write(tmp_path, rows, Format.CSV), tmp_path / "kept", rules=rules)
    assert report.sampled == 200
    assert {name: taken.taken_for for name, taken in report.features.items()} == {
        "late": "label", "whole": "both", "part": "number", "word": "category", "odd": "mixed", "id": "left out",
        "weight": "weight", "empty": "nothing", "some": "category", "is_new": "category", "title": "text", "at": "time",
        "day": "time", "set_at": "time", "when": "mixed", "gone": "number",
    }  # fmt: skip
    assert report.features["some"].missing == 0.75
    assert report.features["gone"].missing == 0.5
    assert report.features["id"].missing is None
    assert report.features["whole"].missing == 0.0


# --- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.zst"])
def test_a_long_table_is_read_in_little_memory(tmp_path: Path, name: str) -> None:
    content = b"late,a,b\n" + b"".join(b"%d,%f,%d%b\n" % (n % 2, n / 7, n, b"x" * 500) for n in range(N_LONG))
    path = tmp_path / name
    path.write_bytes(zstandard.ZstdCompressor().compress(content) if path.suffix == ".zst" else content)
    tracemalloc.start()
    try:
        source = FileSource(path)
        source.start({})
        n_rows = sum(len(fetch) for fetch in poll(source))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    source.close()
    assert n_rows == N_LONG
    assert peak < 12e6 < len(content) / 2


def test_of_parquet_no_more_than_a_row_group_is_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    columns = {f"c{n}": np.random.default_rng(n).random(300_000) for n in range(4)}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=5_000, use_dictionary=False)
    del columns
    pool = pyarrow.default_memory_pool()
    before = pool.bytes_allocated()
    source = FileSource(path)
    source.start({})
    most = max(pool.bytes_allocated() - before for _ in poll(source))
    source.close()
    assert path.stat().st_size > 9e6
    assert 0 < most < 3e6


# --- docs/files.md --------------------------------------------------------------------------------------------------


def test_the_page_says_what_cells_become() -> None:
    numbers, booleans, nulls, texts = (codes(row[0]) for row in table("files.md", "cell", "becomes"))
    assert all(isinstance(json.loads(write_cell(cell)), int | float) for cell in numbers)
    assert set(booleans) == set(cells.BOOLEANS)
    assert {"", *nulls} == cells.NULLS
    assert [json.loads(write_cell(cell)) for cell in texts] == texts


def test_the_page_says_what_is_wrong_with_a_row(tmp_path: Path) -> None:
    rows = table("files.md", "reason", "row", "message")
    for reason, row, message in rows:
        (text,) = codes(row)
        path = write_csv(tmp_path, b"a,b\n" + text.encode("latin-1" if "Latin-1" in row else "utf-8"))
        ((found, told),) = read_all(path)[2].values()
        assert (found, told) == (*codes(reason), message.replace(r"\`", "`"))
    assert {codes(reason)[0] for reason, *_ in rows} == {"bad_row", "not_utf8"}


def test_the_page_names_all_formats_and_kinds() -> None:
    named = {name for row in table("files.md", "format", "by name") for name in codes(row[1])}
    assert named == set(NAMES)
    assert {kind for row in table("files.md", "`taken_for`") for kind in codes(row[0])} == set(KINDS)

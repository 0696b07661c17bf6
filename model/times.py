"""Times: what ISO 8601 texts and epoch numbers mean, as seconds since 1970 and as the clock on the wall of a zone.

Both ways of decoding read them by this compiled code, so there is one meaning. Everything is a function of the text, or
the number, and the zone.

A zone lies at an address, as int64: how many changes of its offset there are, the first offset, and of each change what
`model.zones.Change` has.
"""

from __future__ import annotations

from functools import cache
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexihash.model.compiled import entry, part
from flexihash.model.words import PADDING, byte, signed64
from flexihash.model.zones import DAY_S, UTC, find_changes

HOUR_S, MINUTE_S = 3_600, 60
NO_TIME, DATE, WALL, EXACT = 0, 1, 2, 3  # forms: none, a date alone, a time without an offset, and one with an offset
AT_UTC, AT_WALL = 0, 1  # by which clock a change of the offset is looked up

# Epoch numbers below are seconds, milliseconds, microseconds and nanoseconds, in turn: those of 1973 and after are told
# apart, up to the year 5138. Numbers beyond are no times.
MOST_SECONDS, MOST_MILLIS, MOST_MICROS, MOST_NANOS = 1e11, 1e14, 1e17, 1e20

SHORTEST = 10  # characters of a time: a date
MAX_FRACTION_DIGITS = 9  # of a second; those behind are passed over
POWERS_OF_TEN = np.array([10.0**power for power in range(MAX_FRACTION_DIGITS + 1)])
DAYS_OF_MONTHS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])

# What beside its seconds is known of a time: features of their own, named `at.hour` and so on. A date has only the day.
HOUR, WEEKDAY, HOUR_OF_WEEK = 0, 1, 2
PARTS = ("hour", "weekday", "hour_of_week")
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
LABELS = (*map(str, range(24)), *WEEKDAYS, *(f"{day}-{hour}" for day in WEEKDAYS for hour in range(24)))

DIGIT_0, MINUS, PLUS, COLON, POINT, COMMA, SPACE, LOWER_T, LOWER_Z = map(ord, "0-+:., tz")
LOWER = 0x20  # this bit makes a letter lower case


class Time(NamedTuple):
    """A moment.

    Args:
        seconds: since 1970, UTC; of a date, where it begins in the zone.
        wall_s: what the zone's clock shows, as whole seconds since it showed 1970.
        has_hour: whether it is more than a date.
    """

    seconds: float
    wall_s: int
    has_hour: bool

    @property
    def parts(self) -> list[tuple[str, str]]:
        """The names and values of what the clock shows."""
        shown = range(len(PARTS)) if self.has_hour else (WEEKDAY,)
        return [(PARTS[which], LABELS[_find_label(which, self.wall_s)]) for which in shown]


@cache
def load_zone(name: str) -> NDArray[np.int64]:
    """A zone as compiled code reads it.

    Raises:
        ConfigurationError: there is no zone of this name.
    """
    first, changes = find_changes(name)
    return np.array([len(changes), first, *chain.from_iterable(changes)], np.int64)


@cache
def zone_address(name: str) -> int:
    """Where a zone lies; see `load_zone`."""
    return load_zone(name).ctypes.data


def may_be_time(text: str) -> bool:
    """Whether it is worth the while to look closer."""
    return len(text) >= SHORTEST and text[4:5] == "-" and text[7:8] == "-" and text.isascii()


def find_time(text: str, zone: int) -> Time | None:
    """The time that an ASCII text is, if it obviously is one: a date, or a date and a time of day, in full."""
    message = np.frombuffer(text.encode() + PADDING, np.uint8)
    return _make_time(read_text(message.ctypes.data, len(text), zone))


def find_epoch(number: float, zone: int) -> Time | None:
    """The time that a number of seconds or smaller units is, unless it is too large."""
    return _make_time(read_number_as_time(number, zone))


def warm_up() -> None:
    """Compiles or loads what reads times."""
    find_time("1970-01-01", zone_address(UTC))
    find_epoch(0.0, zone_address(UTC))


def _make_time(found: tuple[int, float, int]) -> Time | None:
    form, seconds, wall_s = found
    return Time(seconds, wall_s, form != DATE) if form != NO_TIME else None


def _find_label(which: int, wall_s: int) -> int:
    """Which of LABELS part `which` has."""
    hour = wall_s % DAY_S // HOUR_S
    day = (wall_s // DAY_S + 3) % 7  # 1970 began on a Thursday
    if which == HOUR:
        return hour
    return 24 + day if which == WEEKDAY else 31 + 24 * day + hour


find_label = part(_find_label)


@part
def find_offset(zone, seconds, clock):  # type: ignore[no-untyped-def]
    """A zone's offset at a moment, by the clock AT_UTC or AT_WALL."""
    low, high = 0, signed64(zone)  # so many changes lie before
    while low < high:
        middle = (low + high) >> 1
        if signed64(zone + 8 * (2 + 3 * middle + clock)) <= seconds:
            low = middle + 1
        else:
            high = middle
    return signed64(zone + 8 * (1 + 3 * low))


@part
def two_digits(i):  # type: ignore[no-untyped-def]
    """The number from 0 to 99 at `i`; -1: there is none."""
    tens, ones = byte(i) - DIGIT_0, byte(i + 1) - DIGIT_0
    return 10 * tens + ones if 0 <= tens <= 9 and 0 <= ones <= 9 else -1


@part
def count_days(year, month, day):  # type: ignore[no-untyped-def]
    """Days from 1970 to a date of the Gregorian calendar, as if that had always been used; years from 1."""
    if month <= 2:  # years that begin in March have their odd day at the end
        year -= 1
        month += 12
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * month - 457) // 5 + day - 719_469


@part
def is_date(year, month, day):  # type: ignore[no-untyped-def]
    if year < 1 or not 1 <= month <= 12 or day < 1:
        return False
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return day <= DAYS_OF_MONTHS[np.uint64(month)] + (month == 2 and is_leap)


@part
def read_date(i):  # type: ignore[no-untyped-def]
    """The days from 1970 to the date ``YYYY-MM-DD`` at `i`, and whether there is one."""
    century, years, month, day = two_digits(i), two_digits(i + 2), two_digits(i + 5), two_digits(i + 8)
    year = 100 * century + years
    if century < 0 or years < 0 or byte(i + 4) != MINUS or byte(i + 7) != MINUS or not is_date(year, month, day):
        return 0, False
    return count_days(year, month, day), True


@part
def read_clock(i):  # type: ignore[no-untyped-def]
    """The time of day ``HH:MM[:SS[.f]]`` at `i`: seconds (-1: there is none), the fraction, and where it ends.

    A leap second is the next second.
    """
    hour, minute, second = two_digits(i), two_digits(i + 3), 0
    fraction = 0.0
    if not 0 <= hour <= 23 or byte(i + 2) != COLON or not 0 <= minute <= 59:
        return -1, fraction, i
    i += 5
    if byte(i) == COLON:
        second = two_digits(i + 1)
        if not 0 <= second <= 60:
            return -1, fraction, i
        i += 3
        if byte(i) == POINT or byte(i) == COMMA:
            i += 1
            first, digits = i, 0
            while 0 <= byte(i) - DIGIT_0 <= 9:
                if i - first < MAX_FRACTION_DIGITS:
                    digits = 10 * digits + byte(i) - DIGIT_0
                i += 1
            if i == first:
                return -1, fraction, i
            fraction = digits / POWERS_OF_TEN[np.uint64(min(i - first, MAX_FRACTION_DIGITS))]
    return hour * HOUR_S + minute * MINUTE_S + second, fraction, i


@part
def read_offset(i):  # type: ignore[no-untyped-def]
    """The offset ``Z`` or ``+HH[[:]MM]`` at `i`: the form that it makes of a time, its seconds, and where it ends."""
    c = byte(i)
    if c | LOWER == LOWER_Z:
        return EXACT, 0, i + 1
    if c != PLUS and c != MINUS:
        return WALL, 0, i
    hours, minutes = two_digits(i + 1), 0
    i += 3
    if byte(i) == COLON:
        i += 1
        minutes = two_digits(i)
        i += 2
    elif two_digits(i) >= 0:
        minutes = two_digits(i)
        i += 2
    if not 0 <= hours <= 23 or not 0 <= minutes <= 59:
        return NO_TIME, 0, i
    offset_s = hours * HOUR_S + minutes * MINUTE_S
    return EXACT, -offset_s if c == MINUS else offset_s, i


@part
def read_time(i, end, zone):  # type: ignore[no-untyped-def]
    """The time that the text from `i` to `end` is: its form, its seconds, and what the clock on the wall shows.

    Behind the text stands a byte that is no digit, sign, letter or other mark of a time.
    """
    none = NO_TIME, 0.0, 0
    if end - i < SHORTEST:
        return none
    days, has_date = read_date(i)
    if not has_date:
        return none
    wall_s, fraction, form, offset_s = days * DAY_S, 0.0, DATE, 0
    i += SHORTEST
    if i != end:
        if byte(i) | LOWER != LOWER_T and byte(i) != SPACE:
            return none
        of_day_s, fraction, i = read_clock(i + 1)
        form, offset_s, i = read_offset(i)
        if of_day_s < 0 or form == NO_TIME or i != end:
            return none
        wall_s += of_day_s
    if form == EXACT:
        seconds = wall_s - offset_s
        wall_s = seconds + find_offset(zone, seconds, AT_UTC)
    else:
        seconds = wall_s - find_offset(zone, wall_s, AT_WALL)
    return form, seconds + fraction, wall_s


@part
def read_epoch(x, zone):  # type: ignore[no-untyped-def]
    """The time that a number is, as `read_time` has it."""
    size = abs(x)
    if size >= MOST_NANOS:
        return NO_TIME, 0.0, 0
    if size >= MOST_MICROS:
        x /= 1e9
    elif size >= MOST_MILLIS:
        x /= 1e6
    elif size >= MOST_SECONDS:
        x /= 1e3
    seconds = np.int64(np.floor(x))
    return EXACT, x, seconds + find_offset(zone, seconds, AT_UTC)


@entry
def read_text(text, n_bytes, zone):  # type: ignore[no-untyped-def]
    return read_time(text, text + n_bytes, zone)


@entry
def read_number_as_time(x, zone):  # type: ignore[no-untyped-def]
    return read_epoch(x, zone)

"""Time zones by their IANA names: when their offset from UTC changes.

They come from the package tzdata and not from the system, so that an event means the same on every machine with the
same packages.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import NamedTuple
from zoneinfo import ZoneInfo

from flexihash.model.model_errors import ConfigurationError

UTC = "UTC"
DAY_S = 86_400
FIRST_S, LAST_S = 0, 47_481 * DAY_S  # 1970 to 2100; before and after, the offset stays as it is at these ends
STEP_S = 7 * DAY_S  # in which no zone changes twice


class Change(NamedTuple):
    """A zone's offset becomes `offset_s`: at `utc_s`, seconds since 1970, and by the clock on the wall at `wall_s`."""

    utc_s: int
    wall_s: int
    offset_s: int


@cache
def zone_names() -> frozenset[str]:
    """The names of all zones, old ones too."""
    return frozenset((files("tzdata") / "zones").read_text("utf-8").split())


def check_zone(name: str) -> None:
    """Looks a zone up.

    Raises:
        ConfigurationError: there is none of this name.
    """
    if name not in zone_names():
        raise ConfigurationError(f"time_zone must be an IANA name such as America/New_York, or {UTC}, not {name!r}")


def find_changes(name: str) -> tuple[int, list[Change]]:
    """A zone's offset in 1970, in seconds to the east, and its changes up to 2100, in order of time.

    On the wall a change comes at the later of what the clock shows before and after it. So a time that comes twice is
    the first of both, and one that is left out is counted on from before: what Python does with ``fold=0``.

    Raises:
        ConfigurationError: there is no zone of this name.
    """
    if name == UTC:  # which most have: nothing need be read
        return 0, []
    check_zone(name)
    with (files("tzdata") / "zoneinfo").joinpath(*name.split("/")).open("rb") as file:
        zone = ZoneInfo.from_file(file, name)
    first = before = _offset_s(FIRST_S, zone)
    changes = []
    for begin_s in range(FIRST_S, LAST_S, STEP_S):
        after = _offset_s(begin_s + STEP_S, zone)
        if after != before:
            utc_s = _first_with(after, range(begin_s, begin_s + STEP_S), zone)
            changes.append(Change(utc_s, utc_s + max(before, after), after))
            before = after
    return first, changes


def _first_with(offset_s: int, seconds: range, zone: ZoneInfo) -> int:
    """The first of these seconds that has an offset, or the one behind them all."""
    return seconds.start + bisect_left(seconds, True, key=lambda second: _offset_s(second, zone) == offset_s)


def _offset_s(moment_s: int, zone: ZoneInfo) -> int:
    offset = datetime.fromtimestamp(moment_s, zone).utcoffset()
    assert offset is not None
    return round(offset.total_seconds())

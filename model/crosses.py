"""Crosses: which features are also learned in pairs, by their names. The kernel's `crossing` makes the pairs."""

from __future__ import annotations

from functools import lru_cache

from flexihash.model.model_errors import ConfigurationError
from flexihash.model.patterns import matches

STAR = "*"
EVERY_PAIR = STAR, STAR
MOST_CROSSES = 24  # a feature's sides have two bits for each, and lie in a word beside other bits
NAMES_CACHED = 1 << 16  # names are unbounded, memory is not
LEFT_SIDES = sum(1 << (2 * k) for k in range(MOST_CROSSES))  # the other bits are the right ones


def parse_cross(text: str) -> tuple[str, str]:
    """The two patterns of a cross: ``origin*dest``, or ``user.* * item_id`` with spaces around the star between them.

    A star alone is every pair.

    Raises:
        ConfigurationError: it is not clear which star parts them, or there is nothing on one side of it.
    """
    if text == STAR:
        return EVERY_PAIR
    sides = tuple(map(str.strip, text.split(f" {STAR} ") if f" {STAR} " in text else text.split(STAR)))
    if len(sides) != 2 or not all(sides):
        raise ConfigurationError(
            f"crosses must be pairs such as origin*dest, with spaces around the star where a pattern has one, such as"
            f" user.* * item_id, or * for every pair, not {text!r}"
        )
    return sides[0], sides[1]


def check_crosses(crosses: tuple[str, ...]) -> None:
    """Looks at all of them.

    Raises:
        ConfigurationError: one is not to be understood, or there are too many.
    """
    if len(crosses) > MOST_CROSSES:
        raise ConfigurationError(f"crosses must be at most {MOST_CROSSES}, not {len(crosses)}: use patterns")
    for cross in crosses:
        parse_cross(cross)


@lru_cache(maxsize=NAMES_CACHED)
def find_sides(name: str, crosses: tuple[str, ...]) -> int:
    """Where a feature of this name stands: bit 2 k is set on the left of cross k, bit 2 k + 1 on its right."""
    sides = 0
    for k, cross in enumerate(crosses):
        left, right = parse_cross(cross)
        sides |= (matches(name, left) | matches(name, right) << 1) << 2 * k
    return sides

"""From decimal digits to the nearest float64."""

from __future__ import annotations

import math

import numpy as np

from flexihash.model.compiled import part

MAX_EXACT_MANTISSA = 1 << 53  # float64 holds every integer up to here
MAX_EXACT_POWER = 22  # and every power of ten up to this one
MAX_POWER = 280  # decimal exponents within are sure to give ordinary float64s, below `model.features.MAX_MAGNITUDE`
POWERS = np.array([10.0**exponent for exponent in range(MAX_EXACT_POWER + 1)])


def _leading_bits(exponent: int) -> int:
    """The first 128 bits of 5**exponent, the rest cut off."""
    power: int = 5 ** abs(exponent)
    if exponent >= 0:
        return (power << 128) >> power.bit_length()
    return (1 << (power.bit_length() + 127)) // power


_FIVES = [_leading_bits(exponent) for exponent in range(-MAX_POWER, MAX_POWER + 1)]
FIVES = np.array([bits >> 64 for bits in _FIVES], np.uint64)
FIVES_BELOW = np.array([bits & ((1 << 64) - 1) for bits in _FIVES], np.uint64)


@part
def multiply(x, y):  # type: ignore[no-untyped-def]
    """The upper and the lower 64 bits of a product."""
    half = np.uint64(32)
    mask = np.uint64(0xFFFFFFFF)
    a, b, c, d = x >> half, x & mask, y >> half, y & mask
    middle = ((b * d) >> half) + ((a * d) & mask) + b * c
    return a * c + ((a * d) >> half) + (middle >> half), x * y


@part
def scale(mantissa, exponent):  # type: ignore[no-untyped-def]
    """The float64 nearest to mantissa * 10**exponent; -1 where that is not sure.

    Two numbers that float64 holds need one rounding (Clinger 1990). For others the first bits of the product nearly
    always settle it (Eisel and Lemire, "Number parsing at a gigabyte per second", 2021).
    """
    while exponent < 0 and mantissa > np.uint64(MAX_EXACT_MANTISSA) and mantissa % np.uint64(10) == np.uint64(0):
        mantissa //= np.uint64(10)
        exponent += 1
    if exponent == 0 or mantissa == np.uint64(0):
        return np.float64(mantissa)
    if mantissa <= np.uint64(MAX_EXACT_MANTISSA) and -MAX_EXACT_POWER <= exponent <= MAX_EXACT_POWER:
        power = POWERS[np.uint64(abs(exponent))]
        return np.float64(mantissa) * power if exponent > 0 else np.float64(mantissa) / power
    if not -MAX_POWER <= exponent <= MAX_POWER:
        return -1.0
    shift = 0
    while mantissa < np.uint64(1 << 63):
        mantissa <<= np.uint64(1)
        shift += 1
    high, low = multiply(mantissa, FIVES[np.uint64(exponent + MAX_POWER)])
    ends = np.uint64(0x1FF)
    if high & ends == ends:  # what is missing below might carry into the answer
        more, _ = multiply(mantissa, FIVES_BELOW[np.uint64(exponent + MAX_POWER)])
        low += more
        high += np.uint64(low < more)
        if high & ends == ends and low == ~np.uint64(0):
            return -1.0
    is_upper = np.int64(high >> np.uint64(63))
    bits = high >> np.uint64(9 + is_upper)  # 54 of them, the last to round by
    if high & ends == np.uint64(0) and low == np.uint64(0) and bits & np.uint64(3) == np.uint64(1):  # about halfway
        return -1.0
    bits = (bits + (bits & np.uint64(1))) >> np.uint64(1)
    # 217706 / 2**16 is log2(10), near enough for every exponent here.
    return math.ldexp(np.float64(bits), ((217706 * exponent) >> 16) + 11 + is_upper - shift)
